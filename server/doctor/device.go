package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
)

// device tries the road to one device as far as it goes without a password, and
// changes nothing there.
func (v *visit) device(ctx context.Context) []Check {
	if !v.c.Sample.IsValid() {
		return one("device", Skip, "", "no road to a device was tried: doctor.sample_device names none")
	}
	at := netip.AddrPortFrom(v.c.Sample, v.c.Port)
	name := "device:" + v.c.Sample.String()
	ctx, cancel := context.WithTimeout(ctx, 14*time.Second)
	defer cancel()
	d := session.NewDialer(session.Config{
		Control:        session.EgressGuard(v.c.Networks, func() []netip.Addr { return v.own }),
		ConnectTimeout: 3 * time.Second, HandshakeTimeout: 6 * time.Second, CallTimeout: 5 * time.Second, RefusedPatience: -1, Now: v.c.Now,
	}, nil, nil)
	t := session.Target{Addr: at, MinTLS: v.c.MinTLS, Client: v.shown()}
	s, err := d.Dial(ctx, t)
	if err != nil {
		return v.stopped(name, at, err, "")
	}
	defer s.Close()
	p := s.Peer()
	road := fmt.Sprintf("TCP and TLS (%s, %s) reach %s", tls.VersionName(p.TLSVersion), tls.CipherSuiteName(p.Cipher), at)
	if p.ClientCertSent {
		road += ", and it took our certificate"
	}
	id, err := s.Identify(ctx)
	if err != nil {
		return v.stopped(name, at, err, road)
	}
	return one(name, Pass, "", "%s; WS-MAN answers: AMT %s, %s", road, id.Version, id.UUID)
}

// shown is the certificate to show: the first that can be used.
func (v *visit) shown() *tls.Certificate {
	for _, p := range v.loaded() {
		if p.Usable() && len(p.Paths) > 0 {
			return p.TLS(p.Paths[0])
		}
	}
	return nil
}

// stopped says where on the road it ended: TCP, TLS, the chain, digest or WS-MAN.
func (v *visit) stopped(name string, at netip.AddrPort, err error, road string) []Check {
	code := reason.InternalError
	var why *reason.Error
	if errors.As(err, &why) {
		code = why.Code
	}
	entry := reason.Of(code)
	hint := ""
	if len(entry.Fix) > 0 {
		hint = entry.Fix[0]
	}
	if road != "" {
		road += "; "
	}
	switch code {
	case reason.NetworkNotAllowed:
		return one(name, Warn, fmt.Sprintf("provisioning.networks: [%s]", at.Addr()), "%snot tried: %v", road, err)
	case reason.DeviceUnreachable:
		return one(name, Fail, "is it on, on the wired network, and TCP 16993 open from here? Without TLS a device listens on 16992",
			"it stops at TCP: %v", err)
	case reason.TLSClientCertRefused, reason.TLSSuffixRejected, reason.RootNotTrusted:
		return one(name, Fail, hint, "%sit stops at the chain: %v (%s)", road, err, code)
	case reason.TLSVersionRefused, reason.TLSHandshakeFailed, reason.TLSPeerCertInvalid, reason.TLSRenegotiationRefused,
		reason.TLSPinnedKeyChanged:
		return one(name, Fail, hint, "%sit stops at TLS: %v (%s)", road, err, code)
	case reason.AuthFailed, reason.CredentialsUnknown, reason.RealmChanged:
		return one(name, Pass, "", "%sit stops at digest: the device asks for a password, as a managed one does, and the doctor has none",
			road)
	case reason.AccountLocked:
		return one(name, Warn, hint, "%sit stops at digest: %v", road, err)
	}
	return one(name, Fail, hint, "%sit stops at WS-MAN: %v (%s)", road, err, code)
}
