package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/amt/sim"
)

func TestWhatADeviceDoesWrong(t *testing.T) {
	t.Parallel()
	mebx := func(ctx context.Context, s *session.Session) error {
		return s.SetMEBxPassword(ctx, amt.NewSecret(mebxPassword))
	}
	state := func(ctx context.Context, s *session.Session) error { _, err := s.State(ctx); return err }
	const method, class = "SetMEBxPassword", "Get:AMT_SetupAndConfigurationService"
	for _, tc := range []struct {
		name  string
		fault sim.Fault
		call  func(context.Context, *session.Session) error
		code  reason.Code
		sent  bool
		told  bool // the device has heard the password
	}{
		{"change, cut before", sim.Cut(method), mebx, reason.ConnectionLost, true, false},
		{"change, answer lost", sim.Drop(method), mebx, reason.ConnectionLost, true, true},
		{"change, half an answer", sim.Fault{Kind: sim.CutReply, Call: method}, mebx, reason.ConnectionLost, true, true},
		{"change, garbled answer", sim.Fault{Kind: sim.Garble, Call: method}, mebx, reason.WSMANInvalid, true, true},
		{"change, another's answer", sim.Fault{Kind: sim.WrongRelate, Call: method}, mebx, reason.WSMANInvalid, true, true},
		{"change, a gigabyte", sim.Fault{Kind: sim.HugeBody, Call: method}, mebx, reason.WSMANInvalid, true, true},
		{"change, nested answer", sim.Fault{Kind: sim.NestedXML, Call: method}, mebx, reason.WSMANInvalid, true, true},
		{"change, power lost after it", sim.Fault{Kind: sim.PowerCycle, Call: method}, mebx, reason.ConnectionLost, true, true},
		{"change, no answer", sim.Fault{Kind: sim.Hang, Call: method}, mebx, reason.WSMANTimeout, true, false},
		{"change, refused", sim.Refused(method, amt.StatusNotPermitted), mebx, reason.MEBxPasswordRejected, false, false},
		{"change, not ready", sim.Refused(method, amt.StatusNotReady), mebx, reason.WSMANFault, false, false},
		{"change, busy", sim.Fault{Kind: sim.Busy503, Call: method}, mebx, reason.WSMANFault, false, false},
		{"change, an unannounced challenge", sim.Fault{Kind: sim.Ask401, Call: method}, mebx, "", false, true},
		{"question, cut before", sim.Cut(class), state, "", false, false},
		{"question, answer lost", sim.Drop(class), state, "", false, false},
		{"question, power lost", sim.Fault{Kind: sim.PowerCycle, Call: class}, state, reason.ConnectionLost, false, false},
		{"question, no answer", sim.Fault{Kind: sim.Hang, Call: class}, state, reason.WSMANTimeout, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			// it is not back before the question is asked again
			d := startDevice(t, sim.Config{Personality: "11", Faults: sim.With(tc.fault), Restart: time.Minute})
			s := dialSetup(t, d)
			if _, err := s.Clock(t.Context()); err != nil { // so that the line is one in use
				t.Fatal(err)
			}
			ctx := t.Context()
			if tc.fault.Kind == sim.Hang {
				var end context.CancelCauseFunc
				ctx, end = context.WithCancelCause(ctx)
				go func() { hanging(t.Context(), d); end(context.DeadlineExceeded) }()
			}
			err := tc.call(ctx, s)
			if tc.code == "" {
				if err != nil {
					t.Fatal(err)
				}
			} else if why := wantCode(t, err, tc.code); why.Sent != tc.sent {
				t.Errorf("sent %v (%v), want %v", why.Sent, err, tc.sent)
			}
			snap := d.Snapshot()
			if snap.HasPassword(mebxPassword) != tc.told {
				t.Errorf("the device has heard the password: %v, want %v", !tc.told, tc.told)
			}
			// What broke is not the same session any more, unless nothing had been
			// changed: then a question is asked again, once.
			want := 1
			if tc.code == "" && tc.fault.Kind != sim.Ask401 {
				want = 2
			}
			if snap.Handshakes != want {
				t.Errorf("%d handshakes, want %d", snap.Handshakes, want)
			}
			if len(snap.FaultsFired) == 0 {
				t.Error("the fault did not happen")
			}
		})
	}
}

// The answer to a commit may be lost: then the state, read over a new
// connection, decides.
func TestLostCommitIsVerified(t *testing.T) {
	t.Parallel()
	for _, f := range []sim.Fault{sim.Drop("CommitChanges"), sim.Cut("CommitChanges"), {Kind: sim.CommitNoop}} {
		t.Run(f.String(), func(t *testing.T) {
			t.Parallel()
			d := startDevice(t, sim.Config{Personality: "11", Faults: sim.With(f)})
			s := dialSetup(t, d)
			_, err := setUp(t, t.Context(), s)
			_ = s.Close()
			switch f.Kind {
			case sim.CommitNoop:
				if err != nil {
					t.Fatal(err)
				}
			default:
				if why := wantCode(t, err, reason.ConnectionLost); !why.Sent {
					t.Error("nobody knows whether it happened, yet Sent is false")
				}
			}
			if f.Kind == sim.DropReply {
				verify(t, d, adminPassword)
				return
			}
			again := dialSetup(t, d) // still in setup, the certificate is still the authority
			if state, err := again.State(t.Context()); err != nil || state != amt.StateIn {
				t.Fatalf("%v, %v", state, err)
			}
		})
	}
}

func TestRefusedByTheDevice(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"3.2", "5", "11", "16"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := startDevice(t, sim.Config{Personality: name})
			other := lab().Plain("Unknown", "provisionserver.lab.test")
			for what, target := range map[string]session.Target{
				"a root it does not know": {Client: clientCertificate(other)},
				"no certificate":          {},
			} {
				target.Addr = d.Addr()
				s, err := newDialer().Dial(t.Context(), target)
				if err == nil {
					_ = s.Close()
					t.Fatalf("%s: it let us in", what)
				}
				wantCode(t, err, reason.TLSClientCertRefused)
			}
		})
	}
}

// hanging waits until a device has been asked what it does not answer.
func hanging(ctx context.Context, d *sim.Device) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for len(d.Snapshot().FaultsFired) == 0 && ctx.Err() == nil {
		<-tick.C
	}
}

// A rogue whose answers hang cannot hold us longer than the lease.
func TestLeaseEndsACall(t *testing.T) {
	t.Parallel()
	d := startDevice(t, sim.Config{Personality: "11", Faults: sim.With(sim.Fault{Kind: sim.Hang, All: true})})
	s := dialSetup(t, d)
	go func() { hanging(t.Context(), d); s.SetDeadline(time.Now().Add(100 * time.Millisecond)) }()
	err := s.SetMEBxPassword(t.Context(), amt.NewSecret(mebxPassword))
	if why := wantCode(t, err, reason.LeaseLost); !why.Sent {
		t.Error("Sent is false")
	}
	if !errors.Is(s.SetHostName(t.Context(), "a", "b"), err) && s.SetHostName(t.Context(), "a", "b") == nil {
		t.Error("the session goes on after its lease")
	}
}
