// Package provision is the workflow: what happens to a device between its hello
// and being managed, in order, and what is done when it does not happen.
//
// A run is one promise to bring one device to one profile. A worker claims it
// (lease and fence on the device's row), connects, and walks the plan below.
// Every step is a question that changes nothing (Done) and a change that is
// safe to repeat (Apply). After any failure, or a restart, the questions are
// asked again from the top: there is no other recovery.
//
// The rules that hold at every line (reliability.md 2.3):
//
//  1. A device receives only what is already durable here.
//  2. Every change is journalled before it is sent, in a write that checks the
//     fence and renews the lease; the socket's deadline ends before the lease.
//  3. A change whose answer was lost is never repeated on the spot: the run
//     ends, a quiet time passes, and the next attempt asks first.
//  4. Success is a login with the new password, never an HTTP status.
package provision

import "context"

// A Step is one thing a device must have gone through.
type Step struct {
	Name string
	// Needed reports whether this run wants the step at all; nil means always.
	Needed func(*Run) bool
	// Done asks the device and changes nothing; nil means it cannot be asked.
	Done func(context.Context, *Run) (bool, error)
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

// StepNames lists the plan's steps in order: metric labels and the page's rows.
func StepNames() []string {
	names := make([]string, len(adminControl))
	for i, s := range adminControl {
		names[i] = s.Name
	}
	return names
}
