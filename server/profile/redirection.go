package profile

import (
	"math"
	"time"
)

// Redirection is what a console can open on a device: its serial line, its drives,
// its screen, and firmware's own web page.
type Redirection struct {
	SOL      *bool `json:"sol,omitempty" yaml:"sol,omitempty"`
	IDER     *bool `json:"ider,omitempty" yaml:"ider,omitempty"`
	Listener *bool `json:"listener,omitempty" yaml:"listener,omitempty"` // ports 16994 and 16995
	WebUI    *bool `json:"web_ui,omitempty" yaml:"web_ui,omitempty"`
	KVM      *KVM  `json:"kvm,omitempty" yaml:"kvm,omitempty"`
}

// KVM is the device's screen, keyboard and mouse. Standard Manageability has none.
type KVM struct {
	Enabled *bool `json:"enabled,omitempty" yaml:"enabled,omitempty"`
	// SessionTimeout ends an idle session; firmware counts minutes, 0 is never.
	SessionTimeout *Duration `json:"session_timeout,omitempty" yaml:"session_timeout,omitempty"`
}

func (r *Redirection) validate(p *problems) {
	if r == nil || r.KVM == nil {
		return
	}
	p.within("redirection.kvm.session_timeout", r.KVM.SessionTimeout, time.Minute, 0, 255*time.Minute)
}

// Consent is when the person at the PC is asked for a code.
type Consent struct {
	// Required is "none", "kvm" or "all".
	Required string `json:"required,omitempty" yaml:"required,omitempty"`
	// CodeTimeout is how long the code is good for, DisplayTimeout how long it stands
	// on the screen.
	CodeTimeout    *Duration `json:"code_timeout,omitempty" yaml:"code_timeout,omitempty"`
	DisplayTimeout *Duration `json:"display_timeout,omitempty" yaml:"display_timeout,omitempty"`
}

func (c *Consent) validate(p *problems) {
	if c == nil {
		return
	}
	p.word("consent.required", c.Required, "none", "kvm", "all")
	p.within("consent.code_timeout", c.CodeTimeout, time.Second, time.Minute, 15*time.Minute)
	p.within("consent.display_timeout", c.DisplayTimeout, time.Second, 0, math.MaxUint16*time.Second)
}

// Power is in which states of the PC its firmware answers.
type Power struct {
	// Package is "always", "on_in_s0" (deaf while the PC is off), or the description
	// of a package exactly as the device gives it.
	Package string `json:"package,omitempty" yaml:"package,omitempty"`
	// IdleWakeTimeout is after how long without traffic firmware sleeps while the PC
	// is off; the next packet wakes it.
	IdleWakeTimeout *Duration `json:"idle_wake_timeout,omitempty" yaml:"idle_wake_timeout,omitempty"`
}

func (w *Power) validate(p *problems) {
	if w == nil {
		return
	}
	p.within("power.idle_wake_timeout", w.IdleWakeTimeout, time.Minute, time.Minute, 65535*time.Minute)
	if len(w.Package) > 128 {
		p.add("power.package", "want always, on_in_s0 or a device's own description of up to 128 characters")
	}
}
