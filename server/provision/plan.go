// Package provision is the workflow: what happens to a device between its hello
// and being managed, in order, and what is done when it does not happen.
//
// A run is one promise to bring one device to one profile. A worker claims it
// (lease and fence on the device's row), connects, and walks the plan below.
// Every step is a question that changes nothing (Done) and a change that is
// safe to repeat (Apply). After any failure, or a restart, the questions are
// asked again from the top: there is no other recovery.
//
// The rules that hold at every line (server/provision/invariants.md):
//
//  1. A device receives only what is already durable here.
//  2. Every change is journalled before it is sent, in a write that checks the
//     fence and renews the lease; the socket's deadline ends before the lease.
//  3. A change whose answer was lost is never repeated on the spot: the run
//     ends, a quiet time passes, and the next attempt asks first.
//  4. Success is a login with the new password, never an HTTP status.
//  5. A login leaves only for the device its password belongs to (whom.go).
package provision

import (
	"context"
	"slices"

	"github.com/provisiond/provisiond/store"
)

// A Step is one thing a device must have gone through.
type Step struct {
	Name string
	// Label is what metrics call it, so that a list of steps costs no series each;
	// "" is Name.
	Label string
	// Needed reports whether this run wants the step at all; nil means always.
	Needed func(*Run) bool
	// Done asks the device and changes nothing; nil means it cannot be asked.
	Done func(context.Context, *Run) (bool, error)
	// Hands is the password that the change hands out, if it hands one out: which
	// and to whom is made durable before it leaves.
	Hands func(*Run) *store.Credential
	// Before notes what else has to be durable before the change is sent.
	Before func(*Run)
	// Apply makes the change; nil for a step that only asks.
	Apply func(context.Context, *Run) error
	// Setup marks what only a device in setup mode takes. A device found
	// committed has been through it.
	Setup bool
}

// adminControl is what a bare device goes through.
var adminControl = []Step{
	readIdentity,
	proveIdentity,
	claimName, // a device that may not have its name hears nothing
	extendWindow,
	setClock, // before anything that needs the time: TLS and commit do
	setMEBxPassword,
	setAdminPassword,
	setHostName,
	makeDeviceKey,
	installCertificate,
	useCertificate,
	enableTLS,
	commitChanges, // last of setup: from here on the device answers only as ours
	verifyLogin,
	readRecord,
}

// managedDevice is what a device under management goes through when something
// about it is due. Each step asks whether it is needed before it changes
// anything, so that a device as wanted is only looked at.
var managedDevice = []Step{
	readManaged,
	checkClock,
	checkName,
	checkTLS, // what the device says of its TLS, against the profile
	renewKey,
	renewCertificate,
	useRenewed,
	restoreTLS,
	saveChanges, // the device restarts its network with the new certificate
	dropOldCertificates,
	stagePassword, // durable here before the device hears it
	changePassword,
	verifyPassword,
}

// ownedDevice is managedDevice and then what its profile wants beyond ownership.
var ownedDevice = append(managedDevice[:len(managedDevice):len(managedDevice)], settingSteps()...)

// newPassword changes the admin password and nothing else.
var newPassword = []Step{
	readManaged,
	stagePassword,
	changePassword,
	verifyPassword,
}

// backToFactory undoes the setup. The passwords stay in the store: what a
// device says of its own end is a closed port, and that may be a lie.
var backToFactory = []Step{
	readLeaving,
	unprovision,
	confirmGone,
}

// Kinds of runs.
const (
	KindProvision   = store.ProvisionRun
	KindMaintain    = store.MaintainRun
	KindRotate      = store.RotateRun
	KindUnprovision = store.UnprovisionRun
)

// plan is what a run of one kind does: how it meets the device, the steps, and
// what their end means.
type plan struct {
	contact func(*Run, context.Context) error
	steps   []Step
	verdict func(*Run, error) Verdict
}

func planOf(kind string) plan {
	switch kind {
	case KindMaintain:
		return plan{(*Run).contactManaged, ownedDevice, (*Run).verdictManaged}
	case KindRotate:
		return plan{(*Run).contactManaged, newPassword, (*Run).verdictManaged}
	case KindProbe:
		return plan{(*Run).contactProbe, answers, (*Run).verdictProbe}
	case KindUnprovision:
		return plan{(*Run).contactLeaving, backToFactory, (*Run).verdictLeaving}
	}
	return plan{(*Run).contactBare, adminControl, (*Run).verdictBare}
}

func (s Step) label() string { return first(s.Label, s.Name) }

// StepNames lists what metrics call the steps of all plans, each name once.
func StepNames() []string {
	var names []string
	for _, p := range [][]Step{adminControl, ownedDevice, newPassword, backToFactory} {
		for _, s := range p {
			if name := s.label(); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
