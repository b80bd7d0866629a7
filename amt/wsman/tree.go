package wsman

import "iter"

// A Node is one element of an answer. The zero Node stands for an absent
// element: every method works on it and finds nothing, so that a path through
// an answer needs one check at its end.
//
// Methods find elements by local name alone. Releases differ in the prefix and
// the namespace of an element; the names do not collide in AMT's schema.
type Node struct {
	d *document
	i int32
}

type document struct {
	elements []element
	attrs    []attribute
}

type element struct {
	space, local string
	text         string
	attrLo       int32
	attrHi       int32
	first, last  int32 // children; 0: none, since 0 is the root and nobody's child
	next         int32
	xsiNil       bool
}

type attribute struct{ space, local, value string }

// OK reports whether the element is there.
func (n Node) OK() bool { return n.d != nil }

// Name is the local name.
func (n Node) Name() string {
	if n.d == nil {
		return ""
	}
	return n.d.elements[n.i].local
}

// Space is the namespace URI, "" for an undeclared prefix.
func (n Node) Space() string {
	if n.d == nil {
		return ""
	}
	return n.d.elements[n.i].space
}

// Text is the character data of the element itself, without outer white space.
func (n Node) Text() string {
	if n.d == nil {
		return ""
	}
	return n.d.elements[n.i].text
}

// Attr is the value of the attribute with that local name, "" if there is none.
func (n Node) Attr(local string) string {
	if n.d == nil {
		return ""
	}
	e := &n.d.elements[n.i]
	for _, a := range n.d.attrs[e.attrLo:e.attrHi] {
		if a.local == local {
			return a.value
		}
	}
	return ""
}

// Children are the elements directly inside, in their order.
func (n Node) Children() iter.Seq[Node] {
	return func(yield func(Node) bool) {
		if n.d == nil {
			return
		}
		for i := n.d.elements[n.i].first; i != 0; i = n.d.elements[i].next {
			if !yield(Node{n.d, i}) {
				return
			}
		}
	}
}

// All are the children with that local name: an array is one repeated element.
func (n Node) All(local string) iter.Seq[Node] {
	return func(yield func(Node) bool) {
		for c := range n.Children() {
			if c.Name() == local && !yield(c) {
				return
			}
		}
	}
}

// Child walks down by local names, the first match at each level.
func (n Node) Child(path ...string) Node {
	for _, local := range path {
		found := Node{}
		for c := range n.Children() {
			if c.Name() == local {
				found = c
				break
			}
		}
		n = found
	}
	return n
}

// Find is the first element with that local name anywhere below.
func (n Node) Find(local string) Node {
	for c := range n.Children() {
		if c.Name() == local {
			return c
		}
		if f := c.Find(local); f.OK() {
			return f
		}
	}
	return Node{}
}

// Bool reads an xs:boolean; nil if the element is absent or says neither.
func (n Node) Bool() *bool {
	t, f := true, false
	switch n.Text() {
	case "true", "1", "True", "TRUE":
		return &t
	case "false", "0", "False", "FALSE":
		return &f
	}
	return nil
}

// Selector is the value of a named selector of an endpoint reference below n:
// the InstanceID in a CreatedCertificate, for instance.
func (n Node) Selector(name string) string {
	for c := range n.Children() {
		if c.Name() == "Selector" && c.Attr("Name") == name {
			return c.Text()
		}
		if v := c.Selector(name); v != "" {
			return v
		}
	}
	return ""
}
