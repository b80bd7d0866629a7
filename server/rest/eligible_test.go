package rest_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/queue"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// runOf is a device's run that waits or is at work.
func runOf(b *apitest.Bench, u amt.UUID) (run store.Run) {
	b.TB.Helper()
	b.Read(func(ctx context.Context, tx *store.Tx) (err error) { run, err = tx.LiveRun(ctx, u); return err })
	return run
}

// TestAdoptWhileARunWaits: a run that only waits for its time is not at the device:
// it takes the new password with it and comes at once. One at work is.
func TestAdoptWhileARunWaits(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		u := b.Seen(apitest.Device{Lifecycle: store.Failed, Reason: reason.AuthFailed})
		b.Write(func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.CreateRun(ctx, store.NewRun{UUID: u, Kind: "provision", Trigger: "hello",
				NotBefore: tx.Now().Add(20 * time.Minute)})
			return err
		})
		waits := runOf(b, u)
		for _, pw := range []string{"Typo!1", "Known!1"} { // a second try after a typo, too
			res, err := admin.AdoptDevice(ctx, u.String(), api.Adoption{Password: pw})
			if err != nil || res.RunID != waits.ID || !strings.Contains(res.Said, "comes at once") {
				t.Fatalf("%+v, %v", res, err)
			}
		}
		b.Read(func(ctx context.Context, tx *store.Tx) error {
			run, err := tx.LiveRun(ctx, u)
			if err != nil || run.ID != waits.ID || run.NotBefore.After(tx.Now()) || run.Trigger != queue.Asked {
				t.Errorf("the run is %+v, %v", run, err)
			}
			known, err := tx.Credentials(ctx, u, store.KindAdmin)
			if err != nil || len(known) == 0 || known[0].Password.Reveal() != "Known!1" || known[0].RunID != 0 {
				t.Errorf("the newest password is not the one that was told: %d, %v", len(known), err)
			}
			return nil
		})
		if n := len(b.Enqueued()); n == 0 {
			t.Error("no worker was nudged")
		}
		b.Write(func(ctx context.Context, tx *store.Tx) error {
			_, err := tx.Claim(ctx, waits.ID, "node", time.Minute)
			return err
		})
		if _, err := admin.AdoptDevice(ctx, u.String(), api.Adoption{Password: "Known!2"}); code(err) != api.CodeBusy {
			t.Errorf("while a run is at it: %v", err)
		}
	})
}

// TestPatience: what a person is told of when a run comes is what the worker obeys.
func TestPatience(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		refuse := func(u amt.UUID, n int) {
			b.Write(func(ctx context.Context, tx *store.Tx) error {
				for i := range n {
					if _, err := tx.StageCredentials(ctx, u, 0, amt.NewSecret(fmt.Sprintf("Pass!%d", i)),
						amt.NewSecret("MEBx!1")); err != nil {
						return err
					}
				}
				list, err := tx.Credentials(ctx, u, store.KindAdmin)
				if err != nil {
					return err
				}
				var ids []int64
				for _, c := range list {
					ids = append(ids, c.ID)
				}
				return tx.MarkRefused(ctx, ids)
			})
		}
		for _, waits := range []bool{false, true} {
			for _, refused := range []int{2, 3} {
				for _, verb := range []string{"retry", "adopt"} {
					u := b.Seen(apitest.Device{Lifecycle: store.Failed, Reason: reason.AuthFailed})
					if waits {
						b.Write(func(ctx context.Context, tx *store.Tx) error {
							_, err := tx.CreateRun(ctx,
								store.NewRun{UUID: u, Kind: "provision", Trigger: "hello", NotBefore: tx.Now().Add(3 * time.Hour)})
							return err
						})
					}
					refuse(u, refused)
					var res api.ActionResult
					var err error
					if verb == "retry" {
						res, err = admin.Act(ctx, verb, u.String(), "")
					} else {
						res, err = admin.AdoptDevice(ctx, u.String(), api.Adoption{Password: "Known!1"})
					}
					if err != nil {
						t.Fatal(err)
					}
					later := strings.Contains(res.Said, "59 minutes") || strings.Contains(res.Said, "60 minutes")
					if later != (refused == 3) {
						t.Errorf("%s after %d wrong passwords, one waits: %t: it says %q", verb, refused, waits, res.Said)
					}
					b.Read(func(ctx context.Context, tx *store.Tx) error {
						run, err := tx.LiveRun(ctx, u)
						if err != nil {
							return err
						}
						d, err := tx.Device(ctx, u)
						if err != nil {
							return err
						}
						wait, err := queue.Patience(ctx, tx, d, run, tx.Now())
						if err != nil || wait.Until.IsZero() == later || later && !run.NotBefore.Equal(wait.Until) || !later &&
							run.NotBefore.After(tx.Now()) {
							t.Errorf("%s: the worker waits until %v, the run until %v; the person was told %q (%v)", verb, wait.Until,
								run.NotBefore, res.Said, err)
						}
						return nil
					})
				}
			}
		}
	})
}

// TestVouch: a person's word for a certificate comes with adopt, retry, trust and a
// list, as people copy a fingerprint; the audit and the device's timeline have it.
// Without one the answer and why show which certificate it was and the command.
func TestVouch(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, admin := t.Context(), b.Client(b.Admin)
		sum := strings.Repeat("ab", 32)
		colons := strings.TrimSuffix(strings.Repeat("AB:", 32), ":")
		for what, give := range map[string]func(u string, v api.Vouch) error{
			"adopt": func(u string, v api.Vouch) error {
				_, err := admin.AdoptDevice(ctx, u, api.Adoption{Password: "Known!1", Vouch: v})
				return err
			},
			"retry": func(u string, v api.Vouch) error { _, err := admin.Retry(ctx, u, api.Retry{Vouch: v}); return err },
			"trust": func(u string, v api.Vouch) error { _, err := admin.Trust(ctx, u, api.Retry{Vouch: v}); return err },
			"import": func(u string, v api.Vouch) error {
				rep, err := admin.ImportDevices(ctx,
					api.DeviceImport{Document: fmt.Sprintf("uuid,fingerprint,trust_first\n%s,%s,%t\n", u, v.Fingerprint, v.TrustFirst)})
				if err == nil && len(rep.Problems) > 0 {
					err = &api.Problem{Code: "invalid_request", Detail: rep.Problems[0].Problem}
				}
				return err
			},
		} {
			for _, v := range []api.Vouch{{Fingerprint: sum}, {Fingerprint: colons}, {Fingerprint: "sha256:" + sum}, {TrustFirst: true}} {
				u := b.Seen(apitest.Device{Lifecycle: store.Failed, Reason: reason.PeerUnverified}).String()
				if err := give(u, v); err != nil {
					t.Errorf("%s %+v: %v", what, v, err)
					continue
				}
				want := sum
				if v.TrustFirst {
					want = "first"
				}
				if d, err := admin.Device(ctx, u); err != nil || d.Vouched != want {
					t.Errorf("%s %+v: vouched for %q, %v", what, v, d.Vouched, err)
				}
				if what == "import" {
					continue
				}
				records, err := admin.Audit(ctx, api.AuditQuery{Newest: true, Subject: u, Limit: 1})
				if err != nil || len(records.Records) != 1 || records.Records[0].Action != "device."+what ||
					records.Records[0].Detail["vouched_for"] == nil {
					t.Errorf("%s %+v: the audit says %+v, %v", what, v, records.Records, err)
				}
			}
			u := b.Seen(apitest.Device{Lifecycle: store.Failed}).String()
			for _, v := range []api.Vouch{{Fingerprint: sum[2:]}, {Fingerprint: sum, TrustFirst: true}} {
				if got := code(give(u, v)); got != "invalid_request" {
					t.Errorf("%s %+v: %q", what, v, got)
				}
			}
		}
		seen, err := hex.DecodeString(sum)
		if err != nil {
			t.Fatal(err)
		}
		u := b.Seen(apitest.Device{Lifecycle: store.Failed, Reason: reason.PeerUnverified,
			Facts: store.DeviceFacts{PeerSeen: &seen}}).String()
		command := "provctl device trust " + u + " --fingerprint " + sum
		if res, err := admin.AdoptDevice(ctx, u, api.Adoption{Password: "Known!1"}); err != nil || !strings.Contains(res.Said, command) ||
			res.Device.PeerSeen != sum {
			t.Errorf("adopted: %+v, %v", res, err)
		}
		if w, err := admin.Why(ctx, u); err != nil ||
			!slices.ContainsFunc(w.Checks, func(c string) bool { return strings.Contains(c, command) }) {
			t.Errorf("why: %+v, %v", w.Checks, err)
		}
	})
}
