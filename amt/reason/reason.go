// Package reason is the one closed list of why a device is not as wanted: the
// database column, the metric label, the API field and the words on the page. A
// code never gets another meaning.
package reason

import (
	"errors"
	"fmt"
)

// Code is a stable word such as root_not_trusted_by_device; "" means nothing is
// wrong.
type Code string

// Phase says where on the road a reason belongs. As a metric label it keeps the
// series few.
type Phase string

const (
	Intake      Phase = "intake"
	Network     Phase = "network"
	Certificate Phase = "certificate"
	Handshake   Phase = "handshake"
	Proof       Phase = "proof"
	WSMAN       Phase = "wsman"
	Server      Phase = "server"
)

// Blame says who causes a failed run, for the service-level objective.
type Blame string

const (
	NoBlame   Blame = "none"
	OurServer Blame = "server"
	TheDevice Blame = "device"
	TheNet    Blame = "network"
	ThePolicy Blame = "policy"
)

// Retry is what has to happen before another attempt makes sense.
type Retry string

const (
	Repeat         Retry = "repeat"      // wait with back-off, then try again
	ForOperator    Retry = "operator"    // a person has to change something
	ForCertificate Retry = "certificate" // somebody has to activate a certificate
	ForHello       Retry = "hello"       // the device has to say hello again
	Never          Retry = "never"       // stop
)

// Entry is one row of the catalogue.
type Entry struct {
	Code   Code     `json:"code"`
	Phase  Phase    `json:"phase"`
	Blame  Blame    `json:"blame"`
	Retry  Retry    `json:"retry"`
	Title  string   `json:"title"`
	Causes []string `json:"causes"`
	Fix    []string `json:"fix"`
}

// Of finds a code's entry. For an unknown code it returns internal_error's, so
// that a caller always has words to show.
func Of(c Code) Entry {
	if e, ok := byCode[c]; ok {
		return e
	}
	return byCode[InternalError]
}

// GivenUp reports whether so many attempts in a row leave a failure that time
// may mend to a person. most is the operator's limit, 0 for none. A failure of
// our own server is repeated for ever.
func (e Entry) GivenUp(attempts, most int) bool {
	return most > 0 && attempts >= most && e.Retry == Repeat && e.Blame != OurServer
}

// Known reports whether c is in the catalogue.
func Known(c Code) bool { _, ok := byCode[c]; return ok }

// All lists the catalogue in its own order.
func All() []Entry { return append([]Entry(nil), catalogue...) }

// An Error carries a reason up to whoever decides.
type Error struct {
	Code Code
	// Sent is true if a change was on its way to the device when the call failed,
	// so that it may have happened: ask before doing it again.
	Sent bool
	Err  error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return Of(e.Code).Title
	}
	return e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Because builds an Error with a formatted sentence; %w works.
func Because(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Err: fmt.Errorf(format, args...)}
}

// Named gives a device's refusal, which is called wsman_fault as long as nobody
// knows better, the name that the step has for it. A refusal that passes by itself
// gets no name that calls for a person.
func Named(c Code, err error, passes bool) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != WSMANFault || passes && Of(c).Retry != Repeat {
		return err
	}
	return &Error{Code: c, Sent: e.Sent, Err: err}
}
