package session

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

// An Arg is one input element of a method.
type Arg struct{ Name, Value string }

func argsOf(args []Arg) []wsman.Arg {
	out := make([]wsman.Arg, len(args))
	for i, a := range args {
		out[i] = wsman.Arg{Name: a.Name, Value: a.Value}
	}
	return out
}

// An Instance is one instance of a class as a device keeps it: read, changed and put
// back whole, so that fields nobody knows here go back as they came.
type Instance struct {
	Class string
	// ID is its InstanceID; "" is the only instance of its class.
	ID     string
	values map[string][]string
	in     *wsman.Instance // as received; nil where no device is behind it
	node   wsman.Node
}

// NewInstance makes an instance of these values, for models of devices.
func NewInstance(class, id string, values map[string][]string) *Instance {
	return &Instance{Class: class, ID: id, values: values}
}

func instanceOf(class, id string, n wsman.Node) *Instance {
	i := &Instance{Class: class, ID: id, values: map[string][]string{}, in: wsman.InstanceOf(class, n), node: n}
	for c := range n.Children() {
		i.values[c.Name()] = append(i.values[c.Name()], clipText(c.Text()))
	}
	return i
}

// Value is a field's text, the first one of an array; ok is false where this
// firmware does not have the field.
func (i *Instance) Value(field string) (text string, ok bool) {
	v := i.values[field]
	if len(v) == 0 {
		return "", false
	}
	return v[0], true
}

// Values are the members of an array.
func (i *Instance) Values(field string) []string { return i.values[field] }

// Set changes a field, or an array to these members; none takes it out.
func (i *Instance) Set(field string, values ...string) {
	i.values[field] = values
	if i.in != nil {
		i.in.SetAll(field, values)
	}
}

// Fields are the members of every field, by name.
func (i *Instance) Fields() iter.Seq2[string, []string] { return maps.All(i.values) }

// Has reports whether a field has these members.
func (i *Instance) Has(field string, values ...string) bool {
	return slices.Equal(i.values[field], values)
}

// Refers is the InstanceID of the instance of a class that a field refers to, "" when
// it refers to none of that class.
func (i *Instance) Refers(field, class string) string {
	if i.in == nil {
		id, _ := i.Value(field)
		return id
	}
	n := i.node.Child(field)
	if !strings.HasSuffix(n.Find("ResourceURI").Text(), "/"+class) {
		return ""
	}
	return clipText(n.Selector("InstanceID"))
}

// Instance reads one instance. Releases differ in whether they answer a Get or an
// enumeration of a class, so one is tried after the other.
func (s *Session) Instance(ctx context.Context, class, id string) (*Instance, error) {
	var sel []wsman.Selector
	if id != "" {
		sel = append(sel, wsman.Selector{Name: "InstanceID", Value: id})
	}
	n, err := s.client.Get(ctx, class, sel...)
	if err == nil {
		return instanceOf(class, id, n), nil
	}
	if !absent(err) {
		return nil, err
	}
	all, again := s.client.Enumerate(ctx, class)
	if again != nil {
		if absent(again) {
			return nil, err // the first refusal says more
		}
		return nil, again
	}
	for _, n := range all {
		if id == "" && len(all) == 1 || id != "" && n.Child("InstanceID").Text() == id {
			return instanceOf(class, id, n), nil
		}
	}
	return nil, err
}

// Instances reads all instances of a class.
func (s *Session) Instances(ctx context.Context, class string) ([]*Instance, error) {
	all, err := s.client.Enumerate(ctx, class)
	if err != nil {
		return nil, err
	}
	out := make([]*Instance, len(all))
	for i, n := range all {
		out[i] = instanceOf(class, n.Child("InstanceID").Text(), n)
	}
	return out, nil
}

// readOnlyFields are fields that some firmware minds in a Put although it sent them.
var readOnlyFields = map[string][]string{
	general:                  readOnlyGeneral,
	"AMT_RedirectionService": {"AccessLog"},
	"IPS_OptInService":       {"CanModifyOptInPolicy", "OptInState"},
}

// Put writes an instance back.
func (s *Session) Put(ctx context.Context, i *Instance) error {
	var sel []wsman.Selector
	if i.ID != "" {
		sel = append(sel, wsman.Selector{Name: "InstanceID", Value: i.ID})
	}
	return s.put(ctx, i.in, readOnlyFields[i.Class], sel...)
}

// Invoke runs a method of a class. A refusal wraps the amt.Status that it gave.
func (s *Session) Invoke(ctx context.Context, class, method string, args ...Arg) error {
	_, err := s.client.Invoke(ctx, class, method, argsOf(args)...)
	return err
}

// InvokeOn runs a method of one instance among several.
func (s *Session) InvokeOn(ctx context.Context, i *Instance, method string, args ...Arg) error {
	_, err := s.client.InvokeOn(ctx, i.Class, []wsman.Selector{{Name: "InstanceID", Value: i.ID}}, method, argsOf(args)...)
	return err
}

// Refused reports whether a device understood a request and said no.
func Refused(err error) bool {
	why := new(reason.Error)
	return refused(err) && !(errors.As(err, &why) && why.Sent)
}

// Unsupported reports whether err means that this firmware does not have what was
// asked for. Which fault a release answers with differs and is not written down
// anywhere, so each that may mean it does.
func Unsupported(err error) bool { return absent(err) }

// Passes reports whether a refusal may be none the next time, nobody doing anything.
func Passes(err error) bool { return passes(err) }

// IsTrue reads a boolean as firmware of one release or another writes it.
func IsTrue(text string) bool { return text == "1" || strings.EqualFold(text, "true") }
