package rest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/certs/certtest"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/rest"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

// TestWhyAnswersWhole: whatever holds a device up, the answer says what, since
// when, what was tried, what a person can do and what happens by itself.
func TestWhyAnswersWhole(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		c := b.Client(b.Token(api.Viewer))
		states := map[reason.Code]store.Lifecycle{
			reason.UUIDInvalid: store.Quarantined, reason.UUIDDuplicate: store.Quarantined, reason.IdentityConflict: store.Quarantined,
			reason.OTPMismatch: store.Quarantined, reason.UUIDMismatch: store.Quarantined, reason.NotAuthorized: store.PendingApproval,
			reason.ReappearedUnprovisioned: store.PendingApproval, reason.NoProfileRule: store.PendingIdentity,
			reason.IdentityIncomplete: store.PendingIdentity,
			reason.SetupWindowExpired: store.Dormant, reason.Blocklisted: store.Retired,
			reason.CredentialsUnknown: store.CredentialsUnknown,
		}
		for _, e := range reason.All() {
			to := states[e.Code]
			if to == "" {
				to = store.Failed
				if e.Retry == reason.ForCertificate {
					to = store.PendingCertificate
				}
			}
			u := b.Seen(apitest.Device{Lifecycle: to, Reason: e.Code, Detail: "evidence of " + string(e.Code)})
			w, err := c.Why(t.Context(), u.String())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(w.Says, e.Title) || !strings.Contains(w.Says, "evidence of") {
				t.Errorf("%s: says %q", e.Code, w.Says)
			}
			if w.Since == nil || w.Next == "" || len(w.Tried) == 0 || len(w.Checks) == 0 || w.Reason == nil {
				t.Errorf("%s: since %v, next %q, tried %v, checks %v", e.Code, w.Since, w.Next, w.Tried, w.Checks)
			}
		}
		for _, l := range store.Lifecycles() {
			w, err := c.Why(t.Context(), b.Seen(apitest.Device{Lifecycle: l}).String())
			if err != nil || w.Says == "" || w.Since == nil || w.Next == "" || len(w.Tried) == 0 {
				t.Errorf("%s: %+v %v", l, w, err)
			}
		}
		for _, id := range []string{"11223344-5566-7788-99aa-0123456789ab", "192.0.2.77", "00-11-22-33-44-55", "pc99.corp.example"} {
			w, err := c.Why(t.Context(), id)
			if err != nil || w.Found || w.Says == "" || w.Next == "" || len(w.Checks) < 4 {
				t.Errorf("never seen, %s: %+v %v", id, w, err)
			}
		}
	})
}

// TestWhyAfterASetupIsUndone: of a setup window is spoken only while the device
// listens, and whoever waits for a machine that is gone is told how to end that.
func TestWhyAfterASetupIsUndone(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		until := time.Now().Add(time.Hour)
		factory, setup := amt.StatePre.String(), amt.StateIn.String()
		for _, c := range []struct {
			to    store.Lifecycle
			why   reason.Code
			mode  string
			wants []string
			not   string
		}{
			{store.Unprovisioned, "", factory, []string{"silent until its setup is begun"}, "setup window"},
			{store.Unprovisioned, "", setup, []string{"setup window", "device approve"}, "silent"},
			{store.Unprovisioned, reason.NotAuthorized, factory, []string{"setup window", "device approve"}, "silent"},
			{store.Unprovisioning, reason.DeviceUnreachable, "", []string{"gone for good: provctl device retire"}, "setup window"},
			{store.PendingApproval, reason.NotAuthorized, "", []string{"setup window"}, "gone for good"},
		} {
			d := apitest.Device{Lifecycle: c.to, Reason: c.why}
			d.Facts.WindowUntil, d.Facts.DeviceMode = &until, &c.mode
			w, err := b.Client(b.Admin).Why(t.Context(), b.Seen(d).String())
			all := w.Next + "\n" + strings.Join(w.Checks, "\n")
			for _, want := range c.wants {
				if err != nil || !strings.Contains(all, want) {
					t.Errorf("%s %s %s: %v, want %q in\n%s", c.to, c.why, c.mode, err, want, all)
				}
			}
			if strings.Contains(all, c.not) {
				t.Errorf("%s %s %s: %q in\n%s", c.to, c.why, c.mode, c.not, all)
			}
		}
	})
}

// TestWhyOfManagedDevices: with which something is wrong, nobody is sent to a
// command that refuses such a device.
func TestWhyOfManagedDevices(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	for _, c := range []struct {
		to   store.Lifecycle
		why  reason.Code
		want string
	}{
		{store.Provisioned, "", "nothing has to happen"},
		{store.Provisioned, reason.DeviceUnreachable, "maintenance looks at it again"},
		{store.Provisioned, reason.TLSPinnedKeyChanged, "provctl device trust"},
		{store.Drifted, reason.IdentityConflict, "provctl device release"},
		{store.Drifted, reason.ProfileDrift, "--task clock,cert,name,tls,settings"},
	} {
		w, err := b.Client(b.Admin).Why(t.Context(), b.Seen(apitest.Device{Lifecycle: c.to, Reason: c.why}).String())
		if err != nil || !strings.Contains(w.Next, c.want) || strings.Contains(w.Next, "device retry") {
			t.Errorf("%s %s: next is %q, %v; want %q", c.to, c.why, w.Next, err, c.want)
		}
	}
}

// TestWhySideBySide: a device that refused our certificate is shown what its
// firmware compared, and the rule that decides.
func TestWhySideBySide(t *testing.T) {
	t.Parallel()
	prov, err := certs.LoadPFX(t.Context(), certtest.NewLab(time.Now()).Plain("Vendor",
		"provisionserver.corp.example.com").PFX(certtest.Modern, "secret"), amt.NewSecret("secret"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b := apitest.New(t, apitest.With(func(d *rest.Deps) { d.Certs = func() []*certs.Provisioning { return []*certs.Provisioning{prov} } }))
	for suffix, want := range map[string]string{
		"corp.example.com": "provisionserver.corp.example.com: serves that suffix (",
		"lab.example.org":  "provisionserver.corp.example.com: does not serve that suffix (",
		"":                 "has not told its DNS suffix",
	} {
		d := apitest.Device{Lifecycle: store.Failed, Reason: reason.TLSClientCertRefused}
		d.Facts.Suffix = &suffix
		u := b.Seen(d)
		w, err := b.Client(b.Admin).Why(t.Context(), u.String())
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(w.Checks, "\n")
		if !strings.Contains(all, want) || suffix != "" && !strings.Contains(all, "DNS suffix is "+suffix+", from DHCP option 15") ||
			!strings.Contains(all, "its root is ") {
			t.Errorf("suffix %q: want %q in\n%s", suffix, want, all)
		}
		if strings.Contains(all, "provctl device why") {
			t.Errorf("the answer sends back to the question:\n%s", all)
		}
	}
	u := b.Seen(apitest.Device{Lifecycle: store.Quarantined, Reason: reason.IdentityConflict})
	w, err := b.Client(b.Admin).Why(t.Context(), u.String())
	if all := strings.Join(w.Checks, "\n"); err != nil || !strings.Contains(all, "provctl device release "+u.String()) ||
		strings.Contains(all, "UUID") {
		t.Errorf("the commands cannot be typed as they stand: %v\n%s", err, all)
	}
}

// TestSeveralLinesInOne: an error of several lines is read as one, without signs that
// stand for nothing.
func TestSeveralLinesInOne(t *testing.T) {
	t.Parallel()
	if got := api.Clean("first\nsecond\r\nthird\tpart"); got != "first; second; third part" {
		t.Errorf("%q", got)
	}
}
