// Package operate says what an operator may do: which command is for which
// device, what a command changes, which devices a query finds, what a job does,
// and why a device stands where it does. It decides in the caller's transaction
// and knows nothing of HTTP: package rest decodes a request, asks here, and
// encodes the answer; the job worker asks here in the same words.
//
// A command goes like this:
//
//  1. Which (which.go) finds the one device that a text names.
//  2. Room.Do (command.go) asks the table (lifecycle.go) whether the command is
//     for the device as it stands. *Refused says why not.
//  3. The command writes rows: the device, its run, its timeline.
//  4. A single command is audited; a job's was when the job was made.
package operate

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// Room is what this package stands on beside the caller's transaction: two ways
// to begin work, and what the configuration says.
type Room struct {
	// StartRun creates a run and makes sure, in the same transaction, that the
	// device has candidate passwords (admit.StartRun).
	StartRun func(ctx context.Context, tx *store.Tx, uuid amt.UUID, kind, trigger, profile string, at time.Time) (store.Run, error)
	// Enqueue nudges a worker in the caller's transaction (queue.EnqueueTx).
	Enqueue func(ctx context.Context, tx *store.Tx, runID int64, at time.Time, priority int) error
	// Certs are the provisioning certificates in use.
	Certs func() []*certs.Provisioning

	MostAttempts int // in a row, before a person is asked; 0: no end

	// SecondApprover are the kinds of job that wait for another user whatever
	// their maker says; SecondApproverAbove is the number of devices above which
	// any job does, 0 for none.
	SecondApprover      []string
	SecondApproverAbove int

	// Canary is the size of a job's second wave, and WavePace how many devices a
	// minute its last one begins, when a job does not say.
	Canary, WavePace int

	// Networks and Zones let the answer to "why" speak of the configuration.
	Networks []netip.Prefix
	Zones    []string
	HelloAt  string // hello.listen

	Now func() time.Time // nil: time.Now
}

func (r *Room) now() time.Time {
	if r.Now == nil {
		return time.Now()
	}
	return r.Now()
}

// Principal is who is asking.
type Principal struct {
	ID   int64
	Name string // of the token; of the token that logged in, for a session
	User string // whose token it is
	Role api.Role
	Job  int64 // of a command that a job gives in the user's name; 0 none
}

// OfJob is the maker of a job, in whose name the job gives its commands.
func OfJob(j store.BulkJob) Principal {
	return Principal{Name: j.CreatedBy, User: j.CreatedBy, Job: j.ID}
}

// Actor is how events and the audit name a principal: a token that does not bear
// its user's name is named with it.
func (p Principal) Actor() string {
	switch {
	case p.Job != 0:
		return fmt.Sprintf("job:%d (%s)", p.Job, p.User)
	case p.User != p.Name:
		return fmt.Sprintf("user:%s (token:%s)", p.User, p.Name)
	}
	return "token:" + p.Name
}
