package provision

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/store"
)

// A device whose certificate TLS cannot take ends in words about the field, its
// event keeps the certificate, and it is not tried again by itself.
func TestACertificateThatTLSCannotTake(t *testing.T) {
	t.Parallel()
	der, err := os.ReadFile("../../amt/session/testdata/odd/padded-serial.cer")
	if err != nil {
		t.Fatal(err)
	}
	forEachEngine(t, func(t *testing.T, l *lab) {
		d := l.device("11", sim.Faults{}, func(c *sim.Config) {
			c.SetupCertificate = &tls.Certificate{Certificate: [][]byte{der},
				PrivateKey: certtest.NewLab(time.Now()).SelfSigned(certtest.Options{Name: "odd"}).Key}
		})
		l.hello(d)
		dev := l.settle(l.newEngine("a"), d)
		if dev.Lifecycle != store.Failed || dev.Reason != reason.TLSPeerCertInvalid ||
			!strings.Contains(dev.Detail, "the serial number 000001 is padded") {
			t.Fatalf("%s: %s: %s", dev.Lifecycle, dev.Reason, dev.Detail)
		}
		if _, live := l.look(d); live != 0 {
			t.Errorf("run %d waits, though nothing has changed", live)
		}
		var kept []byte
		if err := l.db.Read(t.Context(), func(tx *store.Tx) error {
			list, err := tx.Events(t.Context(), store.EventFilter{UUID: d.UUID(), Name: store.AttemptFailed})
			for _, e := range list {
				text, _ := e.Data["device_certificate"].(string)
				kept, _ = base64.StdEncoding.DecodeString(text)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(kept, der) {
			t.Errorf("the event keeps %d bytes of the certificate's %d", len(kept), len(der))
		}
	})
}
