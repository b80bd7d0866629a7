package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/typed"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store/seal"
)

var (
	dnsName  = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
	nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	braces   = regexp.MustCompile(`\{[^}]*\}`)
)

// validate checks what a single value cannot show by itself, and what lies
// outside the file.
func (l *loader) validate() {
	c := &l.cfg
	if c.DataDir == "" {
		l.wrong("data_dir", "is empty", "something has to survive a restart", "data_dir: /var/lib/provisiond")
	} else if info, err := os.Stat(c.DataDir); err == nil && !info.IsDir() {
		l.wrong("data_dir", fmt.Sprintf("%q is a file", c.DataDir), "a directory is wanted here", "data_dir: /var/lib/provisiond")
	}
	l.database(c.Database)
	l.masterKey(c.MasterKey)
	l.listens(c)

	if p := c.Hello.ClientCA; p != "" {
		l.authorities("hello.client_ca", p)
	} else if !c.Hello.Plain {
		l.wrong("hello.plain", "false without hello.client_ca", "neither kind of hello could come in",
			"hello: {plain: false, client_ca: /etc/provisiond/relays.pem}")
	}
	l.apiTLS(c.API)
	l.certificates(c.Provisioning.Certificates)
	l.profile(c.Provisioning.Profile)
	l.names(c.Provisioning.Names)
	l.odca(c.Provisioning.ODCA)
	if r := c.Provisioning.Retry; r.Max < r.First {
		l.wrong("provisioning.retry.max", fmt.Sprintf("%s is less than retry.first, %s", r.Max, r.First),
			"the wait grows from first to max", "retry: {first: 30s, max: 1h}")
	}
	if p := c.Provisioning; p.AttemptTimeout < p.CallTimeout {
		l.wrong("provisioning.attempt_timeout", "less than provisioning.call_timeout", "an attempt is many calls", "attempt_timeout: 10m")
	}
	for i, z := range c.Zones {
		if z = strings.TrimSuffix(z, "."); !dnsName.MatchString(z) {
			l.wrong(fmt.Sprintf("zones[%d]", i), fmt.Sprintf("%q is not a DNS zone", amt.Clip(z)), "letters, digits, hyphens and dots",
				"zones: [corp.example.com]")
		}
	}
	for i, z := range c.Provisioning.OtherDomains {
		if z = strings.TrimSuffix(z, "."); !dnsName.MatchString(z) {
			l.wrong(fmt.Sprintf("provisioning.other_domains[%d]", i), fmt.Sprintf("%q is not a DNS domain", amt.Clip(z)),
				"letters, digits, hyphens and dots", "other_domains: [branch.example.net]")
		}
	}
	if p := c.Provisioning; p.ConstrainCA && len(c.Zones)+len(p.OtherDomains) == 0 {
		l.wrong("provisioning.constrain_device_ca", "true without zones", "the authority could sign for nothing",
			"zones: [corp.example.com]")
	}
	if e := c.Tracing.OTLPEndpoint; e != "" {
		if u, err := url.Parse(e); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			l.wrong("tracing.otlp_endpoint", "want an http or https address", "spans go by OTLP over HTTP",
				"otlp_endpoint: http://127.0.0.1:4318")
		}
	}
	if d := c.Doctor.SampleDevice; d != "" {
		if _, err := netip.ParseAddr(d); err != nil {
			l.wrong("doctor.sample_device", fmt.Sprintf("%q is not an address", amt.Clip(d)), "", "sample_device: 10.20.3.4")
		}
	}
	for i, r := range c.Provisioning.Resolvers {
		if _, err := serverAddress(r); err != nil {
			l.wrong(fmt.Sprintf("provisioning.resolvers[%d]", i), fmt.Sprintf("%q is neither an address nor address:port", r), "",
				"resolvers: [10.20.0.53]")
		}
	}
	for i, p := range c.Doctor.Resolvers {
		if !p.IsSingleIP() {
			l.wrong(fmt.Sprintf("doctor.resolvers[%d]", i), p.String()+" is a network", "a server has one address",
				"resolvers: [10.20.0.2]")
		}
	}
	if !nodeName.MatchString(c.Node.Name) {
		l.wrong("node.name", fmt.Sprintf("%q cannot name a node", amt.Clip(c.Node.Name)),
			"up to 63 letters, digits, dots, hyphens and underscores", "name: provisiond-1")
	}
}

func (l *loader) database(d Database) {
	if d.URL == "" {
		return
	}
	const example = "url: postgres://provisiond@db.example.com/provisiond"
	u, err := url.Parse(string(d.URL))
	switch {
	case err != nil: // its text holds the URL, and so perhaps a password
		l.wrong("database.url", "not a URL", "a password with special characters is percent-encoded", example)
	case u.Scheme != "postgres" && u.Scheme != "postgresql":
		l.wrong("database.url", "want postgres:// or nothing at all", "empty means SQLite in data_dir", example)
	case u.Host == "" && u.Query().Get("host") == "":
		l.wrong("database.url", "names no host", "", example)
	}
}

func (l *loader) masterKey(m MasterKey) {
	var named []string
	v := reflect.ValueOf(m)
	for _, f := range reflect.VisibleFields(v.Type()) {
		if !v.FieldByIndex(f.Index).IsZero() {
			named = append(named, f.Tag.Get("yaml"))
		}
	}
	if len(named) > 1 {
		l.wrong("master_key."+named[1], "given together with master_key."+named[0], "the key comes from one place",
			"master_key: {credential: kek}")
	}
	if m.File != "" {
		if f, ok := l.mustRead("master_key.file", m.File); ok {
			if _, err := seal.ParseKey(f.Data); err != nil {
				l.wrong("master_key.file", fmt.Sprintf("%q holds no key", m.File), err.Error(), "head -c 32 /dev/urandom >master.key")
			}
		}
	}
	if m.Env != "" && l.env[m.Env] == "" {
		l.wrong("master_key.env", fmt.Sprintf("the variable %q is not set", amt.Clip(m.Env)), "the daemon could open no secret",
			"env: PROVISIOND_KEK")
	}
	if len(m.Exec) > 0 && m.Exec[0] == "" {
		l.wrong("master_key.exec", "the command is empty", "", "exec: [/usr/local/bin/print-key]")
	}
}

func (l *loader) listens(c *Config) {
	hello, okHello := l.listen("hello.listen", c.Hello.Listen, "127.0.0.1:9971")
	rest, okREST := l.listen("api.listen", c.API.Listen, "127.0.0.1:8080")
	if okHello && okREST && hello == rest && hello.Port() != 0 {
		l.wrong("api.listen", "the same as hello.listen", "two things cannot listen on one port", `listen: "127.0.0.1:8080"`)
	}
}

func (l *loader) listen(key string, value Listen, example string) (netip.AddrPort, bool) {
	example = fmt.Sprintf("listen: %q", example)
	host, port, err := net.SplitHostPort(string(value))
	if err != nil {
		l.wrong(key, fmt.Sprintf("want address:port, not %q", amt.Clip(string(value))), "an IPv6 address stands in brackets", example)
		return netip.AddrPort{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		l.wrong(key, fmt.Sprintf("%q is not a port", amt.Clip(port)), "a port is a number from 0 to 65535; 0 takes any free one", example)
		return netip.AddrPort{}, false
	}
	var addr netip.Addr
	switch host {
	case "":
		addr = netip.IPv6Unspecified()
	case "localhost":
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	default:
		if addr, err = netip.ParseAddr(host); err != nil {
			l.wrong(key, fmt.Sprintf("%q is not an address of this machine", amt.Clip(host)),
				"names are not looked up here; 0.0.0.0 means every address", example)
			return netip.AddrPort{}, false
		}
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), true
}

func (l *loader) apiTLS(a API) {
	switch {
	case a.TLS.Cert == "" && a.TLS.Key == "":
		if ap, ok := quietListen(a.Listen); ok && !ap.Addr().IsLoopback() {
			l.wrong("api.listen", fmt.Sprintf("%s is not loopback and api.tls is not set", a.Listen),
				"tokens and passwords would cross the network in clear",
				"api: {listen: \"0.0.0.0:8443\", tls: {cert: /etc/provisiond/api.pem, key: /etc/provisiond/api.key}}")
		}
		return
	case a.TLS.Key == "":
		l.wrong("api.tls.key", "missing while api.tls.cert is set", "a certificate works only with its key", "key: /etc/provisiond/api.key")
		return
	case a.TLS.Cert == "":
		l.wrong("api.tls.cert", "missing while api.tls.key is set", "a key works only with its certificate",
			"cert: /etc/provisiond/api.pem")
		return
	}
	cert, ok1 := l.mustRead("api.tls.cert", a.TLS.Cert)
	key, ok2 := l.mustRead("api.tls.key", a.TLS.Key)
	if !ok1 || !ok2 {
		return
	}
	if _, err := certs.Pair(l.ctx, cert, key); err != nil {
		l.wrong("api.tls.cert", "no pair with api.tls.key", err.Error(), "")
	}
}

func quietListen(v Listen) (netip.AddrPort, bool) { return (&loader{}).listen("", v, "") }

func (l *loader) certificates(list []Certificate) {
	seen := map[File]int{}
	for i, c := range list {
		key := fmt.Sprintf("provisioning.certificates[%d]", i)
		if c.PFX == "" {
			l.wrong(key+".pfx", "missing", "a provisioning certificate comes as a PFX file", exampleFor("certificates", nil))
			continue
		}
		if first, twice := seen[c.PFX]; twice {
			l.wrong(key+".pfx", fmt.Sprintf("%q is also certificates[%d]", c.PFX, first), "one entry is enough", "")
		}
		seen[c.PFX] = i
		if _, err := os.Stat(string(c.PFX)); errors.Is(err, fs.ErrNotExist) {
			_, why := unreadable(string(c.PFX), err)
			l.wrong(key+".pfx", fmt.Sprintf("there is no file %q", c.PFX),
				strings.TrimPrefix(why+"; without a certificate yet leave the line out: devices wait, and provctl cert import brings one "+
					"later", "; "), exampleFor(key+".pfx", reflect.TypeFor[File]()))
		} else {
			l.mustRead(key+".pfx", c.PFX)
		}
		if c.PasswordFile != "" {
			if _, err := typed.PasswordFile(string(c.PasswordFile)); err != nil {
				what, why := unreadable(string(c.PasswordFile), err)
				l.wrong(key+".password_file", what, why, exampleFor(key+".password_file", reflect.TypeFor[File]()))
			}
		}
	}
}

func (l *loader) profile(p Profile) {
	if p.AdminUser == "" || len(p.AdminUser) > 16 || strings.ContainsAny(p.AdminUser, ` :,"&<>`) || strings.HasPrefix(p.AdminUser, "$$") ||
		p.AdminUser == "Admin" || p.AdminUser == "Administrator" {
		l.wrong("provisioning.profile.admin_user", fmt.Sprintf("%q is not a user name for firmware", amt.Clip(p.AdminUser)),
			"1 to 16 characters without space : , \" & < >; Admin and Administrator are the firmware's", "admin_user: admin")
	}
	for _, b := range braces.FindAllString(p.HostName, -1) {
		switch b {
		case "{uuid8}", "{uuid}", "{mac}", "{serial}", "{ip}":
		default:
			l.wrong("provisioning.profile.host_name", "nothing is known to put for "+amt.Clip(b),
				"the placeholders are {uuid8}, {uuid}, {mac}, {serial} and {ip}", "host_name: amt-{uuid8}")
		}
	}
	if rest := braces.ReplaceAllString(p.HostName, "x"); !dnsName.MatchString(rest) || strings.Contains(rest, ".") {
		l.wrong("provisioning.profile.host_name", fmt.Sprintf("%q does not make a host name", amt.Clip(p.HostName)),
			"letters, digits and hyphens; the domain has its own key", "host_name: amt-{uuid8}")
	}
	switch {
	case p.TLS == "none" && !p.Unprotected:
		l.wrong("provisioning.profile.tls", "none without unprotected: true beside it", profile.Unprotected,
			"profile: {tls: none, unprotected: true}")
	case p.TLS != "none" && p.Unprotected:
		l.wrong("provisioning.profile.unprotected", "true with tls: "+p.TLS, "the word goes with tls: none only", "")
	}
	if p.TLS == "mutual" {
		if err := profile.CheckTrusted(p.TrustedCN); err != nil {
			l.wrong("provisioning.profile.trusted_cn", "cannot be used", err.Error(), "trusted_cn: [console.corp.example.com]")
		}
	}
	if p.Domain != "" && !dnsName.MatchString(strings.TrimSuffix(p.Domain, ".")) {
		l.wrong("provisioning.profile.domain", fmt.Sprintf("%q is not a DNS domain", amt.Clip(p.Domain)),
			"letters, digits, hyphens and dots", "domain: corp.example.com")
	}
}

// mustRead reads a file that has to be there; false when it cannot.
func (l *loader) mustRead(key string, name File) (certs.File, bool) {
	f, err := certs.ReadFile(string(name))
	if err != nil {
		what, why := unreadable(string(name), err)
		l.wrong(key, what, why, exampleFor(key, reflect.TypeFor[File]()))
	}
	return f, err == nil
}

// authorities checks a file of certificates that are to be trusted.
func (l *loader) authorities(key string, name File) {
	f, ok := l.mustRead(key, name)
	if !ok {
		return
	}
	if _, err := certs.Authorities(l.ctx, f); err != nil {
		l.wrong(key, fmt.Sprintf("no certificate in %q", name), err.Error(), "")
	}
}

// authorities reads such a file.
func authorities(ctx context.Context, key string, name File) ([]*x509.Certificate, error) {
	f, err := certs.ReadFile(string(name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	list, err := certs.Authorities(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return list, nil
}
