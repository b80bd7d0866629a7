package provision

import (
	"bytes"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/store"
)

// ODCA says what a certificate made by Intel's on-die authority is worth here.
type ODCA string

// Policies.
const (
	// ODCAOff does not look at it.
	ODCAOff ODCA = "off"
	// ODCAPrefer verifies what a device shows and remembers it: a device that
	// proved its hardware once has to do so each time it is set up.
	ODCAPrefer ODCA = "prefer"
	// ODCARequire sets up no device of AMT 15 or later that does not.
	ODCARequire ODCA = "require"
)

// odcaSince is the first release whose setup certificate leads to Intel's root.
const odcaSince = 15

// Rungs of devices.peer_verified.
const (
	verifiedODCA = "odca"
	verifiedNone = "none"
)

// provenHardware refuses a device that has to show a hardware certificate and
// does not. It is asked as soon as the session is open, with the version known
// from before, and again when the device has said its version; a password is
// sent after that. A device that was met as AMT 15 stays one, whatever it says
// now; of one that nobody has met, the word has to be taken.
func (r *Run) provenHardware(peer session.Peer, setup bool, says amt.Version) error {
	if r.e.ODCA == "" || r.e.ODCA == ODCAOff {
		return nil
	}
	was := r.Job.Device
	if peer.Verified == verifiedODCA {
		if was.PeerVerified == verifiedODCA && !r.sameHardware(peer) {
			return reason.Because(r.otherHardware(),
				"the hardware certificate at %s is Intel's and another machine's than the one known under this UUID", was.Address)
		}
		return nil
	}
	has := was.PeerVerified == verifiedODCA
	must := has || r.e.ODCA == ODCARequire && (was.Version.AtLeast(odcaSince, 0) || says.AtLeast(odcaSince, 0))
	if !must {
		return nil
	}
	if !setup {
		// It has been set up: what it shows then is what it was given.
		if r.knows(peer) {
			return nil
		}
		return reason.Because(reason.ODCAVerificationFailed,
			"what answers at %s is set up and shows neither the certificate it was given nor one of its hardware", was.Address)
	}
	why := "the certificate at " + was.Address.String() + " is not one of Intel's on-die authority"
	if peer.ODCA {
		why = "the hardware certificate at " + was.Address.String() + " does not lead to a root of provisioning.odca.roots: " +
			strings.TrimSuffix(peer.ODCAProblem, ".")
	}
	if has {
		return reason.Because(reason.ODCAVerificationFailed, "%s, and the device showed one before", why)
	}
	return reason.Because(reason.ODCAVerificationFailed, "%s, which provisioning.odca.policy requires from AMT %d on", why, odcaSince)
}

// sameHardware reports whether a verified on-die chain leads through the hardware
// identity that is known under this UUID: that of the active password's set-up, else
// the one that the newest set-up saw, whether it came to its end or not. A set-up of an
// earlier release saw none, and so does one while the policy was off.
func (r *Run) sameHardware(p session.Peer) bool {
	known := func(c store.Credential) []store.Proof {
		return slices.DeleteFunc(slices.Clone(r.proofs(c)), func(h store.Proof) bool { return h.Kind != store.ProofHardware })
	}
	at := slices.IndexFunc(r.Job.Admin, func(c store.Credential) bool { return c.State == store.CredentialActive && len(known(c)) > 0 })
	if at < 0 {
		at = slices.IndexFunc(r.Job.Admin, func(c store.Credential) bool { return len(known(c)) > 0 })
	}
	return at < 0 || slices.ContainsFunc(known(r.Job.Admin[at]), func(h store.Proof) bool { return bytes.Equal(h.Hash[:], p.Hardware) })
}

// otherHardware is the reason for two machines that each proved their hardware under
// one UUID. Of one that was never managed nobody can say which of them it is.
func (r *Run) otherHardware() reason.Code {
	if r.Job.Device.ProvisionedAt.IsZero() {
		return reason.UUIDDuplicate
	}
	return reason.ODCAVerificationFailed
}
