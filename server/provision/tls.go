package provision

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// The four TLS steps follow amt/protocol.md 6.8. What an earlier attempt left in
// the device is found by reading it back and used again, so that a device's
// small certificate store does not fill up.

func wantsTLS(r *Run) bool { return r.Profile.TLS != profile.TLSNone || r.keepsTLS() }

// makeDeviceKey has the device make its own key pair; before AMT 7.0 the key is
// made here and put in.
var makeDeviceKey = Step{
	Name:   "device_key",
	Setup:  true,
	Needed: wantsTLS,
	Done: func(ctx context.Context, r *Run) (bool, error) {
		if err := r.readMaterial(ctx); err != nil {
			return false, err
		}
		if cert, key, ok := r.ownCertificate(); ok {
			r.certHandle, r.keyHandle = cert.Handle, key.Handle
			return true, nil
		}
		if key, ok := r.spareKey(); ok {
			r.keyHandle = key.Handle
			return true, nil
		}
		return false, nil
	},
	Apply: func(ctx context.Context, r *Run) error {
		if v := r.Identity.Version; !v.IsZero() && !v.AtLeast(7, 0) {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				return reason.Because(reason.InternalError, "make a key for the device: %w", err)
			}
			handle, err := r.Device.AddKey(ctx, key)
			if err != nil && !amt.Answered(err, amt.StatusDuplicate) {
				return named(reason.DeviceCertInstallFailed, err)
			}
			r.keyHandle = handle
			if r.keyHandle != "" {
				r.material.Keys = append(r.material.Keys, session.KeyInstance{Handle: handle, Public: &key.PublicKey})
				return nil
			}
		} else if err := r.generateKey(ctx); err != nil {
			return err
		}
		return r.findNewKey(ctx)
	},
}

// generateKey waits for a device that is busy making keys. It asks up to 20 times;
// the pauses grow to 10 seconds (amt/protocol.md 6.8).
func (r *Run) generateKey(ctx context.Context) error {
	pause := r.e.KeyPause
	for range 20 {
		handle, err := r.Device.GenerateKey(ctx, 2048)
		if err == nil {
			r.keyHandle = handle
			return nil
		}
		st, answered := errors.AsType[amt.Status](err)
		if busy := answered && (st.Class() == amt.ClassWait || st == amt.StatusInternalError || st == amt.StatusKeysMissing); !busy {
			return named(reason.KeypairGenerationFailed, err)
		}
		if err := r.e.Clock.Sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, 10*time.Second)
	}
	return reason.Because(reason.KeypairGenerationFailed, "the device stayed busy making keys")
}

// findNewKey reads the key pair's public half back.
func (r *Run) findNewKey(ctx context.Context) error {
	r.material = nil
	if err := r.readMaterial(ctx); err != nil {
		return err
	}
	for _, k := range r.material.Keys {
		if k.Handle == r.keyHandle && k.Public != nil {
			return nil
		}
	}
	if k, ok := r.spareKey(); ok {
		r.keyHandle = k.Handle
		return nil
	}
	return reason.Because(reason.KeypairGenerationFailed, "the device says it made a key pair and does not list it")
}

// installCertificate signs the device's public key with our device CA.
var installCertificate = Step{
	Name:   "device_certificate",
	Setup:  true,
	Needed: wantsTLS,
	Done:   func(_ context.Context, r *Run) (bool, error) { return r.certHandle != "", nil },
	// Whom the certificate is for is durable before the device has it: its key is
	// what the device is known by after the commit.
	Before: func(r *Run) {
		if pub := r.deviceKey(); pub != nil {
			r.proveWith(&r.admin, keyProof(pub))
		}
	},
	Apply: func(ctx context.Context, r *Run) error {
		pub := r.deviceKey()
		if pub == nil {
			return reason.Because(reason.KeypairGenerationFailed, "the device's key pair %q has no public key to sign", r.keyHandle)
		}
		der, err := r.e.Trust.IssueDevice(pub, r.Job.Device.UUID, r.fqdn(), r.host, r.Profile.CertificateValidity())
		if err != nil {
			if codeOf(err) == reason.DomainNotAllowed {
				return err
			}
			return reason.Because(reason.CAUnavailable, "sign the device's certificate: %w", err)
		}
		handle, err := r.Device.AddCertificate(ctx, der)
		if err != nil && !amt.Answered(err, amt.StatusDuplicate) {
			return named(reason.DeviceCertInstallFailed, err)
		}
		r.facts.CertUntil = r.e.Clock.Now().Add(r.Profile.CertificateValidity())
		if handle == "" {
			r.material = nil
			if err := r.readMaterial(ctx); err != nil {
				return err
			}
			cert, _, ok := r.ownCertificate()
			if !ok {
				return reason.Because(reason.DeviceCertInstallFailed, "the device took the certificate and does not list it")
			}
			handle = cert.Handle
		}
		r.certHandle = handle
		return nil
	},
}

// deviceKey is the public half of the key pair that the certificate is for.
func (r *Run) deviceKey() *rsa.PublicKey {
	for _, k := range r.material.Keys {
		if k.Handle == r.keyHandle {
			return k.Public
		}
	}
	return nil
}

// ownCertificateStays says that firmware which was given a certificate goes on
// showing one it made itself; "" when it does not. It is verified all the same: its
// key is that of the session in which the commit was sent.
func (r *Run) ownCertificateStays() string {
	p := r.facts.Peer
	if !wantsTLS(r) || p == nil || len(p.Chain) == 0 || r.showsOurs(*p) {
		return ""
	}
	return "it goes on showing the certificate it made itself, not the one it was given; a firmware update may mend that"
}

// showsOurs reports whether a peer shows a certificate of our device CA.
func (r *Run) showsOurs(p session.Peer) bool {
	return len(p.Chain) > 0 && r.e.Trust.IssuedByUs(p.Chain[0].Raw)
}

// shownNext is the key that the device is to show after its commit, when an earlier
// attempt chose a certificate for it and nothing wants TLS by now.
func (r *Run) shownNext() (list []store.Proof) {
	if r.material == nil || r.material.Context == "" {
		return nil
	}
	for _, c := range r.material.Certificates {
		if _, pub, _ := deviceCertificate(c.DER); c.Handle == r.material.Context && pub != nil {
			list = append(list, keyProof(pub))
		}
	}
	return list
}

// keyProof is what a device shows that holds this key.
func keyProof(pub *rsa.PublicKey) store.Proof {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return store.Proof{} // no handshake shows it
	}
	return store.Proof{Kind: store.ProofKey, Hash: sha256.Sum256(der)}
}

// useCertificate makes the certificate the one the device's TLS server shows.
var useCertificate = Step{
	Name:   "use_certificate",
	Setup:  true,
	Needed: wantsTLS,
	Done: func(_ context.Context, r *Run) (bool, error) {
		return r.material != nil && r.material.Context != "" && r.material.Context == r.certHandle, nil
	},
	Apply: func(ctx context.Context, r *Run) error {
		return named(reason.TLSEnableFailed, r.Device.UseCertificate(ctx, r.certHandle))
	},
}

// enableTLS switches TLS on for the network interface only: with the local one
// changed too, CommitChanges says success and does nothing (amt/protocol.md 6.8).
// A device that an earlier attempt told to ask consoles for certificates is told
// otherwise also where nothing wants TLS by now: the commit would make it count.
var enableTLS = Step{
	Name:   "enable_tls",
	Setup:  true,
	Needed: func(r *Run) bool { return wantsTLS(r) || r.again },
	Done: func(ctx context.Context, r *Run) (bool, error) {
		if err := r.readMaterial(ctx); err != nil {
			if !wantsTLS(r) && codeOf(err) == reason.WSMANFault {
				return true, nil // firmware without TLS
			}
			return false, err
		}
		if !wantsTLS(r) {
			return !slices.ContainsFunc(r.material.Settings, func(s session.TLSSetting) bool { return network(s) && s.Mutual }), nil
		}
		if _, err := r.tlsNow(); err != nil || r.tlsDiffers() != "" {
			return false, nil
		}
		err := r.letsUsIn(ctx) // what an earlier attempt told it is no better for that
		if shutsOut(err) {
			return false, nil
		}
		return err == nil, err
	},
	Apply: func(ctx context.Context, r *Run) error {
		if err := r.setTLS(ctx); err != nil {
			return err
		}
		if r.Profile.TLS == profile.TLSMutual {
			return r.letsUsIn(ctx) // what would shut us out is not committed
		}
		return nil
	},
}

func (r *Run) readMaterial(ctx context.Context) error {
	if r.material != nil {
		return nil
	}
	m, err := r.Device.TLSMaterial(ctx)
	if err != nil {
		return err
	}
	r.material = &m
	return nil
}

// ownCertificate finds a certificate that our device CA made for this device, in
// the name that is wanted, and whose key the device says it holds. The key has to be
// one that was signed in the set-up of the password at hand, so that it is known
// which key to expect.
func (r *Run) ownCertificate() (session.CertInstance, session.KeyInstance, bool) {
	for _, c := range r.material.Certificates {
		if c.Trusted || !r.e.Trust.IssuedByUs(c.DER) {
			continue
		}
		name, pub, until := deviceCertificate(c.DER)
		if name != r.fqdn() || until.Before(r.e.Clock.Now().Add(30*24*time.Hour)) {
			continue
		}
		for _, k := range r.material.Keys {
			if k.Public != nil && k.Public.Equal(pub) && slices.Contains(r.proofs(r.admin), keyProof(pub)) {
				return c, k, true
			}
		}
	}
	return session.CertInstance{}, session.KeyInstance{}, false
}

// spareKey finds a key pair no certificate in the device belongs to: one that
// an earlier attempt made.
func (r *Run) spareKey() (session.KeyInstance, bool) {
	for _, k := range r.material.Keys {
		if k.Public == nil {
			continue
		}
		used := false
		for _, c := range r.material.Certificates {
			if _, pub, _ := deviceCertificate(c.DER); pub != nil && k.Public.Equal(pub) {
				used = true
			}
		}
		if !used {
			return k, true
		}
	}
	return session.KeyInstance{}, false
}

// deviceCertificate reads what matters of a certificate in a device's store; a
// firmware's own default one may be unreadable, and is then nobody's.
func deviceCertificate(der []byte) (name string, pub *rsa.PublicKey, until time.Time) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return "", nil, time.Time{}
	}
	pub, _ = c.PublicKey.(*rsa.PublicKey)
	return c.Subject.CommonName, pub, c.NotAfter
}

// network reports whether a TLS setting is the network interface's, by name:
// the order of the instances says nothing.
func network(s session.TLSSetting) bool { return strings.Contains(s.InstanceID, "802.3") }
