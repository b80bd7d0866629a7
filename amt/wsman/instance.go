package wsman

import "slices"

// An Instance is what Put and Create send: the fields of a class in order. An
// instance from a device keeps the received order and every unknown element.
type Instance struct {
	Class  string
	fields []field
}

type field struct {
	name  string
	value string
	node  Node // set: as received, and written again unchanged
	epr   *EPR
}

// NewInstance starts an empty instance.
func NewInstance(class string) *Instance { return &Instance{Class: class} }

// InstanceOf copies a received instance for editing.
func InstanceOf(class string, n Node) *Instance {
	in := &Instance{Class: class}
	for c := range n.Children() {
		in.fields = append(in.fields, field{name: c.Name(), node: c})
	}
	return in
}

// Set replaces a field in its place, with all members of an array, or adds it
// in alphabetical order, in which firmware writes its fields.
func (in *Instance) Set(name, value string) { in.put(name, field{name: name, value: value}) }

// SetEPR does the same with a reference.
func (in *Instance) SetEPR(name string, e EPR) { in.put(name, field{name: name, epr: &e}) }

// SetAll makes the field an array, one element per value; no values remove it.
func (in *Instance) SetAll(name string, values []string) {
	fields := make([]field, len(values))
	for i, v := range values {
		fields[i] = field{name: name, value: v}
	}
	in.put(name, fields...)
}

// Remove removes fields.
func (in *Instance) Remove(names ...string) {
	in.fields = slices.DeleteFunc(in.fields, func(f field) bool { return slices.Contains(names, f.name) })
}

// Has reports whether the field is there.
func (in *Instance) Has(name string) bool {
	return slices.ContainsFunc(in.fields, func(f field) bool { return f.name == name })
}

func (in *Instance) put(name string, fields ...field) {
	at := slices.IndexFunc(in.fields, func(f field) bool { return f.name == name })
	in.Remove(name)
	if at < 0 {
		at = slices.IndexFunc(in.fields, func(f field) bool { return f.name > name })
	}
	if at < 0 {
		at = len(in.fields)
	}
	in.fields = slices.Insert(in.fields, at, fields...)
}
