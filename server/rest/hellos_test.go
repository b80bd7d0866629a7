package rest_test

import (
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// TestKeptHellos: what a device sent comes back byte for byte, whether its bytes
// were kept or are put together again.
func TestKeptHellos(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		raw, err := os.ReadFile(filepath.Join("..", "..", "amt", "hello", "testdata", "forms", "hello.bin"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := hello.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		b.Seen(apitest.Device{UUID: m.UUID})
		if err := b.DB.Write(t.Context(), func(tx *store.Tx) error {
			for range 2 {
				if _, _, err := tx.SeeHello(context.Background(), store.SeenHello{UUID: m.UUID, Via: "plain", Version: m.Version,
					Retry: m.RetryCount, AdminSet: m.AdminCredentialsSet, Hashes: m.Hashes}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		c := b.Client(b.Token(api.Viewer))
		got, err := c.Hellos(t.Context(), m.UUID.String(), 2)
		if err != nil || len(got.Hellos) != 2 || got.Hellos[0].ID <= got.Hellos[1].ID {
			t.Fatalf("%+v, %v", got, err)
		}
		for _, h := range got.Hellos {
			if h.Hex != hex.EncodeToString(raw) || h.Hashes != len(m.Hashes) || h.Via != "plain" {
				t.Errorf("another hello: %+v", h)
			}
		}
		if _, err := c.Hellos(t.Context(), amt.UUID{1, 2, 3}.String(), 0); code(err) != "device_unknown" {
			t.Errorf("a device that nobody knows: %v", err)
		}
		d, err := hello.Decode([]byte(got.Hellos[0].Hex))
		if err != nil || len(d) != 1 || d[0].UUID != m.UUID || d[0].Form != "hexadecimal digits" {
			t.Errorf("%+v, %v", d, err)
		}
	})
}
