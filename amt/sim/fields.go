package sim

import (
	"strconv"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// field is one writable element of a Put. The device checks all fields before
// it sets any, so that a refused Put changes nothing.
type field struct {
	name string
	set  func(value string, apply bool) bool
}

func setFields(c *call, fields ...field) error {
	for _, apply := range []bool{false, true} {
		for _, f := range fields {
			if value, ok := c.arg(f.name); ok && !f.set(value, apply) {
				return errSchema
			}
		}
	}
	return nil
}

func text(name string, to *string, longest int) field {
	return field{name, func(v string, apply bool) bool {
		if apply {
			*to = v
		}
		return len(v) <= longest
	}}
}

// flag reads xs:boolean; firmware writes it in lower case.
func flag(name string, to *bool) field {
	return field{name, func(v string, apply bool) bool {
		on := v == "true" || v == "1"
		if apply {
			*to = on
		}
		return on || v == "false" || v == "0"
	}}
}

func number(name string, to *uint32) field {
	return field{name, func(v string, apply bool) bool {
		n, err := strconv.ParseUint(v, 10, 32)
		if apply {
			*to = uint32(n)
		}
		return err == nil
	}}
}

// numberArg reads a required uint32 argument of a method.
func (c *call) numberArg(name string) (uint32, bool) {
	s, ok := c.arg(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// firstSecondOf2004: a server's time before it is invalid.
const firstSecondOf2004 = 1072915200

func getTime(d *Device, c *call) ([]prop, amt.Status, error) {
	return []prop{{name: "Ta0", value: num(d.time().Unix())}}, 0, nil
}

// setTime shifts the clock by half the sum of both ways (amt/protocol.md 6.5):
// d = ((Tm1+Tm2) - (Ta0+Ta3)) / 2.
func setTime(d *Device, c *call) ([]prop, amt.Status, error) {
	ta0, ok0 := c.numberArg("Ta0")
	tm1, ok1 := c.numberArg("Tm1")
	tm2, ok2 := c.numberArg("Tm2")
	if !ok0 || !ok1 || !ok2 {
		return nil, 0, errSchema
	}
	if tm1 <= firstSecondOf2004 || tm2 <= firstSecondOf2004 || tm2 < tm1 {
		return nil, amt.StatusInvalidParameter, nil
	}
	ta3 := d.time().Unix()
	shift := ((int64(tm1) + int64(tm2)) - (int64(ta0) + ta3)) / 2
	d.now.clockOffset += time.Duration(shift) * time.Second
	d.now.clockSet = true
	c.note = d.time().UTC().Format(time.RFC3339)
	return nil, 0, nil
}
