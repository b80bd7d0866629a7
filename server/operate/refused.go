package operate

import (
	"errors"
	"fmt"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
)

// Refused says why something is not possible as things stand, and what is.
type Refused struct {
	Code string             // one of package api's codes, device_… of the table, or a reason
	Why  string             // cause, place and the next move
	More []api.ProblemField // such as the devices that a text may mean
}

func (r *Refused) Error() string { return r.Why }

// Unknown says that there is no such thing.
type Unknown struct{ Code, Why string }

func (u *Unknown) Error() string { return u.Why }

// Invalid says what is wrong with a request, whatever it is about.
type Invalid struct {
	Why  string
	More []api.ProblemField // one for each field
}

func (i *Invalid) Error() string { return i.Why }

// Refuse refuses with a code and a sentence.
func Refuse(code, format string, args ...any) *Refused {
	return &Refused{Code: code, Why: fmt.Sprintf(format, args...)}
}

// Conflict refuses for what stands in the way, without a code of its own.
func Conflict(format string, args ...any) *Refused { return Refuse(api.CodeConflict, format, args...) }

// NoSuch says that there is no such thing.
func NoSuch(format string, args ...any) *Unknown {
	return &Unknown{Code: api.CodeNotFound, Why: fmt.Sprintf(format, args...)}
}

// NoDevice says that nobody knows a device of this UUID.
func NoDevice(u amt.UUID) *Unknown { return noDevice(u.String()) }

func noDevice(text string) *Unknown {
	return &Unknown{Code: api.CodeNoDevice, Why: fmt.Sprintf("no device %s is known", text)}
}

// Wrong says what is wrong with a request.
func Wrong(format string, args ...any) *Invalid { return &Invalid{Why: fmt.Sprintf(format, args...)} }

// WrongField says what is wrong with one field of a request.
func WrongField(field, format string, args ...any) *Invalid {
	why := fmt.Sprintf(format, args...)
	return &Invalid{Why: field + ": " + why, More: []api.ProblemField{{Location: field, Message: why}}}
}

// Sentence is what an error says to an operator; is reports whether it is for one:
// a refusal, something unknown, or a request that is wrong.
func Sentence(err error) (why string, is bool) {
	var refused *Refused
	var unknown *Unknown
	var invalid *Invalid
	switch {
	case errors.As(err, &refused), errors.As(err, &unknown), errors.As(err, &invalid):
		return err.Error(), true
	}
	return "", false
}
