package wsman

import (
	"strconv"
	"unicode/utf8"
)

// A Selector names one instance of a class: Selector{"InstanceID", "…"}.
type Selector struct{ Name, Value string }

// An Arg is one input element of a method, in the call sheet's order; an array
// is one Arg per member.
type Arg struct {
	Name   string
	Value  string
	EPR    *EPR // set: the value is a reference to an instance
	Secret bool // no error may hold the value, not even if the device repeats it
}

// An EPR refers to an instance of a class.
type EPR struct {
	Class    string
	Selector Selector
}

// buffer builds a request. Everything except constants goes through text or
// attr, which escape.
type buffer []byte

func (b *buffer) raw(s string) { *b = append(*b, s...) }

func (b *buffer) text(s string) {
	last := 0
	for i := 0; i < len(s); i++ {
		var esc string
		switch c := s[i]; {
		case c == '&':
			esc = "&amp;"
		case c == '<':
			esc = "&lt;"
		case c == '>':
			esc = "&gt;"
		case c == '"':
			esc = "&quot;"
		case c == '\'':
			esc = "&apos;"
		case c == '\r':
			esc = "&#13;"
		case c < 0x20 && c != '\t' && c != '\n':
			esc = "\uFFFD" // XML cannot hold it at all
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || n > 1 {
				i += n - 1
				continue
			}
			esc = "\uFFFD"
		default:
			continue
		}
		*b = append(*b, s[last:i]...)
		*b = append(*b, esc...)
		last = i + 1
	}
	*b = append(*b, s[last:]...)
}

const envelopeStart = `<?xml version="1.0" encoding="utf-8"?>` +
	`<Envelope xmlns="` + nsSOAP + `" xmlns:a="` + nsAddr + `" xmlns:w="` + nsWSMAN + `"><Header><a:Action>`

const envelopeEnd = `</Body></Envelope>`

// head writes everything up to the body's content. Every known client writes
// the header elements in this order.
func (b *buffer) head(action, resource string, id uint64, sel []Selector) {
	b.raw(envelopeStart)
	b.text(action)
	b.raw(`</a:Action><a:To>/wsman</a:To><w:ResourceURI>`)
	b.text(resource)
	b.raw(`</w:ResourceURI><a:MessageID>`)
	*b = strconv.AppendUint(*b, id, 10)
	b.raw(`</a:MessageID><a:ReplyTo><a:Address>` + anonymous + `</a:Address></a:ReplyTo><w:OperationTimeout>PT60S</w:OperationTimeout>`)
	if len(sel) > 0 {
		b.raw(`<w:SelectorSet>`)
		for _, s := range sel {
			b.selector(s)
		}
		b.raw(`</w:SelectorSet>`)
	}
	b.raw(`</Header><Body>`)
}

func (b *buffer) selector(s Selector) {
	b.raw(`<w:Selector Name="`)
	b.text(s.Name)
	b.raw(`">`)
	b.text(s.Value)
	b.raw(`</w:Selector>`)
}

// epr writes the inside of a reference-valued element.
func (b *buffer) epr(e *EPR) {
	b.raw(`<a:Address>` + anonymous + `</a:Address><a:ReferenceParameters><w:ResourceURI>`)
	b.text(URI(e.Class))
	b.raw(`</w:ResourceURI><w:SelectorSet>`)
	b.selector(e.Selector)
	b.raw(`</w:SelectorSet></a:ReferenceParameters>`)
}

// method writes <r:M_INPUT>.
func (b *buffer) method(resource, method string, args []Arg) {
	b.raw(`<r:`)
	b.raw(method)
	b.raw(`_INPUT xmlns:r="`)
	b.text(resource)
	if len(args) == 0 {
		b.raw(`"/>`)
		return
	}
	b.raw(`">`)
	for _, a := range args {
		b.raw(`<r:`)
		b.raw(a.Name)
		b.raw(`>`)
		if a.EPR != nil {
			b.epr(a.EPR)
		} else {
			b.text(a.Value)
		}
		b.raw(`</r:`)
		b.raw(a.Name)
		b.raw(`>`)
	}
	b.raw(`</r:`)
	b.raw(method)
	b.raw(`_INPUT>`)
}

// instance writes an instance of a class for Put and Create.
func (b *buffer) instance(in *Instance) {
	b.raw(`<r:`)
	b.raw(in.Class)
	b.raw(` xmlns:r="`)
	b.text(URI(in.Class))
	b.raw(`">`)
	for i := range in.fields {
		f := &in.fields[i]
		switch {
		case f.node.OK():
			b.subtree(f.node, URI(in.Class))
		case f.epr != nil:
			b.raw(`<r:` + f.name + `>`)
			b.epr(f.epr)
			b.raw(`</r:` + f.name + `>`)
		default:
			b.raw(`<r:`)
			b.raw(f.name)
			b.raw(`>`)
			b.text(f.value)
			b.raw(`</r:`)
			b.raw(f.name)
			b.raw(`>`)
		}
	}
	b.raw(`</r:`)
	b.raw(in.Class)
	b.raw(`>`)
}

// subtree writes a received element again: same names, same namespaces, our
// prefixes. An element in an unknown namespace keeps it by a declaration of its
// own.
func (b *buffer) subtree(n Node, class string) {
	e := &n.d.elements[n.i]
	prefix := ""
	switch e.space {
	case class, "": // an undeclared namespace can only mean the class's
		prefix = "r:"
	case nsAddr:
		prefix = "a:"
	case nsWSMAN:
		prefix = "w:"
	default:
		prefix = "x:"
	}
	b.raw(`<` + prefix)
	b.raw(e.local)
	if prefix == "x:" {
		b.raw(` xmlns:x="`)
		b.text(e.space)
		b.raw(`"`)
	}
	for i, a := range n.d.attrs[e.attrLo:e.attrHi] {
		if a.space == "" {
			b.raw(` ` + a.local + `="`)
		} else {
			p := "y" + strconv.Itoa(i)
			b.raw(` xmlns:` + p + `="`)
			b.text(a.space)
			b.raw(`" ` + p + `:` + a.local + `="`)
		}
		b.text(a.value)
		b.raw(`"`)
	}
	if e.first == 0 && e.text == "" {
		b.raw(`/>`)
		return
	}
	b.raw(`>`)
	b.text(e.text)
	for c := range n.Children() {
		b.subtree(c, class)
	}
	b.raw(`</` + prefix)
	b.raw(e.local)
	b.raw(`>`)
}
