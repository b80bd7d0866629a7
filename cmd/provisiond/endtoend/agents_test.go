package endtoend

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
)

// TestBoxAgents: on the same port, relays send raw hellos and agents POST, in
// mutual TLS; our side shows the provisioning certificate, and nobody gets in
// without a client certificate of the configured authority.
func TestBoxAgents(t *testing.T) {
	t.Parallel()
	s := newSite(t, "")
	lab := certtest.NewLab(time.Now())
	ca := lab.ClientCA("relays")
	s.file("relays.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Cert.Raw}))
	d := s.serve([]string{"PROVISIOND_HELLO_RELAYS=relay-1", "PROVISIOND_HELLO_CLIENT_CA=" + s.path("relays.pem"),
		"PROVISIOND_LOG_LEVEL=debug"})

	root := x509.NewCertPool()
	root.AddCert(s.leaf.Issuers[len(s.leaf.Issuers)-1])
	config := func(client *tls.Certificate, alpn ...string) *tls.Config {
		c := &tls.Config{RootCAs: root, ServerName: "provisionserver.corp.example.com", NextProtos: alpn}
		if client != nil {
			c.Certificates = []tls.Certificate{*client}
		}
		return c
	}
	relay, stranger := ca.Client("relay-1"), lab.ClientCA("strangers").Client("relay-1")
	h := s.herd()

	// helloOf is what a device would say itself.
	helloOf := func(dev *sim.Device) []byte {
		return hello.Message{Version: 3, UUID: dev.UUID(), Hashes: s.roots()}.Encode()
	}
	agent := &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{TLSClientConfig: config(relay, "http/1.1")}}
	post := func(c *http.Client, path, media string, body []byte) (int, string, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+d.hello+path, bytes.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		req.Header.Set("Content-Type", media)
		res, err := c.Do(req)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		return res.StatusCode, string(text), err
	}

	t.Run("relay, raw hello", func(t *testing.T) {
		// The relay speaks from the device's address: it stands in its network.
		dev := h.add("11", nil)
		dialer := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IP(dev.Addr().Addr().AsSlice())}},
			Config: config(relay)}
		c, err := dialer.DialContext(t.Context(), "tcp", d.hello)
		if err != nil {
			t.Fatal(err)
		}
		shown := c.(*tls.Conn).ConnectionState().PeerCertificates
		if !shown[0].Equal(s.leaf.Cert) || len(shown) < 2 {
			t.Errorf("our side shows %s, want the provisioning certificate with its chain", shown[0].Subject)
		}
		if _, err := c.Write(helloOf(dev)); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
		d.managed(1, time.Minute)
	})
	t.Run("agent, POST hello", func(t *testing.T) {
		dev := h.add("16", nil)
		status, text, err := post(agent, "/v1/hello?address="+dev.Addr().Addr().String(), "application/octet-stream", helloOf(dev))
		if err != nil || status != 202 || !strings.Contains(text, "accepted") {
			t.Fatalf("%d %s %v", status, text, err)
		}
		d.managed(2, time.Minute)
	})
	t.Run("agent, provisioning request", func(t *testing.T) {
		dev := h.add("12", func(c *sim.Config) { c.OTP = "Kx7-one-time" })
		body := `{"uuid":"` + dev.UUID().String() + `","fqdn":"desk7.corp.example.com","otp":"Kx7-one-time","address":"` +
			dev.Addr().Addr().String() + `"}`
		status, text, err := post(agent, "/v1/provisioning-requests", "application/json", []byte(body))
		if err != nil || status != 202 {
			t.Fatalf("%d %s %v", status, text, err)
		}
		d.managed(3, time.Minute)
		if snap := dev.Snapshot(); snap.HostName+"."+snap.Domain != "desk7.corp.example.com" {
			t.Errorf("the device is named %s.%s, the agent asked for desk7.corp.example.com", snap.HostName, snap.Domain)
		}
		if log := d.errs.String(); strings.Contains(log, "Kx7-one-time") {
			t.Error("the log holds the one-time password")
		}
	})
	t.Run("a bad body names the byte", func(t *testing.T) {
		broken, _ := hex.DecodeString("0100030000000000")
		status, text, err := post(agent, "/v1/hello", "application/octet-stream", broken)
		if err != nil || status != 400 || !strings.Contains(text, `"offset"`) {
			t.Errorf("%d %s %v", status, text, err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		for name, cert := range map[string]*tls.Certificate{"no client certificate": nil, "of another authority": stranger} {
			before := d.metric(`provisiond_hello_received_total{result="denied_device"}`)
			c := &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{TLSClientConfig: config(cert, "http/1.1")}}
			if status, text, err := post(c, "/v1/hello", "application/octet-stream", helloOf(h.devices[0])); err == nil {
				t.Errorf("%s: %d %s, want to be refused", name, status, text)
			}
			poll(t, name+" is counted", 10*time.Second, func() bool {
				return d.metric(`provisiond_hello_received_total{result="denied_device"}`) == before+1
			})
		}
	})
	h.settled(d)
	d.stop()
}
