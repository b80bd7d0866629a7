package store

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrNotFound means that there is no such row.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that a row which must be unique is already there: a live
	// run, a token of that name.
	ErrConflict = errors.New("already there")
	// ErrFenced means that the caller's lease has ended or another run has it:
	// stop, write nothing, send nothing to the device.
	ErrFenced = errors.New("the lease on this device is over or held by another run")
	// ErrGone means that the run is not live any more.
	ErrGone = errors.New("the run is over")
	// ErrUnknownOutcome means that the connection to the database broke during the
	// commit, which may have happened. A secret counts as not committed.
	ErrUnknownOutcome = errors.New("the outcome of the commit is not known")
	// ErrClosed means that Close came before the closure began.
	ErrClosed = errors.New("the store is closed")
	// ErrUnavailable means that the database did not answer; trying again may help.
	ErrUnavailable = errors.New("the database does not answer")
)

// ErrHeld says until when another run has the device, or until when a quiet
// period after an ambiguous failure lasts.
type ErrHeld struct{ Until time.Time }

func (e ErrHeld) Error() string {
	return fmt.Sprintf("the device is held until %s", e.Until.UTC().Format(time.RFC3339))
}

// A PanicError is a panic inside a closure. The caller of that closure gets it, and
// the log has its stack; other closures of the same batch are unharmed.
type PanicError struct{ Value any }

func (e *PanicError) Error() string { return fmt.Sprintf("a store closure panicked: %v", e.Value) }
