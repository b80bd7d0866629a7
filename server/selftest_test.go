package server

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/certs/certtest"
)

// TestTheSelfTestKnocksAtItsOwnDoor: another server on the API's port is no
// success, though it answers and shows our certificate behind its own.
func TestTheSelfTestKnocksAtItsOwnDoor(t *testing.T) {
	t.Parallel()
	lab := certtest.NewLab(time.Now())
	mine, other := lab.Plain("Ours", "provisiond.example.com"), lab.Plain("Theirs", "provisiond.example.com")
	show := func(key certtest.Leaf, chain ...[]byte) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key.Key}}}
	}
	for _, c := range []struct {
		name   string
		served *tls.Config
		good   bool
	}{
		{"ours", show(mine, mine.Cert.Raw), true},
		{"another of the same name", show(other, other.Cert.Raw), false},
		{"another with ours behind it", show(other, other.Cert.Raw, mine.Cert.Raw), false},
	} {
		there := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") }))
		there.TLS = c.served
		there.StartTLS()
		s := &Server{o: Options{APITLS: mine.TLS}, front: front{apiL: there.Listener}}
		err := s.knockAPI(t.Context())
		if (err == nil) != c.good || err != nil && !strings.Contains(err.Error(), "does not have the certificate of api.tls") {
			t.Errorf("%s: %v", c.name, err)
		}
		there.Close()
	}
}
