package store

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrNotFound means no such row.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that a row which must be the only one of its kind is
	// already there: a live run, a token of that name.
	ErrConflict = errors.New("already there")
	// ErrFenced means that the lease under which the caller acts is over or
	// taken by another: stop, write nothing, say nothing to the device.
	ErrFenced = errors.New("the lease on this device is over or held by another run")
	// ErrGone means that the run is not live any more.
	ErrGone = errors.New("the run is over")
	// ErrUnknownOutcome means that the line to the database broke during the
	// commit. It may have happened. For secrets it counts as not committed.
	ErrUnknownOutcome = errors.New("the outcome of the commit is not known")
	// ErrClosed means that the store was closed before the closure began.
	ErrClosed = errors.New("the store is closed")
	// ErrUnavailable means that the database did not answer; trying again may help.
	ErrUnavailable = errors.New("the database does not answer")
)

// ErrHeld says that another run owns the device, or that a quiet period after
// an ambiguous failure still lasts, and until when.
type ErrHeld struct{ Until time.Time }

func (e ErrHeld) Error() string {
	return fmt.Sprintf("the device is held until %s", e.Until.UTC().Format(time.RFC3339))
}

// A PanicError is a panic inside a closure, handed back to its caller; other
// closures of the same batch are not touched by it.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("a store closure panicked: %v", e.Value) }
