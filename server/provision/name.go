package provision

import (
	"context"
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
		if err := r.nameDevice(); err != nil {
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

// nameDevice decides the name: what an operator or a name source said, what the
// device had before, else the profile's pattern.
func (r *Run) nameDevice() error {
	if r.host != "" {
		return nil
	}
	if host, domain, ok := strings.Cut(r.FQDN, "."); r.FQDN != "" {
		if !ok {
			domain = ""
		}
		if err := profile.CheckLabel(host); err != nil {
			return reason.Because(reason.IdentityIncomplete, "name %q: %w", r.FQDN, err)
		}
		r.host, r.domain = host, domain
	} else {
		host, domain, err := r.Profile.FQDN(profile.Facts{
			UUID: r.Job.Device.UUID, MAC: r.Identity.MAC, Serial: r.Job.Device.Serial, Address: r.Job.Device.Address,
			Suffix:            first(r.Identity.TrustedSuffix, r.Identity.DHCPSuffix),
			CertificateDomain: r.certificateDomain(),
		})
		if err != nil {
			return reason.Because(reason.IdentityIncomplete, "%w", err)
		}
		r.host, r.domain = host, domain
	}
	r.facts.HostName, r.facts.Domain = r.host, r.domain
	return nil
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

// named gives a device's refusal the step's own reason. What has a reason of
// its own keeps it, and so does a refusal that passes by itself where the
// step's reason would call for a person.
func named(code reason.Code, err error) error {
	var st amt.Status
	if !asStatus(err, &st) || codeOf(err) != reason.WSMANFault {
		return err
	}
	passes := st == amt.StatusInternalError || st.Class() == amt.ClassWait || st.Class() == amt.ClassFlash
	if passes && reason.Of(code).Retry != reason.Repeat {
		return err
	}
	return &reason.Error{Code: code, Sent: sent(err), Err: err}
}

func isAnyStatus(err error) bool {
	var st amt.Status
	return asStatus(err, &st)
}
