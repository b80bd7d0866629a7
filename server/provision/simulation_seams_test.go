package provision

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// seams are one actor's view of store, clock and device.
type seams struct {
	w     *world
	n     *simNode
	a     *actor
	yield func(time.Duration) bool
	open  []*simSession // its own, of this attempt
	told  int           // how often this attempt has said whom to let in
}

func (s *seams) Now() time.Time { return s.w.now.Add(s.n.skew) }

func (s *seams) Sleep(_ context.Context, d time.Duration) error {
	pause(s.a, s.yield, d)
	return nil
}

// db is one transaction: it may fail before it happens, or happen and not say so.
func (s *seams) db(name string, f func() error) error {
	s.a.in = name
	defer func() { s.a.in = "" }()
	pause(s.a, s.yield, time.Duration(1+s.w.rng.IntN(20))*time.Millisecond)
	switch {
	case s.w.p(.03):
		s.w.hit("store fails:", name)
		return errors.New("the database is away")
	case s.w.p(.015):
		// The commit was on its way when the line broke, and did not arrive.
		s.w.hit("commit outcome unknown, not made:", name)
		return store.ErrUnknownOutcome
	}
	err := f()
	s.w.say("%s %s -> %v", s.a.name, name, err)
	s.w.check(name)
	if err == nil && s.w.p(.03) {
		s.w.hit("commit outcome unknown, made:", name)
		err = store.ErrUnknownOutcome
	}
	pause(s.a, s.yield, time.Duration(1+s.w.rng.IntN(20))*time.Millisecond)
	return err
}

func (s *seams) owner() string { return fmt.Sprintf("n%d", s.n.id) }

func (s *seams) Claim(_ context.Context, id int64, lease time.Duration) (job *Job, err error) {
	s.open, s.told = nil, 0
	err = s.db("claim", func() error { job, err = s.w.db.claim(id, s.owner(), lease); return err })
	if err != nil {
		job = nil
	}
	return job, err
}

func (s *seams) Journal(_ context.Context, l Lease, steps []store.StepRecord, facts *Facts) error {
	return s.db("journal "+lastName(steps), func() error {
		if err := s.w.db.renew(l, lastName(steps)); err != nil {
			return err
		}
		return s.w.db.learn(facts)
	})
}

func (s *seams) Sending(_ context.Context, l Lease, steps []store.StepRecord, out Handout) error {
	err := s.db("sending "+lastName(steps), func() error {
		if err := s.w.db.renew(l, lastName(steps)); err != nil {
			return err
		}
		c := s.w.db.cred(out.Credential)
		if c == nil {
			return fmt.Errorf("credential %d is not there", out.Credential)
		}
		c.SentAt, c.Peer, c.Address, c.Realm, c.RefusedAt = s.w.now, bytes.Clone(out.Peer), out.Address, out.Realm, time.Time{}
		if out.Commits {
			c.CommittedAt = s.w.now
		}
		return nil
	})
	if err == nil {
		s.w.certain[handout{l.Fence, s.w.db.cred(out.Credential).Password.Reveal()}] = true
	}
	if errors.Is(err, store.ErrUnknownOutcome) && s.w.mutant == "an unknown outcome counts as done" {
		err = nil
	}
	return err
}

func (s *seams) Stage(_ context.Context, l Lease, setup int, admin, mebx amt.Secret) (a, m store.Credential, err error) {
	err = s.db("stage", func() error {
		if err := s.w.db.renew(l, ""); err != nil {
			return err
		}
		a, m = s.w.db.stage(l.RunID, setup, admin, mebx)
		if mebx.IsZero() {
			m = store.Credential{}
		}
		return nil
	})
	return a, m, err
}

func (s *seams) StageUser(context.Context, Lease, string, amt.Secret) (store.UserPassword, error) {
	return store.UserPassword{}, errors.New("no profile of this simulation has users")
}

func (s *seams) Renew(_ context.Context, leases []Lease) (lost []Lease, err error) {
	err = s.db("renew", func() error {
		lost = nil
		for _, l := range leases {
			if s.w.db.renew(l, "") != nil {
				lost = append(lost, l)
			}
		}
		if s.w.mutant == "lease end from unfenced read" {
			lost = nil
		}
		return nil
	})
	return lost, err
}

func (s *seams) Settle(_ context.Context, l Lease, v Verdict) error {
	return s.db("settle "+string(v.Reason), func() error { return s.w.db.settle(l, v) })
}

func lastName(steps []store.StepRecord) string {
	if len(steps) == 0 {
		return ""
	}
	return steps[len(steps)-1].Name
}

// simRand makes crypto-looking bytes out of the seed.
type simRand struct{ *rand.Rand }

func (r simRand) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return len(b), nil
}

// simTrust has one provisioning certificate, and a device CA.
type simTrust struct{}

func (simTrust) Candidates(roots []amt.TrustHash, _ certs.Hints) ([]certs.Candidate, error) {
	if roots[0].Sum[0] != 1 {
		return nil, reason.Because(reason.RootNotTrusted, "other roots")
	}
	return []certs.Candidate{{Cert: &certs.Provisioning{ID: "c1", Name: simLeaf.Subject.CommonName, Leaf: simLeaf}}}, nil
}

func (simTrust) IssueDevice(pub *rsa.PublicKey, _ amt.UUID, fqdn, _ string, _ time.Duration) ([]byte, error) {
	return simIssue(pub, fqdn), nil
}

func (simTrust) IssuedByUs(der []byte) bool {
	c, err := x509.ParseCertificate(der)
	return err == nil && c.Issuer.CommonName == "simulated device CA"
}

func (simTrust) Console() (*tls.Certificate, []byte)    { return consoleOf(simConsole), simRoot }
func (simTrust) ConsoleAs(name string) *tls.Certificate { return consoleOf(name) }
