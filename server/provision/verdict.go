package provision

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// kept reports whether the password that a device let us in with is not of a set-up
// that is under way: it was proved before, or follows one that was.
func (r *Run) kept() bool { return r.admin.State != store.CredentialCandidate || !r.admin.Begins() }

// verdictBare turns the end of a setup attempt into what is written down.
func (r *Run) verdictBare(err error) Verdict {
	v := Verdict{Steps: r.book, Facts: r.learnt(), Blame: reason.NoBlame, Refused: r.denied, Looked: r.looked}
	if r.verified {
		// The login succeeded: whatever came after it, the device is ours.
		r.located()
		v.Facts = r.learnt()
		v.OK, v.Ended = true, store.Provisioned
		if why := r.ownCertificateStays(); why != "" {
			v.Health, v.Detail = "warn", why
		}
		v.Active = append(v.Active, r.admin.ID)
		if v.Kept = r.kept(); v.Kept {
			return v
		}
		v.Profile, v.ProfileVersion, v.Chosen = r.Profile.Name, r.Profile.Version, r.cert.Why
		if r.Profile.Wanted() {
			v.Then = TaskSettings // in a session of its own: the device is ours already
		}
		if r.mebxHeld != 0 {
			v.Active = append(v.Active, r.mebxHeld)
		}
		return v
	}
	code := codeOf(err)
	entry := reason.Of(code)
	v.Reason, v.Detail, v.Blame = code, clip(errText(err)), entry.Blame
	v.Ended = store.Failed
	if odd := new(session.CertificateError); errors.As(err, &odd) {
		v.OddCertificate = odd.DER
	}
	if r.mayArrive(err) {
		v.Quiet = r.e.Quiet
	}
	switch entry.Retry {
	case reason.Repeat:
		n := r.Job.Device.Attempts
		if entry.GivenUp(n, r.e.Attempts) && r.untried == 0 {
			v.Detail = clip(fmt.Sprintf("given up at attempt %d: %s", n, errText(err)))
			break
		}
		if entry.Blame == reason.OurServer || r.untried > 0 {
			n = min(n, 3) // ours to mend: the device is not made to wait for it
		}
		v.Again = max(r.e.backoff(n), v.Quiet)
	case reason.ForCertificate:
		v.Ended, v.Offered = store.PendingCertificate, r.fitting
		if code == reason.TLSClientCertRefused || code == reason.TLSSuffixRejected {
			v.Ended = store.Failed
		}
	}
	switch code {
	case reason.CredentialsUnknown:
		v.Ended = store.CredentialsUnknown
	case reason.UUIDMismatch, reason.UUIDDuplicate, reason.IdentityConflict, reason.OTPMismatch, reason.SuffixContradiction:
		v.Ended = store.Quarantined
	case reason.Cancelled:
		v.Again = 0
	}
	return v
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	if errors.Is(err, context.DeadlineExceeded) && codeOf(err) == reason.WorkerCrashed {
		return "the attempt took too long and was stopped"
	}
	return err.Error()
}

// backoff is the pause after the n-th attempt in a row, jittered by a fifth so
// that a rack that came up together does not come back together.
func (e *Engine) backoff(n int) time.Duration {
	if n < 1 {
		n = 1
	}
	d := e.Retry[min(n, len(e.Retry))-1]
	return d - d/5 + jitter(e.Rand, d*2/5)
}

func jitter(r io.Reader, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return most / 2
	}
	return time.Duration(binary.LittleEndian.Uint64(b[:]) % uint64(most))
}
