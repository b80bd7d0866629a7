package server

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
)

// visitor is a browser without JavaScript.
type visitor struct {
	t    *testing.T
	base string
	http *http.Client
}

func (l *lab) visitor(token string) *visitor {
	l.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		l.t.Fatal(err)
	}
	v := &visitor{l.t, "http://" + l.s.APIAddr().String(), &http.Client{Jar: jar}}
	if status, body := v.does(http.MethodPost, "/login", "application/x-www-form-urlencoded",
		strings.NewReader(url.Values{"token": {token}}.Encode())); status != http.StatusOK {
		l.t.Fatalf("login: %d\n%s", status, body)
	}
	return v
}

func (v *visitor) does(method, path, kind string, body io.Reader) (int, string) {
	v.t.Helper()
	req, err := http.NewRequestWithContext(v.t.Context(), method, v.base+path, body)
	if err != nil {
		v.t.Fatal(err)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := v.http.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (v *visitor) drops(password string, files map[string][]byte) (int, string) {
	v.t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for name, data := range files {
		f, err := w.CreateFormFile("files", name)
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			v.t.Fatal(err)
		}
	}
	if err := w.WriteField("password", password); err != nil {
		v.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		v.t.Fatal(err)
	}
	return v.does(http.MethodPost, "/certificates/import", w.FormDataContentType(), &b)
}

func (v *visitor) says(status int, body string, want int, words ...string) {
	v.t.Helper()
	if status != want {
		v.t.Errorf("status %d, want %d", status, want)
	}
	for _, w := range words {
		if !strings.Contains(body, w) {
			v.t.Errorf("the page lacks %q", w)
		}
	}
}

// TestCertificatePages: what a CA sent is dropped on the page, whole or not at
// all; the page then shows the chain as a tree with digests, keys, ends and what
// firmware knows, and the backup's passphrase once.
func TestCertificatePages(t *testing.T) {
	t.Parallel()
	vendor := certtest.NewLab(time.Now())
	shape := vendor.GoDaddy("prov.corp.example.com")
	console := func(o *Options) { bare(o); o.Console = true }
	phrase := regexp.MustCompile(`<output>([A-Z2-9]{5}-){4}[A-Z2-9]{5}</output>`)
	forEachEngine(t, console, func(t *testing.T, l *lab) {
		v := l.visitor(l.api.Token)
		status, body := v.does(http.MethodGet, "/certificates", "", nil)
		v.says(status, body, 200, "None is loaded", "provctl cert request --suggest", `type="file" name="files" multiple`)

		made, err := l.api.RequestCertificate(t.Context(), api.NewCertificateRequest{CommonName: "prov.branch.example.net"})
		if err != nil {
			t.Fatal(err)
		}
		before := l.stored()
		for says, files := range map[string]map[string][]byte{
			"Choose the files":                {},
			"cert_input_invalid":              {"note.txt": []byte("Dear customer")},
			made.ID + " for prov.branch":      {"order.crt": certtest.PEM(shape.All()...)},
			"was cut short":                   {"order.pfx": certtest.PFX(certtest.Modern, "secret", shape.Leaf.Key, shape.All()...)[:900]},
			"were sent; a CA&#39;s answer is": {"big.pem": make([]byte, 18<<20)},
		} {
			status, body := v.drops("secret", files)
			if says == "cert_input_invalid" {
				says = "not PEM, DER, PKCS#7, PFX or zip"
			}
			if !strings.Contains(body, "Nothing was imported") || !strings.Contains(body, says) || status < 400 || status > 499 {
				t.Errorf("want a refusal with %q, got %d\n%s", says, status, body)
			}
		}
		if d := cmp.Diff(before, l.stored()); d != "" {
			t.Errorf("what was refused changed what is stored:\n%s", d)
		}

		status, body = v.drops("secret", map[string][]byte{"order.pfx": certtest.PFX(certtest.Modern, "secret", shape.Leaf.Key,
			shape.All()...)})
		v.says(status, body, 200, "Imported and in use", "shown this once", "provctl cert backup export", "Chain 1, ends in",
			"Chain 2, ends in")
		if !phrase.MatchString(body) {
			t.Error("the passphrase is not shown")
		}
		all, err := l.api.Certificates(t.Context())
		if err != nil || len(all.Certificates) != 1 {
			t.Fatalf("%d certificates, %v", len(all.Certificates), err)
		}
		id := all.Certificates[0].ID
		one, err := l.api.Certificate(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		status, body = v.does(http.MethodGet, "/certificates/"+id, "", nil)
		v.says(status, body, 200, "in use", "leaf", "intermediate", "root", "RSA 2048", "only on n1", "in no firmware list seen so far",
			"6.2 to")
		for _, chain := range one.Report.Chains {
			for _, c := range chain.Certs {
				v.says(status, body, 200, c.SHA256, c.NotAfter.UTC().Format(time.DateOnly))
			}
		}
		if phrase.MatchString(body) {
			t.Error("the passphrase is shown a second time")
		}
		status, body = v.does(http.MethodGet, "/certificates", "", nil)
		v.says(status, body, 200, "in use", "lies only on this server", "0 set up with it", made.ID)
		if status, _ := v.does(http.MethodGet, "/certificates/ffffffffffffffff", "", nil); status != 404 {
			t.Errorf("an unknown certificate: %d", status)
		}

		// A renewal is shown before it begins, and its request once it has.
		renew := "/certificates/" + id + "/renew"
		post := func(v *visitor, form string) (int, string) {
			return v.does(http.MethodPost, renew, "application/x-www-form-urlencoded", strings.NewReader(form))
		}
		status, body = v.does(http.MethodGet, "/certificates/"+id, "", nil)
		v.says(status, body, 200, `action="`+renew+`"`)
		before = l.stored()
		status, body = post(v, "")
		v.says(status, body, 200, "What a renewal takes", "prov.corp.example.com", "Make the request")
		status, body = post(v, "mode=acme&begin=yes")
		v.says(status, body, 409, "It was not renewed")
		if d := cmp.Diff(before, l.stored()); d != "" {
			t.Errorf("what was only looked at changed what is stored:\n%s", d)
		}
		status, body = post(v, "mode=manual&begin=yes")
		v.says(status, body, 200, "The renewal has begun", "-----BEGIN CERTIFICATE REQUEST-----")
		if c, err := l.api.Certificate(t.Context(), id); err != nil || c.Renewal == nil || c.Renewal.Request == "" {
			t.Errorf("the certificate knows of no request: %+v, %v", c.Renewal, err)
		}

		// Who may only look sees no form, and cannot send one.
		token, err := l.api.CreateToken(t.Context(), api.NewToken{Name: "looks", Role: "viewer"})
		if err != nil {
			t.Fatal(err)
		}
		looks := l.visitor(token.Secret)
		if _, body := looks.does(http.MethodGet, "/certificates", "", nil); strings.Contains(body, `type="file"`) {
			t.Error("a viewer is offered the import")
		}
		before = l.stored()
		status, body = looks.drops("secret", map[string][]byte{"x.pem": certtest.PEM(shape.All()...)})
		looks.says(status, body, 403, "may not import")
		if status, _ := post(looks, "mode=manual&begin=yes"); status != 403 {
			t.Errorf("a viewer's renewal: %d", status)
		}
		if d := cmp.Diff(before, l.stored()); d != "" {
			t.Errorf("a viewer changed what is stored:\n%s", d)
		}
	})
}
