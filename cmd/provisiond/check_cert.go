package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/desk"
)

// checkCertificate is provctl cert check: it starts a simulated device of the
// release asked for on a loopback address, connects to it as the daemon would,
// and puts the device's answer into words.
//
// What the device trusts: the roots that firmware of its generation carries;
// those of the certificate too when recorded devices of its age announced them
// (seen), or when the question says that they were added.
func checkCertificate(ctx context.Context, p *certs.Provisioning, q desk.Question, seen bool) (desk.Verdict, error) {
	cfg := sim.Config{Personality: stands(q.Version), Suffix: q.Suffix, Log: zap.NewNop()}
	if _, err := rand.Read(cfg.UUID[:]); err != nil {
		return desk.Verdict{}, err
	}
	if seen || q.RootAdded {
		for _, path := range p.Paths {
			cfg.Roots = append(cfg.Roots, path.RootHashes...)
		}
	}
	d, err := startCheck(cfg)
	if err != nil {
		return desk.Verdict{}, err
	}
	defer d.Close()
	firmware := d.Personality()
	v := desk.Verdict{Firmware: firmware.Version.String(), Suffix: q.Suffix}

	announced := slices.Clone(firmware.Hashes)
	for _, h := range cfg.Roots {
		if slices.Contains(firmware.Knows, h.Algorithm) {
			announced = append(announced, h)
		}
	}
	hints := certs.Hints{Suffix: q.Suffix, Version: firmware.Version, AllowExpired: true}
	found, matchErr := certs.Match([]*certs.Provisioning{p}, announced, hints, time.Now())
	if matchErr != nil && len(p.Paths) > 0 {
		// The daemon would not even connect; the device says what it thinks of it.
		found = []certs.Candidate{{Cert: p, Path: p.Paths[0]}}
	}
	var last error
	for _, c := range found {
		if last = shake(ctx, d, c, &v); last == nil {
			break
		}
	}
	v.DeviceSaid = slices.Compact(d.Snapshot().Refusals)
	if matchErr == nil {
		v.RootFrom = rootFrom(firmware, found[0].Path, seen)
	}
	device, cannot := inPlace(q.Version, firmware.Version)
	switch {
	case matchErr == nil && last == nil && cannot != "":
		v.Code = string(reason.FirmwareTooOld)
		v.Says = fmt.Sprintf("%s; %s in suffix %s would accept this certificate: %s%s", cannot, device, q.Suffix,
			p.Covers(q.Suffix, firmware.Version).Why, trustText(v.RootFrom, v.Root))
	case matchErr == nil && last == nil:
		v.Accepted = true
		v.Says = fmt.Sprintf("%s in suffix %s would ACCEPT this certificate: %s%s", device, q.Suffix,
			p.Covers(q.Suffix, firmware.Version).Why, trustText(v.RootFrom, v.Root))
		if out := p.Validity(time.Now()); out != nil && !p.Forced {
			v.Says += "; but this server does not use it: " + out.Error()
		}
	default:
		err := matchErr
		if err == nil {
			err = last
		}
		v.Code = string(reason.InternalError)
		var r *reason.Error
		if errors.As(err, &r) {
			v.Code = string(r.Code)
		}
		why := err.Error()
		if d := p.Covers(q.Suffix, firmware.Version); matchErr == nil && !d.OK {
			why = d.Why + " (" + why + ")"
		}
		v.Says = fmt.Sprintf("%s in suffix %s would REFUSE this certificate: %s", device, q.Suffix, why)
		if cannot != "" {
			v.Says = cannot + "; " + v.Says
		}
		if matchErr == nil && len(v.DeviceSaid) > 0 {
			v.Says += "; in the simulated device's own words: " + strings.Join(v.DeviceSaid, "; ")
		}
	}
	return v, nil
}

// newest is the newest release of which a device is simulated.
const newest = 19

// inPlace says which device answered for a release, and why this server cannot set
// one of that release up, "" when it can.
func inPlace(asked, simulated amt.Version) (device, cannot string) {
	device = "a device with AMT " + short(asked)
	if asked.Major != simulated.Major || !asked.AtLeast(3, 2) {
		device = fmt.Sprintf("a device with AMT %s, simulated in the place of one with AMT %s,", short(simulated), short(asked))
	}
	switch {
	case !asked.AtLeast(3, 2):
		cannot = fmt.Sprintf("this server cannot set up a device with AMT %s, whatever its certificate: 3.2 is the first release with "+
			"WS-MAN setup", short(asked))
	case asked.Major > newest:
		device += " of which none is known here, so that nobody has shown that this server can set one up,"
	}
	return device, cannot
}

// startCheck starts the device on a loopback address that nobody else uses.
func startCheck(cfg sim.Config) (*sim.Device, error) {
	var last error
	for range 8 {
		var b [2]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, err
		}
		cfg.Addr = netip.AddrFrom4([4]byte{127, 111, b[0], b[1]&0xfe | 1})
		d, err := sim.New(cfg)
		if err != nil {
			return nil, err
		}
		if last = d.Start(); last == nil {
			return d, nil
		}
		_ = d.Close()
	}
	return nil, fmt.Errorf("start a simulated device on a loopback address: %w", last)
}

// shake is the handshake and two questions over it.
func shake(ctx context.Context, d *sim.Device, c certs.Candidate, v *desk.Verdict) error {
	dialer := session.NewDialer(session.Config{HandshakeTimeout: 10 * time.Second, CallTimeout: 10 * time.Second, RefusedPatience: -1},
		zap.NewNop(), session.NewMetrics(prometheus.NewRegistry()))
	s, err := dialer.Dial(ctx, session.Target{
		Addr: d.Addr(), Client: c.Cert.TLS(c.Path),
		Logins: []session.Login{{Name: "factory", User: "admin", Password: amt.NewSecret("admin")}},
	})
	v.Chain = nil
	for _, cert := range c.Path.Certs {
		name := cert.Subject.CommonName
		if name == "" {
			name = cert.Subject.String()
		}
		v.Chain = append(v.Chain, name)
	}
	v.Root = rootName(c.Path)
	if err != nil {
		return err
	}
	defer s.Close()
	v.TLS = tls.VersionName(s.Peer().TLSVersion)
	_, err = s.Identify(ctx)
	return err
}

func rootName(p certs.Path) string {
	for _, h := range p.RootHashes {
		if name, ok := certs.RootName(h); ok {
			return name
		}
	}
	return p.Root().Subject.CommonName
}

// rootFrom says why the simulated device trusts a root, "" when it does not.
func rootFrom(firmware sim.Personality, p certs.Path, seen bool) string {
	for _, h := range p.RootHashes {
		if slices.ContainsFunc(firmware.Hashes, h.Equal) {
			return "firmware"
		}
	}
	if seen {
		return "devices"
	}
	return "added"
}

func trustText(from, root string) string {
	switch from {
	case "firmware":
		return fmt.Sprintf("; firmware of that age carries %s", root)
	case "devices":
		return fmt.Sprintf("; recorded devices of that age announced %s", root)
	}
	return fmt.Sprintf("; provided that the hash of %s has been added to it (USB, MEBx or maker)", root)
}

// stands names the simulated generation whose rules are those of a release, or
// of the one before it where a release is not simulated.
func stands(v amt.Version) string {
	switch {
	case v.Major <= 3:
		return "3.2"
	case v.Major <= 5:
		return "5"
	case v.Major == 6 && v.Minor < 2:
		return "6.1"
	case v.Major == 6:
		return "6"
	case v.Major <= 8:
		return "7"
	case v.Major <= 10:
		return "9"
	case v.Major == 11:
		return "11"
	case v.Major <= 14:
		return "12"
	case v.Major == 15:
		return "15"
	case v.Major <= 17:
		return "16"
	case v.Major == 18:
		return "18"
	}
	return "19"
}

func short(v amt.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }
