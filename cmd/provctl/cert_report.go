package main

import (
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/server/api"
)

// sayReport tells everything that is worth saying about a certificate; whole
// with the digest of every certificate, else of the roots only.
func (p *program) sayReport(r *api.CertificateReport, whole bool) {
	p.say("certificate %s\n  names      %s\n", r.ID, strings.Join(r.Names, ", "))
	p.say("  valid      %s to %s, %d days left\n", day(r.NotBefore), day(r.NotAfter), r.DaysLeft)
	if r.Request != "" {
		p.say("  request    %s\n", r.Request)
	}
	for i, c := range r.Chains {
		p.say("  chain %d    ends in %s\n", i+1, c.Root)
		for depth, k := range c.Certs {
			in := strings.Repeat("  ", depth+2)
			p.say("%s%s  %s, %s, until %s\n", in, k.Name, k.Key, k.Signature, day(k.NotAfter))
			if whole || k.Firmware != "" {
				p.say("%ssha256 %s\n", in, k.SHA256)
			}
			if k.Firmware != "" {
				p.say("%ssha1   %s\n%s%s\n", in, k.SHA1, in, k.Firmware)
			}
		}
	}
	var serves []string
	for _, s := range r.Serves {
		serves = append(serves, s.String())
	}
	p.say("  serves     %s\n", cell(serves))
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
	p.print(t)
	for _, f := range r.Findings {
		p.say("  %s %s: %s\n", f.Severity, f.Code, f.Detail)
	}
	for _, d := range r.Differences {
		p.say("  differs from the request: %s: asked %s, issued %s\n", d.Field, d.Asked, d.Issued)
	}
	p.lines("  left aside: %s\n", r.LeftAside)
	p.lines("  not part of any chain of it: %s\n", r.Unrelated)
	p.lines("  ignored: %s\n", r.Ignored)
	p.lines("  fetched from %s\n", r.Fetched)
}

// lines says each of some things in a line of its own.
func (p *program) lines(format string, list []string) {
	for _, s := range list {
		p.say(format, s)
	}
}

func (p *program) sayGroups(title string, groups []api.CertificateGroup) {
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
	p.print(t)
}
