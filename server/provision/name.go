package provision

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/profile"
)

// setHostName gives the device its name: with DHCP a host name is a
// precondition of commit (go-wsman-messages, setupandconfiguration).
var setHostName = Step{
	Name:  "set_host_name",
	Setup: true,
	Done: func(ctx context.Context, r *Run) (bool, error) {
		if err := r.nameDevice(ctx); err != nil {
			return false, err
		}
		return strings.EqualFold(r.Identity.HostName, r.host) && strings.EqualFold(r.Identity.DomainName, r.domain), nil
	},
	Apply: func(ctx context.Context, r *Run) error {
		if err := r.Device.SetHostName(ctx, r.host, r.domain); err != nil {
			return err
		}
		r.Identity.HostName, r.Identity.DomainName = r.host, r.domain
		return nil
	},
}

// claimName decides what the device is called before anything of it is changed: a
// name in a domain of ours that no other device has. A device that names a suffix
// under which firmware would have refused our certificate is none.
var claimName = Step{
	Name:  "claim_name",
	Setup: true,
	Done: func(ctx context.Context, r *Run) (bool, error) {
		if err := r.suffixFits(); err != nil {
			return false, err
		}
		return true, r.nameDevice(ctx)
	},
}

// suffixFits holds the suffix that the device reports against the certificate that
// it accepted: real firmware compared the two before it let us in.
func (r *Run) suffixFits() error {
	suffix := first(r.Identity.TrustedSuffix, r.Identity.DHCPSuffix)
	if suffix == "" || !r.setup || r.cert.Cert == nil {
		return nil
	}
	for _, v := range []amt.Version{r.Identity.Version, {}} { // what it says of its release may be part of it
		if r.cert.Cert.Covers(suffix, v).OK {
			return nil
		}
	}
	return reason.Because(reason.SuffixContradiction,
		"the device at %s took the certificate %s and says that its suffix is %s, under which firmware refuses that certificate",
		r.Job.Device.Address, r.cert.Cert.Name, suffix)
}

// nameDevice decides the name: what an operator or a name source said, what the
// device had before, else the profile's pattern. The name is the device's alone
// from then on. One that a managed device bears already it keeps: an earlier release
// gave some to two.
func (r *Run) nameDevice(ctx context.Context) error {
	if r.host != "" {
		return nil
	}
	wanted, err := r.wantedNames()
	if err != nil {
		return err
	}
	bears := ""
	if d := r.Job.Device; r.Job.Run.Kind != KindProvision && d.HostName != "" {
		bears = strings.ToLower(join(d.HostName, d.Domain))
	}
	var holder amt.UUID
	for _, name := range wanted {
		host, domain, _ := strings.Cut(name, ".")
		if name != bears {
			if err := r.servesDomain(domain); err != nil {
				return err
			}
			if holder, err = r.claim(ctx, name, bears); err != nil {
				return err
			}
			if holder != r.Job.Device.UUID {
				continue
			}
		}
		r.host, r.domain = host, domain
		r.facts.HostName, r.facts.Domain = host, domain
		return nil
	}
	return reason.Because(reason.NameTaken, "the name %s is of the device %s: retire that one if it is gone, or give this one another: "+
		"provctl device name %s FQDN", wanted[len(wanted)-1], holder, r.Job.Device.UUID)
}

// wantedNames are the names the device may get, the best first: the one that was
// given to it, or those of the pattern.
func (r *Run) wantedNames() ([]string, error) {
	hosts, domain, err := r.Profile.Names(profile.Facts{
		UUID: r.Job.Device.UUID, MAC: r.Identity.MAC, Serial: r.Job.Device.Serial, Address: r.Job.Device.Address,
		Suffix:            first(r.Identity.TrustedSuffix, r.Identity.DHCPSuffix),
		CertificateDomain: r.certificateDomain(),
	})
	var pattern []string
	for _, h := range hosts {
		pattern = append(pattern, strings.ToLower(join(h, domain)))
	}
	given := strings.ToLower(r.FQDN)
	if given == "" {
		if err != nil {
			return nil, reason.Because(reason.IdentityIncomplete, "%w", err)
		}
		return pattern, nil
	}
	host, _, _ := strings.Cut(given, ".")
	if err := profile.CheckLabel(host); err != nil {
		return nil, reason.Because(reason.IdentityIncomplete, "name %q: %w", r.FQDN, err)
	}
	if i := slices.Index(pattern, given); i >= 0 { // the pattern's own, from an earlier set-up
		return append([]string{given}, slices.Delete(pattern, i, i+1)...), nil
	}
	return []string{given}, nil
}

// servesDomain refuses a name outside the domains that are ours. The profile's own
// domain is a person's word.
func (r *Run) servesDomain(domain string) error {
	if r.e.ServesDomain == nil || domain == "" || strings.EqualFold(domain, strings.Trim(r.Profile.Domain, ". ")) ||
		r.e.ServesDomain(domain) {
		return nil
	}
	return reason.Because(reason.DomainNotAllowed,
		"the device would be called by a name in %s, which lies neither in zones, nor in provisioning.other_domains, nor in the domain "+
			"of a provisioning certificate in use", domain)
}

func (r *Run) claim(ctx context.Context, name, bears string) (amt.UUID, error) {
	if r.e.Name == nil {
		return r.Job.Device.UUID, nil
	}
	holder, err := r.e.Name(ctx, r.lease.Lease, name, bears)
	if err != nil {
		return holder, storeError("claim the name "+name, err)
	}
	return holder, nil
}

// certificateDomain is what follows the host in the name of the certificate the
// device accepted.
func (r *Run) certificateDomain() string {
	if r.cert.Cert == nil {
		return ""
	}
	_, domain, _ := strings.Cut(strings.TrimPrefix(r.cert.Cert.Name, "*."), ".")
	return domain
}

func (r *Run) fqdn() string {
	if r.domain == "" {
		return r.host
	}
	return r.host + "." + r.domain
}

func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

func hours(n int) time.Duration { return time.Duration(n) * time.Hour }

// named gives a device's refusal the step's own reason.
func named(code reason.Code, err error) error {
	st, ok := errors.AsType[amt.Status](err)
	if !ok {
		return err
	}
	return reason.Named(code, err, st.Passes())
}
