package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/profile"
)

// admissionOptions hands over who is let in, named and worked on.
func admissionOptions(p Provisioning, o *server.Options) {
	o.OTP, o.SetupWindow, o.Strangers = admit.OTPMode(p.OTP), p.SetupWindow, p.PendingDevices
	for _, s := range p.Names.Sources {
		o.Names = append(o.Names, profile.Source(s))
	}
	o.PerNetwork, o.AtOnce, o.BreakAfter, o.BreakFor = p.Limits.PerNetwork, p.Limits.Total, p.Limits.BreakAfter, p.Limits.BreakFor
}

// odca reads the roots of hardware certificates. A root that is not Intel's is
// taken, since a laboratory has its own, and said aloud.
func odca(ctx context.Context, c ODCA, log *zap.Logger, o *server.Options) error {
	o.ODCA = c.Policy
	if c.Roots == "" || o.ODCA == "off" {
		o.ODCA = "off"
		return nil
	}
	if o.ODCA == "" {
		o.ODCA = "prefer"
	}
	roots, err := authorities(ctx, "provisioning.odca.roots", c.Roots)
	if err != nil {
		return err
	}
	o.ODCARoots = x509.NewCertPool()
	for _, root := range roots {
		o.ODCARoots.AddCert(root)
		if sum := sha256.Sum256(root.Raw); hex.EncodeToString(sum[:]) != session.IntelODCARoot {
			log.Warn("odca.root", zap.String("subject", root.Subject.String()),
				zap.String("detail", "this is not Intel's root of hardware certificates, and what it signs is believed"))
		}
	}
	return nil
}

func (l *loader) odca(c ODCA) {
	if c.Roots == "" {
		if c.Policy == "prefer" || c.Policy == "require" {
			l.wrong("provisioning.odca.roots", "missing with policy "+c.Policy, "without a root no certificate can be verified",
				"odca: {roots: /etc/provisiond/odca.pem, policy: "+c.Policy+"}")
		}
		return
	}
	l.authorities("provisioning.odca.roots", c.Roots)
}

// resolver asks these DNS servers, one after the other, or this machine's.
func resolver(servers []string) *net.Resolver {
	if len(servers) == 0 {
		return &net.Resolver{}
	}
	var next atomic.Uint32
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		at, err := serverAddress(servers[int(next.Add(1)-1)%len(servers)])
		if err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, at.String())
	}}
}

// serverAddress reads address or address:port.
func serverAddress(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	return netip.ParseAddrPort(s)
}

// lookup is the way to the sources of names outside.
func lookup(ctx context.Context, n Names, resolvers []string) (admit.Lookup, error) {
	l := admit.Lookup{ReverseDNS: resolver(resolvers), Webhook: n.Webhook, Timeout: n.Timeout}
	if n.Webhook == "" {
		return l, nil
	}
	// No proxy: what is asked names a machine of this network.
	l.HTTP = &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConnsPerHost: 2, MaxConnsPerHost: 16, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 16 << 10}
	if n.WebhookCA != "" {
		list, err := authorities(ctx, "provisioning.names.webhook_ca", n.WebhookCA)
		if err != nil {
			return l, err
		}
		pool := x509.NewCertPool()
		for _, c := range list {
			pool.AddCert(c)
		}
		l.HTTP.TLSClientConfig.RootCAs = pool
	}
	return l, nil
}

func (l *loader) names(n Names) {
	if len(n.Sources) == 0 {
		l.wrong("provisioning.names.sources", "is empty", "a device could never be named", "sources: [assigned, pattern]")
	}
	if i := slices.Index(n.Sources, "pattern"); i >= 0 && i < len(n.Sources)-1 {
		l.wrong("provisioning.names.sources", fmt.Sprintf("%s stands behind pattern", n.Sources[i+1]),
			"pattern always answers, so what stands behind it is never asked", "sources: [assigned, reverse_dns, pattern]")
	}
	if n.Webhook == "" {
		if slices.Contains(n.Sources, "webhook") {
			l.wrong("provisioning.names.webhook", "missing while provisioning.names.sources names webhook", "",
				"webhook: https://cmdb.example.com/amt-name")
		}
		return
	}
	u, err := url.Parse(n.Webhook)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		l.wrong("provisioning.names.webhook", "want an https address", "", "webhook: https://cmdb.example.com/amt-name")
		return
	}
	if a, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !a.IsLoopback()) {
		l.wrong("provisioning.names.webhook", "http to another machine", "whoever sits between could name devices",
			"webhook: https://cmdb.example.com/amt-name")
	}
	if n.WebhookCA != "" {
		l.authorities("provisioning.names.webhook_ca", n.WebhookCA)
	}
}
