package sim

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	nsEnv    = "http://www.w3.org/2003/05/soap-envelope"
	nsAddr   = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
	nsMan    = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
	nsEnum   = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
	nsXfer   = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
	nsAMT    = "http://intel.com/wbem/wscim/1/amt-schema/1/"
	nsIPS    = "http://intel.com/wbem/wscim/1/ips-schema/1/"
	nsCIM    = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
	anyone   = nsAddr + "/role/anonymous"
	maxDepth = 32
	maxNodes = 2000
)

// node is one element of a request.
type node struct {
	space, name string
	attrs       []xml.Attr
	text        string
	kids        []*node
}

func (n *node) child(space, name string) *node {
	if n == nil {
		return nil
	}
	for _, k := range n.kids {
		if k.name == name && k.space == space {
			return k
		}
	}
	return nil
}

// parseXML reads one document into a small tree.
func parseXML(b []byte) (*node, error) {
	dec := xml.NewDecoder(bytes.NewReader(b))
	var root *node
	var stack []*node
	var text []byte
	count := 0
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) && root != nil && len(stack) == 0 {
			return root, nil
		}
		if err != nil {
			return nil, unexpected(err)
		}
		switch t := tok.(type) {
		case xml.StartElement:
			if count++; count > maxNodes || len(stack) >= maxDepth {
				return nil, errors.New("document too large")
			}
			n := &node{space: t.Name.Space, name: t.Name.Local, attrs: t.Attr}
			if len(stack) > 0 {
				up := stack[len(stack)-1]
				up.kids = append(up.kids, n)
			} else if root == nil {
				root = n
			} else {
				return nil, errors.New("two documents")
			}
			stack, text = append(stack, n), text[:0]
		case xml.EndElement:
			n := stack[len(stack)-1]
			if len(n.kids) == 0 {
				n.text = strings.TrimSpace(string(text))
			}
			stack, text = stack[:len(stack)-1], text[:0]
		case xml.CharData:
			if len(stack) > 0 {
				text = append(text, t...)
			}
		case xml.Directive:
			return nil, errors.New("a document type is not taken")
		}
	}
}

// call is one WS-Management request on its way through a class.
type call struct {
	conn      *conn
	class     string // AMT_GeneralSettings
	uri       string
	verb      string // Get, Put, …, or the method's name
	isMethod  bool
	id        string
	selectors []selector
	body      *node // the first element of the Body
	after     effect
	strange   bool   // answer with another message's id
	note      string // for the log of changes; never a secret
}

type selector struct{ name, value string }

func (c *call) selector(name string) (string, bool) {
	for _, s := range c.selectors {
		if s.name == name {
			return s.value, true
		}
	}
	return "", false
}

// name is the call's name in faults and the log: CommitChanges, or
// Put:AMT_TLSSettingData.
func (c *call) name() string {
	if c.isMethod {
		return c.verb
	}
	return c.verb + ":" + c.class
}

// arg is an argument of a method, or a field of a Put or Create.
func (c *call) arg(name string) (string, bool) {
	if k := c.body.child(c.uri, name); k != nil {
		return k.text, true
	}
	return "", false
}

func (c *call) args(name string) []string {
	var all []string
	for _, k := range c.body.kids {
		if k.name == name && k.space == c.uri && k.text != "" {
			all = append(all, k.text)
		}
	}
	return all
}

// A soapFault is HTTP 400 or 500 with an s:Fault.
type soapFault struct {
	receiver       bool
	subcode, subNS string // local name and namespace
	reason, detail string
}

func (f *soapFault) Error() string { return f.subcode + ": " + f.reason }

func addressing(sub, reason string) *soapFault {
	return &soapFault{subcode: sub, subNS: nsAddr, reason: reason}
}

func manage(sub, reason string) *soapFault {
	return &soapFault{subcode: sub, subNS: nsMan, reason: reason}
}

var (
	errNoClass = addressing("DestinationUnreachable",
		"No route can be determined to reach the destination role defined by the WSAddressing To.")
	errNoAction = addressing("ActionNotSupported", "The action is not supported by the service.")
	errNoHeader = addressing("MessageInformationHeaderRequired",
		"A required message information header, To, MessageID, or Action, is not present.")
	errSelectors = manage("InvalidSelectors", "The Selectors for the resource were not valid.")
	errSchema    = manage("SchemaValidationError", "The supplied SOAP violates the corresponding XML Schema definition.")
	errDenied    = manage("AccessDenied", "The sender was not authorized to access the resource.")
	errExists    = manage("AlreadyExists", "The resource already exists.")
	errInternal  = &soapFault{receiver: true, subcode: "InternalError", subNS: nsMan,
		reason: "The service cannot comply with the request due to internal or processing errors."}
	errContext     = &soapFault{subcode: "InvalidEnumerationContext", subNS: nsEnum, reason: "The supplied enumeration context is invalid."}
	errNotWellForm = &soapFault{subcode: "SchemaValidationError", subNS: nsMan, reason: "The message is not well-formed."}
)

// readCall parses an envelope and checks what firmware checks.
func readCall(body []byte) (*call, error) {
	root, err := parseXML(body)
	if err != nil || root.space != nsEnv || root.name != "Envelope" {
		return &call{}, errNotWellForm
	}
	head, soapBody := root.child(nsEnv, "Header"), root.child(nsEnv, "Body")
	if head == nil || soapBody == nil {
		return &call{}, errNotWellForm
	}
	c := &call{}
	if id := head.child(nsAddr, "MessageID"); id != nil {
		c.id = id.text
	}
	to, action, uri := head.child(nsAddr, "To"), head.child(nsAddr, "Action"), head.child(nsMan, "ResourceURI")
	if to == nil || action == nil || action.text == "" || c.id == "" {
		return c, errNoHeader
	}
	if !strings.HasSuffix(to.text, "/wsman") && to.text != anyone || uri == nil {
		return c, errNoClass
	}
	c.uri = uri.text
	for _, ns := range []string{nsAMT, nsIPS, nsCIM} {
		if name, ok := strings.CutPrefix(c.uri, ns); ok {
			c.class = name
		}
	}
	if c.class == "" {
		return c, errNoClass
	}
	for _, s := range head.child(nsMan, "SelectorSet").children() {
		if s.space != nsMan || s.name != "Selector" {
			return c, errSelectors
		}
		sel := selector{value: s.text}
		for _, a := range s.attrs {
			if a.Name.Local == "Name" {
				sel.name = a.Value
			}
		}
		if sel.name == "" {
			return c, errSelectors
		}
		c.selectors = append(c.selectors, sel)
	}
	if len(soapBody.kids) > 0 {
		c.body = soapBody.kids[0]
	} else {
		c.body = &node{}
	}
	switch {
	case strings.HasPrefix(action.text, nsXfer+"/"):
		c.verb = action.text[len(nsXfer)+1:]
	case strings.HasPrefix(action.text, nsEnum+"/"):
		c.verb = action.text[len(nsEnum)+1:]
	case strings.HasPrefix(action.text, c.uri+"/"):
		c.verb, c.isMethod = action.text[len(c.uri)+1:], true
		if c.body.name != c.verb+"_INPUT" || c.body.space != c.uri {
			return c, errSchema
		}
	default:
		return c, errNoAction
	}
	return c, nil
}

func (n *node) children() []*node {
	if n == nil {
		return nil
	}
	return n.kids
}

// prop is one element of an answer: text, or a reference to an instance.
type prop struct {
	name, value string
	ref         *reference
}

// instance is a CIM instance in the order of its class.
type instance []prop

// reference is an EPR: it names an instance.
type reference struct{ uri, selector, value string }

func (d *Device) ref(uri, sel, value string) *reference { return &reference{uri, sel, value} }

func readReference(n *node) (reference, bool) {
	p := n.child(nsAddr, "ReferenceParameters")
	uri := p.child(nsMan, "ResourceURI")
	if n.child(nsAddr, "Address") == nil || uri == nil {
		return reference{}, false
	}
	r := reference{uri: uri.text}
	for _, s := range p.child(nsMan, "SelectorSet").children() {
		r.value = s.text
		for _, a := range s.attrs {
			if a.Name.Local == "Name" {
				r.selector = a.Value
			}
		}
	}
	return r, true
}

func yes(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

func num[T ~int | ~uint32 | ~uint16 | ~int64](n T) string { return fmt.Sprintf("%d", n) }

// writer writes one answer in a generation's own style.
type writer struct {
	style
	b   []byte
	uri string // namespace of the class in the body
}

func (w *writer) str(parts ...string) {
	for _, p := range parts {
		w.b = append(w.b, p...)
	}
}

func (w *writer) text(s string) {
	last := 0
	for i := range len(s) {
		var esc string
		switch s[i] {
		case '&':
			esc = "&amp;"
		case '<':
			esc = "&lt;"
		case '>':
			esc = "&gt;"
		case '"':
			esc = "&quot;"
		default:
			continue
		}
		w.b = append(append(w.b, s[last:i]...), esc...)
		last = i + 1
	}
	w.b = append(w.b, s[last:]...)
}

func (w *writer) el(prefix, name, value string) {
	w.open(prefix, name)
	w.text(value)
	w.end(prefix, name)
}

func (w *writer) tag(prefix, name string) {
	if prefix != "" {
		w.str(prefix, ":")
	}
	w.str(name)
}

func (w *writer) open(prefix, name string) {
	w.str("<")
	w.tag(prefix, name)
	w.str(">")
}

func (w *writer) end(prefix, name string) {
	w.str("</")
	w.tag(prefix, name)
	w.str(">")
}

// openNS opens an element and, in the styles that do so, declares its prefix.
func (w *writer) openNS(prefix, name, uri string) {
	w.str("<")
	w.tag(prefix, name)
	if w.declareLate {
		if prefix == "" {
			w.str(` xmlns="`, uri, `"`)
		} else {
			w.str(" xmlns:", prefix, `="`, uri, `"`)
		}
	}
	w.str(">")
}

// begin writes everything up to the opened Body.
func (w *writer) begin(action, relatesTo, id, classURI string) {
	w.uri = classURI
	w.b = make([]byte, 0, 2048)
	w.str(`<?xml version="1.0" encoding="UTF-8"?><`, w.env, `:Envelope xmlns:`, w.env, `="`, nsEnv, `" xmlns:`, w.addr, `="`, nsAddr,
		`" xmlns:`, w.man, `="`, nsMan, `"`)
	if !w.declareLate {
		w.str(` xmlns:e="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd" xmlns:f="http://schemas.dmtf.org/wbem/wsman/1/cimbinding.xsd" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:`, w.enum, `="`)
		if strings.HasPrefix(action, nsXfer) {
			w.str(nsXfer)
		} else {
			w.str(nsEnum)
		}
		w.str(`"`)
		if classURI != "" {
			w.str(` xmlns:`, w.class, `="`, classURI, `"`)
		}
	}
	w.str(">")
	w.open(w.env, "Header")
	w.el(w.addr, "To", anyone)
	w.el(w.addr, "RelatesTo", relatesTo)
	w.str("<", w.addr, `:Action `, w.env, `:mustUnderstand="true">`, action, "</", w.addr, ":Action>")
	w.el(w.addr, "MessageID", id)
	if classURI != "" {
		w.el(w.man, "ResourceURI", classURI)
	}
	w.end(w.env, "Header")
	w.open(w.env, "Body")
}

func (w *writer) finish() []byte {
	w.end(w.env, "Body")
	w.end(w.env, "Envelope")
	return w.b
}

func (w *writer) instance(name string, in instance) {
	w.openNS(w.class, name, w.uri)
	if w.alphabetical {
		in = slices.Clone(in)
		slices.SortStableFunc(in, func(a, b prop) int { return strings.Compare(a.name, b.name) })
	}
	w.props(in)
	w.end(w.class, name)
}

func (w *writer) props(list []prop) {
	for _, p := range list {
		if p.ref == nil {
			w.el(w.class, p.name, p.value)
			continue
		}
		w.open(w.class, p.name)
		w.reference(p.ref)
		w.end(w.class, p.name)
	}
}

func (w *writer) reference(r *reference) {
	w.el(w.addr, "Address", anyone)
	w.open(w.addr, "ReferenceParameters")
	w.el(w.man, "ResourceURI", r.uri)
	w.open(w.man, "SelectorSet")
	w.str("<", w.man, `:Selector Name="`, r.selector, `">`)
	w.text(r.value)
	w.end(w.man, "Selector")
	w.end(w.man, "SelectorSet")
	w.end(w.addr, "ReferenceParameters")
}

func (w *writer) fault(f *soapFault) {
	role := "Sender"
	if f.receiver {
		role = "Receiver"
	}
	w.open(w.env, "Fault")
	w.open(w.env, "Code")
	w.el(w.env, "Value", w.env+":"+role)
	w.open(w.env, "Subcode")
	w.str("<", w.env, ":Value")
	prefix := w.addr
	switch f.subNS {
	case nsMan:
		prefix = w.man
	case nsEnum:
		prefix = "ne"
		w.str(` xmlns:ne="`, nsEnum, `"`)
	}
	w.str(">", prefix, ":", f.subcode, "</", w.env, ":Value>")
	w.end(w.env, "Subcode")
	w.end(w.env, "Code")
	w.open(w.env, "Reason")
	w.str("<", w.env, `:Text xml:lang="en-US">`)
	w.text(f.reason)
	w.end(w.env, "Text")
	w.end(w.env, "Reason")
	w.el(w.env, "Detail", f.detail)
	w.end(w.env, "Fault")
}
