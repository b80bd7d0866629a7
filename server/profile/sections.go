package profile

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Sections are what a profile may want of a device beyond its ownership. What is
// absent is neither touched nor compared. Each section stands in a file of its own,
// with its limits; server/provision holds the classes of the firmware beside them.
type Sections struct {
	Network     *Network     `json:"network,omitempty" yaml:"network,omitempty"`
	Time        *TimeSync    `json:"time,omitempty" yaml:"time,omitempty"`
	Redirection *Redirection `json:"redirection,omitempty" yaml:"redirection,omitempty"`
	Consent     *Consent     `json:"consent,omitempty" yaml:"consent,omitempty"`
	Power       *Power       `json:"power,omitempty" yaml:"power,omitempty"`
	Users       *Users       `json:"users,omitempty" yaml:"users,omitempty"`

	// Required names settings that a device must have: where its firmware lacks one,
	// the device is not as its profile wants it. Others are left out there.
	Required []string `json:"required,omitempty" yaml:"required,omitempty"`
	// Drift is what happens to a setting that differs from the profile: "mend", also
	// when empty, or "report".
	Drift string `json:"drift,omitempty" yaml:"drift,omitempty"`
}

// Settings are the names of the settings in the order in which a device gets them,
// which is that of server/provision.
var Settings = []string{"network", "time", "web_ui", "redirection", "kvm", "kvm_details", "consent", "power", "users"}

// Wanted reports whether the profile wants anything beyond ownership.
func (s *Sections) Wanted() bool {
	return s.Network != nil || s.Time != nil || s.Redirection != nil || s.Consent != nil || s.Power != nil || s.Users != nil
}

// Mends reports whether a setting that differs is put right.
func (s *Sections) Mends() bool { return s.Drift != "report" }

// problems collects what is wrong with a document, each with its key.
type problems struct{ list []error }

func (p *problems) add(key, format string, args ...any) {
	p.list = append(p.list, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
}

// word refuses a text that is none of the words a key takes.
func (p *problems) word(key, value string, words ...string) {
	if value == "" {
		return
	}
	for _, w := range words {
		if value == w {
			return
		}
	}
	p.add(key, "%q is not one of %s", value, strings.Join(words, ", "))
}

// within refuses a time outside the firmware's bounds, or one that it cannot count.
func (p *problems) within(key string, d *Duration, unit, low, high time.Duration) {
	if d == nil {
		return
	}
	switch v := time.Duration(*d); {
	case v < low || v > high:
		p.add(key, "%s is not between %s and %s", d, Duration(low), Duration(high))
	case v%unit != 0:
		p.add(key, "firmware counts whole steps of %s, and %s is none", Duration(unit), d)
	}
}

func (s *Sections) validate(p *problems, admin string) {
	s.Network.validate(p)
	s.Redirection.validate(p)
	s.Consent.validate(p)
	s.Power.validate(p)
	s.Users.validate(p, admin)
	for _, name := range s.Required {
		p.word("required", name, Settings...)
	}
	p.word("drift", s.Drift, "mend", "report")
}

// A Duration is written as in "90s", "10m" or "24h".
type Duration time.Duration

// String leaves out the parts that are zero: 10m, not 10m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes what time.ParseDuration takes, and days.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n <= 36500 {
			*d = Duration(time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is not a time such as 90s, 10m, 24h or 7d", s)
	}
	*d = Duration(v)
	return nil
}
