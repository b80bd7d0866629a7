package endtoend

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/jackc/pgx/v5"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/store/pgtest"
)

// canaries are secrets in every form in which one could get out.
type canaries struct {
	first [1 << 16]bool
	forms map[uint64][]form
	count int
}

type form struct {
	of, as string
	bytes  []byte
}

func newCanaries() *canaries { return &canaries{forms: map[uint64][]form{}} }

func (c *canaries) put(of, as string, b []byte) {
	if len(b) < 8 {
		return
	}
	c.first[binary.LittleEndian.Uint16(b)] = true
	k := binary.LittleEndian.Uint64(b)
	c.forms[k] = append(c.forms[k], form{of, as, b})
}

// add takes one secret: in clear, as texts of every encoding, and as its
// digests.
func (c *canaries) add(of string, secret []byte) {
	c.count++
	c.encoded(of, "clear", secret)
	for as, sum := range map[string][]byte{"MD5": sum16(secret), "SHA-256": sum32(secret)} {
		c.encoded(of, as, sum)
	}
	text, err := json.Marshal(string(secret))
	if err == nil {
		c.put(of, "JSON text", bytes.Trim(text, `"`))
	}
	var x bytes.Buffer
	_ = xml.EscapeText(&x, secret)
	c.put(of, "XML text", x.Bytes())
	c.put(of, "HTML text", []byte(html.EscapeString(string(secret))))
	c.put(of, "URL text", []byte(url.QueryEscape(string(secret))))
	var wide []byte
	for _, u := range utf16.Encode([]rune(string(secret))) {
		wide = binary.LittleEndian.AppendUint16(wide, u)
	}
	c.put(of, "UTF-16", wide)
}

// encoded puts bytes as they are, in hexadecimal and in base64 at each of the
// three places they can have in a longer text.
func (c *canaries) encoded(of, as string, b []byte) {
	c.put(of, as, b)
	c.put(of, as+" in hexadecimal", []byte(hex.EncodeToString(b)))
	c.put(of, as+" in hexadecimal", []byte(strings.ToUpper(hex.EncodeToString(b))))
	for shift := range 3 {
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := enc.EncodeToString(append(make([]byte, shift), b...))
			cut := 0
			if shift > 0 {
				cut = shift + 1 // what is mixed with the bytes before
			}
			end := len(text)
			if (len(b)+shift)%3 != 0 {
				end-- // and with those behind
			}
			c.put(of, as+" in base64", []byte(text[cut:end]))
		}
	}
}

// account takes an admin password with its HA1.
func (c *canaries) account(of, user, realm, password string) {
	c.add(of, []byte(password))
	c.encoded(of, "HA1", sum16([]byte(user+":"+realm+":"+password)))
	c.put(of, "Basic", []byte(base64.StdEncoding.EncodeToString([]byte(user+":"+password))))
}

func sum16(b []byte) []byte { s := md5.Sum(b); return s[:] }
func sum32(b []byte) []byte { s := sha256.Sum256(b); return s[:] }

// find names the secrets that stand in text.
func (c *canaries) find(text []byte) []string {
	var found []string
	for i := 0; i+8 <= len(text); i++ {
		if !c.first[binary.LittleEndian.Uint16(text[i:])] {
			continue
		}
		for _, f := range c.forms[binary.LittleEndian.Uint64(text[i:])] {
			if bytes.HasPrefix(text[i:], f.bytes) {
				found = append(found, fmt.Sprintf("%s (%s) at %d", f.of, f.as, i))
			}
		}
	}
	return found
}

// TestCanaryFinder: the search finds a secret in each of its forms.
func TestCanaryFinder(t *testing.T) {
	t.Parallel()
	c := newCanaries()
	const secret = `Ab3$x<y>&"Zq9-canary`
	c.account("x", "admin", "Digest:AA", secret)
	for name, text := range map[string]string{
		"clear":         "the password is " + secret + ".",
		"JSON":          string(must(json.Marshal(map[string]string{"p": secret}))),
		"hexadecimal":   fmt.Sprintf("%x", "head"+secret+"tail"),
		"base64":        base64.StdEncoding.EncodeToString([]byte("admin:" + secret)),
		"base64 inside": base64.StdEncoding.EncodeToString([]byte("a longer text with " + secret + " in it")),
		"base64 URL":    base64.URLEncoding.EncodeToString([]byte("ab" + secret)),
		"MD5":           fmt.Sprintf("hash %x", md5.Sum([]byte(secret))),
		"HA1":           fmt.Sprintf("%X", md5.Sum([]byte("admin:Digest:AA:"+secret))),
		"HA1 in base64": base64.StdEncoding.EncodeToString(sum16([]byte("admin:Digest:AA:" + secret))),
		"HTML":          html.EscapeString(secret),
		"URL":           url.QueryEscape(secret),
	} {
		if len(c.find([]byte(text))) == 0 {
			t.Errorf("not found as %s: %s", name, text)
		}
	}
	if found := c.find([]byte(strings.Repeat("nothing of it here ", 1000))); len(found) > 0 {
		t.Errorf("found where it is not: %v", found)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestBoxCanary: after setups, failures, reveals and rotations no secret stands
// in a log, a metric, an answer, a page, an error, an event, a database page, a
// WAL file or the dump of all goroutines; only in the answer to reveal.
func TestBoxCanary(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		canaryRun(t, newSite(t, ""), "")
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		seat(t)
		pg := pgtest.Start(t)
		u, err := url.Parse(pg.URL())
		if err != nil {
			t.Fatal(err)
		}
		canaryRun(t, newSite(t, pg.URL()), u.Query().Get("host"))
	})
}

func canaryRun(t *testing.T, s *site, folder string) {
	const oneTime = "Kx7$one-time&canary"
	relays := certtest.NewLab(time.Now()).ClientCA("relays")
	s.file("relays.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: relays.Cert.Raw}))
	d := s.serve([]string{"PROVISIOND_HELLO_CLIENT_CA=" + s.path("relays.pem"), "PROVISIOND_LOG_LEVEL=debug"})
	h := s.herd()
	good := h.mixed(t, 10)
	var bad []*sim.Device
	for _, f := range []string{
		"wrong_uuid", "refuse:SetAdminAclEntryEx#all=2054", "refuse:SetMEBxPassword#all=2054", "garble:SetAdminAclEntryEx",
		"cut_reply:SetMEBxPassword", "drop_reply:CommitChanges",
		"nested_xml:SetAdminAclEntryEx", "http_503:SetMEBxPassword", "ask_401:SetAdminAclEntryEx", "wrong_relates_to:SetAdminAclEntryEx",
		"nonce_storm=20",
	} {
		faults, err := sim.ParseFaults(f)
		if err != nil {
			t.Fatal(err)
		}
		bad = append(bad, h.add("11", func(c *sim.Config) { c.Faults = faults }))
	}
	h.live(3*time.Second, one(d.hello), append(append([]*sim.Device{}, good...), bad...)...)
	agent := agentOf(s, relays)
	known := h.add("12", func(c *sim.Config) { c.OTP = oneTime })
	for _, body := range []string{
		`{"uuid":"` + known.UUID().String() + `","otp":"` + oneTime + `","address":"` + known.Addr().Addr().String() + `"}`,
		`{"uuid":"x","otp":"` + oneTime + `"}`, `{"otp":"` + oneTime + `", nonsense`,
	} {
		res, err := agent.Post("https://"+d.hello+"/v1/provisioning-requests", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
	}
	managed := append(append([]*sim.Device{known}, good...), bad[3:]...)
	poll(t, "those that can be are managed, the others have a reason", 2*time.Minute, func() bool {
		n := d.lifecycles()
		return n["provisioned"] == len(managed) && n["queued"]+n["provisioning"]+n["verifying"] == 0
	})

	// Everything secret there is.
	c := newCanaries()
	for _, dev := range h.devices {
		snap := dev.Snapshot()
		for i, m := range snap.SecretsSeen {
			c.account(fmt.Sprintf("MEBx password %d of %s", i, snap.UUID), snap.AdminUser, snap.Realm, m.Reveal())
		}
		for i, a := range snap.AdminHA1Seen {
			raw, _ := hex.DecodeString(a)
			c.encoded(fmt.Sprintf("admin hash %d of %s", i, snap.UUID), "HA1", raw)
			c.count++
		}
	}
	var errs bytes.Buffer
	for _, dev := range managed {
		var r struct{ Password string }
		out, e, status := d.provctl("secret", "reveal", dev.UUID().String(), "--kind", "admin", "--reason", "the canary test", "--json")
		if status != 0 || json.Unmarshal([]byte(out), &r) != nil || !dev.AcceptsAdmin("admin", r.Password) {
			t.Errorf("reveal %s: %s", dev.UUID(), e)
			continue
		}
		errs.WriteString(e)
		c.account("admin password of "+dev.UUID().String(), "admin", dev.Realm(), r.Password)
		if len(c.find([]byte(out))) == 0 {
			t.Error("the password is not found even where it stands, in the answer to reveal")
		}
	}
	if c.count < 2*len(managed) {
		t.Fatalf("only %d secrets are known", c.count)
	}
	c.add("the one-time password", []byte(oneTime))
	c.add("the PFX password", []byte(sitePassword))
	key := s.leaf.Key.(*rsa.PrivateKey)
	c.encoded("the provisioning key", "prime", key.Primes[0].Bytes())
	c.encoded("the provisioning key", "exponent", key.D.Bytes())
	c.encoded("the provisioning key", "PKCS #8", must(x509.MarshalPKCS8PrivateKey(key)))
	token := strings.TrimSpace(readFile(t, d.token))
	c.encoded("the admin token", "clear", []byte(token)) // its SHA-256 is what is kept, on purpose
	master, err := os.ReadFile(s.path("data/master.key"))
	if err != nil {
		t.Fatal(err)
	}
	c.add("the master key", bytes.TrimSpace(master))

	// Everything there is to read.
	clean := func(what string, text []byte) {
		t.Helper()
		if found := c.find(text); len(found) > 0 {
			t.Errorf("%s: %d secrets, such as %s", what, len(found), found[0])
		}
	}
	searched := 0
	answers := d.everyAnswer(token, known.UUID())
	for what, text := range answers {
		clean(what, text)
		searched += len(text)
	}
	clean("provctl's standard error", errs.Bytes())
	for _, args := range [][]string{
		{"device", "list"}, {"device", "show", known.UUID().String()}, {"device", "show", known.UUID().String(), "--json"}, {"device", "why", known.UUID().String()}, {"device", "why", bad[1].UUID().String()},
		{"event", "list"}, {"event", "list", "--json"}, {"audit", "list"}, {"audit", "list", "--json"}, {"status"}, {"token", "list"}, {"cert", "list", "--json"},
		{"secret", "reveal", "11111111-1111-1111-1111-111111111111", "--kind", "admin", "--reason", "nobody"},
	} {
		out, e, _ := d.provctl(args...)
		clean("provctl "+strings.Join(args, " "), []byte(out+e))
		searched += len(out) + len(e)
	}
	for _, args := range [][]string{{"config", "print", "--origin", "--config", s.cfg},
		{"serve", "--config", s.cfg, "--hello-listen", d.hello}} {
		out, e, _ := command(t, program(t, box.daemon), nil, args...)
		clean("provisiond "+strings.Join(args, " "), []byte(out+e))
	}
	if folder != "" {
		dump := tables(t, s.db)
		clean("a dump of all tables", dump)
		searched += len(dump)
	}

	// The end of a process that crashes: every goroutine's stack.
	_ = d.cmd.Process.Signal(syscall.SIGQUIT)
	<-d.done
	log := []byte(d.errs.String() + d.out.String())
	if !bytes.Contains(log, []byte("goroutine ")) || !bytes.Contains(log, []byte(`"level":"debug"`)) {
		t.Error("the log holds no stacks, or no debug lines")
	}
	clean("the daemon's log and its crash", log)
	searched += len(log)
	for _, root := range []string{s.path("data"), folder} {
		if root == "" {
			continue
		}
		files := 0
		err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil //nolint:nilerr // a database's temporary file may go away
			}
			if base := filepath.Base(name); base == "master.key" || base == "admin.token" {
				return nil
			}
			b, err := os.ReadFile(name)
			if err != nil {
				return nil //nolint:nilerr // as above
			}
			clean(name, b)
			files++
			searched += len(b)
			return nil
		})
		if err != nil || files == 0 {
			t.Errorf("%s: %d files were searched: %v", root, files, err)
		}
	}
	t.Logf("%d secrets, each in about 30 forms, in none of %d answers, the log, %d bytes in all", c.count, len(answers), searched)
}

// agentOf is an HTTP client with a certificate of the relays' authority.
func agentOf(s *site, ca *certtest.CA) *http.Client {
	root := x509.NewCertPool()
	root.AddCert(s.leaf.Issuers[len(s.leaf.Issuers)-1])
	return &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: root, ServerName: "provisionserver.corp.example.com", Certificates: []tls.Certificate{*ca.Client("agent-1")},
		NextProtos: []string{"http/1.1"},
	}}}
}

var links = regexp.MustCompile(`(?:href|action|src)="(/[^"#]*)"`)

// everyAnswer asks all there is to ask with GET: each operation of the API's own
// description, the events' stream, health, metrics, and every page of the
// console that a link leads to.
func (d *daemon) everyAnswer(token string, u amt.UUID) map[string][]byte {
	t := d.t
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: 2 * time.Minute}
	answers := map[string][]byte{}
	ask := func(c *http.Client, path, bearer string) []byte {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		if strings.Contains(path, "stream") {
			ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		}
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.api+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if bearer != "" {
			req.Header.Set("Authorization", "Bearer "+bearer)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Logf("GET %s: %v", path, err)
			return nil
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body) // a stream ends by our leaving
		head, _ := json.Marshal(res.Header)
		head = bytes.ReplaceAll(head, []byte("Set-Cookie"), nil)
		answers["GET "+path] = append(b, head...)
		return b
	}
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars"} {
		ask(http.DefaultClient, path, "")
	}

	var api struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(ask(http.DefaultClient, "/api/v1/openapi.json", token), &api); err != nil || len(api.Paths) < 10 {
		t.Fatalf("the API's description has %d paths: %v", len(api.Paths), err)
	}
	for path, ops := range api.Paths {
		if _, ok := ops["get"]; !ok {
			continue
		}
		for _, id := range []string{u.String(), "1", "none"} {
			ask(http.DefaultClient, regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(path, id), token)
			if !strings.Contains(path, "{") {
				break
			}
		}
	}

	res, err := browser.PostForm("http://"+d.api+"/login", url.Values{"token": {token}, "next": {"/"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("log in to the console: %s", res.Status)
	}
	todo, pages := []string{"/", "/devices", "/devices/" + u.String(), "/why?q=" + u.String(), "/certificates", "/events", "/reasons",
		"/stream"}, 0
	for len(todo) > 0 && pages < 120 {
		path := html.UnescapeString(todo[0])
		todo = todo[1:]
		if _, done := answers["GET "+path]; done || strings.HasPrefix(path, "/logout") {
			continue
		}
		pages++
		for _, m := range links.FindAllSubmatch(ask(browser, path, ""), -1) {
			todo = append(todo, string(m[1]))
		}
	}
	if pages < 10 {
		t.Errorf("only %d pages of the console were read", pages)
	}
	return answers
}

// tables is every row of every table, as text.
func tables(t *testing.T, dsn string) []byte {
	t.Helper()
	ctx := t.Context()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	rows, err := c.Query(ctx, "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name) FROM information_schema.tables WHERE "+
		"table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) < 10 {
		t.Fatalf("%d tables: %v", len(names), err)
	}
	var dump []byte
	for _, n := range names {
		rows, err := c.Query(ctx, "SELECT x::text FROM "+n+" x")
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		dump = append(dump, n...)
		for _, l := range lines {
			dump = append(append(dump, '\n'), l...)
		}
	}
	return dump
}
