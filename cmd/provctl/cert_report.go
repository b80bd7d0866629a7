package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/provisiond/provisiond/server/api"
)

// say prints what may hold texts of a stranger's certificate.
func (p *program) say(format string, args ...any) { fmt.Fprintf(clean{p.out}, format, args...) }

// clean keeps what a certificate says from steering the terminal.
type clean struct{ w io.Writer }

// Write replaces control characters and marks that turn the direction of writing.
func (c clean) Write(b []byte) (int, error) {
	text := strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			return '\uFFFD'
		}
		return r
	}, string(b))
	if _, err := io.WriteString(c.w, text); err != nil {
		return 0, err
	}
	return len(b), nil
}

// printReport tells everything that is worth saying about a certificate; whole
// with the digest of every certificate, else of the roots only.
func (p *program) printReport(r *api.CertificateReport, whole bool) {
	p.say("certificate %s\n", r.ID)
	p.say("  names      %s\n", strings.Join(r.Names, ", "))
	p.say("  valid      %s to %s, %d days left\n", r.NotBefore.Format("2006-01-02"), r.NotAfter.Format("2006-01-02"), r.DaysLeft)
	if r.Request != "" {
		p.say("  request    %s\n", r.Request)
	}
	for i, c := range r.Chains {
		p.say("  chain %d    ends in %s\n", i+1, c.Root)
		for depth, k := range c.Certs {
			p.say("    %s%s  %s, %s, until %s\n", strings.Repeat("  ", depth), k.Name, k.Key, k.Signature, k.NotAfter.Format("2006-01-02"))
			in := strings.Repeat("  ", depth)
			if whole || k.Firmware != "" {
				p.say("    %ssha256 %s\n", in, k.SHA256)
			}
			if k.Firmware != "" {
				p.say("    %ssha1   %s\n    %s%s\n", in, k.SHA1, in, k.Firmware)
			}
		}
	}
	var serves []string
	for _, s := range r.Serves {
		serves = append(serves, s.String())
	}
	p.say("  serves     %s\n", dash(strings.Join(serves, ", ")))
	var t table
	for i := 0; i < len(r.Accepted); {
		first := r.Accepted[i]
		last := first
		for i++; i < len(r.Accepted) && r.Accepted[i].Answer == first.Answer && r.Accepted[i].Why == first.Why; i++ {
			last = r.Accepted[i]
		}
		which := "  AMT " + first.Version
		if last != first {
			which += " to " + last.Version
		}
		t.row(which, string(first.Answer), first.Why)
	}
	t.print(clean{p.out})
	for _, f := range r.Findings {
		p.say("  %s %s: %s\n", f.Severity, f.Code, f.Detail)
	}
	for _, d := range r.Differences {
		p.say("  differs from the request: %s: asked %s, issued %s\n", d.Field, d.Asked, d.Issued)
	}
	for _, a := range r.LeftAside {
		p.say("  left aside: %s\n", a)
	}
	for _, u := range r.Unrelated {
		p.say("  not part of any chain of it: %s\n", u)
	}
	for _, i := range r.Ignored {
		p.say("  ignored: %s\n", i)
	}
	for _, f := range r.Fetched {
		p.say("  fetched from %s\n", f)
	}
}

func (p *program) printGroups(title string, groups []api.CertificateGroup) {
	if len(groups) == 0 {
		return
	}
	p.say("%s\n", title)
	var t table
	for _, g := range groups {
		kind := "managed"
		if g.Waiting {
			kind = "waiting"
		}
		t.row(fmt.Sprintf("%7d", g.Devices), kind, "AMT "+g.Version, g.Suffix, strings.Join(g.Sample, ", "))
	}
	t.print(clean{p.out})
}
