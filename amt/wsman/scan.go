package wsman

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/provisiond/provisiond/amt"
)

// Bounds on an answer. The body's length alone does not protect: without these,
// a reader turns 6 MB of attributes into a tree of 587 MB.
const (
	maxBody     = 1 << 20
	maxDepth    = 64
	maxElements = 20_000
	maxAttrs    = 64
	maxName     = 256
	maxText     = 64 << 10
	maxBindings = 128    // namespaces in scope at once
	maxAllAttrs = 20_000 // of all elements together
)

// Every refusal of Parse wraps errXML.
var errXML = errors.New("not an XML answer we can read")

func badXML(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errXML, fmt.Sprintf(format, args...))
}

// scanner walks the document once. Strings of the tree are slices of src unless
// they hold an entity or CDATA.
type scanner struct {
	src   string
	pos   int
	d     *document
	open  []openElement
	binds []binding
}

type openElement struct {
	index int32
	qname string // as written, to match the end tag
	binds int    // how many namespace bindings to drop at the end tag
	text  string // the first piece, a slice of the source
	more  []byte // all pieces, once there is a second one
}

type binding struct{ prefix, uri string }

// Parse reads one document within the limits above and returns its root. It
// takes a byte order mark, comments, processing instructions, CDATA and any
// prefixes. It refuses a DOCTYPE or any other directive, an encoding other than
// UTF-8, and entities other than XML's own five.
func Parse(body []byte) (Node, error) {
	if len(body) > maxBody {
		return Node{}, badXML("%d bytes, the limit is %d", len(body), maxBody)
	}
	if !utf8.Valid(body) {
		return Node{}, badXML("it is not UTF-8")
	}
	guess := len(body)/64 + 8 // a guess: one element per 60 to 90 bytes in typical answers
	if guess > 1024 {
		guess = 1024
	}
	s := &scanner{
		src:  strings.TrimPrefix(string(body), "\ufeff"),
		d:    &document{elements: make([]element, 0, guess), attrs: make([]attribute, 0, 4)},
		open: make([]openElement, 0, 12), binds: make([]binding, 0, 12),
	}
	if err := s.run(); err != nil {
		return Node{}, err
	}
	return Node{s.d, 0}, nil
}

func (s *scanner) run() error {
	for s.pos < len(s.src) {
		lt := strings.IndexByte(s.src[s.pos:], '<')
		if lt < 0 {
			lt = len(s.src) - s.pos
		}
		if lt > 0 {
			if err := s.text(s.src[s.pos : s.pos+lt]); err != nil {
				return err
			}
			s.pos += lt
			continue
		}
		if err := s.markup(); err != nil {
			return err
		}
	}
	switch {
	case len(s.open) > 0:
		return badXML("it ends inside <%s>", amt.Clip(s.open[len(s.open)-1].qname))
	case len(s.d.elements) == 0:
		return badXML("it holds no element")
	}
	return nil
}

// markup handles what begins with < at s.pos.
func (s *scanner) markup() error {
	rest := s.src[s.pos:]
	switch {
	case strings.HasPrefix(rest, "</"):
		return s.endTag()
	case strings.HasPrefix(rest, "<!--"):
		end := strings.Index(rest[4:], "-->")
		if end < 0 {
			return badXML("a comment does not end")
		}
		s.pos += 4 + end + 3
		return nil
	case strings.HasPrefix(rest, "<![CDATA["):
		end := strings.Index(rest[9:], "]]>")
		if end < 0 {
			return badXML("a CDATA section does not end")
		}
		s.pos += 9 + end + 3
		if len(s.open) == 0 {
			return badXML("text outside the root element")
		}
		return s.addText(rest[9 : 9+end])
	case strings.HasPrefix(rest, "<?"):
		end := strings.Index(rest[2:], "?>")
		if end < 0 {
			return badXML("a processing instruction does not end")
		}
		s.pos += 2 + end + 2
		return checkEncoding(rest[2 : 2+end])
	case strings.HasPrefix(rest, "<!"):
		return badXML("directives such as DOCTYPE are refused")
	}
	return s.startTag()
}

// checkEncoding refuses an XML declaration that names another encoding.
func checkEncoding(pi string) error {
	if !strings.HasPrefix(pi, "xml") || len(pi) > 3 && !isSpace(pi[3]) {
		return nil
	}
	_, after, ok := strings.Cut(pi, "encoding")
	if !ok {
		return nil
	}
	after = strings.TrimLeft(after, " \t\r\n=")
	if after == "" || after[0] != '"' && after[0] != '\'' {
		return badXML("a broken XML declaration")
	}
	name, _, _ := strings.Cut(after[1:], after[:1])
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "utf-8", "utf8", "us-ascii", "ascii":
		return nil
	}
	return badXML("encoding %q, only UTF-8 is read", amt.Clip(name))
}

func (s *scanner) text(t string) error {
	if len(s.open) == 0 {
		if strings.Trim(t, " \t\r\n") != "" {
			return badXML("text outside the root element")
		}
		return nil
	}
	if strings.IndexByte(t, '&') < 0 {
		return s.addText(t)
	}
	u, err := unescape(t)
	if err != nil {
		return err
	}
	return s.addText(u)
}

func (s *scanner) addText(t string) error {
	o := &s.open[len(s.open)-1]
	if max(len(o.text), len(o.more))+len(t) > maxText {
		return badXML("more than %d bytes of text in one element", maxText)
	}
	for i := range len(t) {
		if c := t[i]; c < 0x20 && c != '\t' && c != '\n' && c != '\r' {
			return badXML("a control character in text")
		}
	}
	switch {
	case o.more != nil:
		o.more = append(o.more, t...)
	case o.text == "":
		o.text = t
	case t != "":
		o.more = append(append(make([]byte, 0, 2*(len(o.text)+len(t))), o.text...), t...)
	}
	return nil
}

func (s *scanner) endTag() error {
	end := strings.IndexByte(s.src[s.pos:], '>')
	if end < 0 {
		return badXML("an end tag does not end")
	}
	name := strings.TrimRight(s.src[s.pos+2:s.pos+end], " \t\r\n")
	s.pos += end + 1
	if len(s.open) == 0 || s.open[len(s.open)-1].qname != name {
		return badXML("</%s> closes nothing that is open", amt.Clip(name))
	}
	s.close()
	return nil
}

func (s *scanner) close() {
	o := s.open[len(s.open)-1]
	s.open = s.open[:len(s.open)-1]
	s.binds = s.binds[:o.binds]
	if o.more != nil {
		o.text = string(o.more)
	}
	s.d.elements[o.index].text = strings.Trim(o.text, " \t\r\n")
}

func (s *scanner) startTag() error {
	if len(s.open) == 0 && len(s.d.elements) > 0 {
		return badXML("a second root element")
	}
	if len(s.open) >= maxDepth {
		return badXML("deeper than %d elements", maxDepth)
	}
	if len(s.d.elements) >= maxElements {
		return badXML("more than %d elements", maxElements)
	}
	s.pos++
	qname, err := s.name()
	if err != nil {
		return err
	}
	e := element{attrLo: int32(len(s.d.attrs))}
	o := openElement{qname: qname, binds: len(s.binds), index: int32(len(s.d.elements))}
	count := 0
	selfClosed := false
	for {
		spaced := s.skipSpace()
		if s.pos >= len(s.src) {
			return badXML("it ends inside a tag")
		}
		c := s.src[s.pos]
		if c == '>' {
			s.pos++
			break
		}
		if c == '/' {
			if s.pos+1 >= len(s.src) || s.src[s.pos+1] != '>' {
				return badXML("a stray / in a tag")
			}
			s.pos += 2
			selfClosed = true
			break
		}
		if !spaced {
			return badXML("no space in front of an attribute")
		}
		if count++; count > maxAttrs {
			return badXML("more than %d attributes on one element", maxAttrs)
		}
		if err := s.attribute(); err != nil {
			return err
		}
	}
	e.attrHi = int32(len(s.d.attrs))
	prefix, local := splitName(qname)
	e.space, e.local = s.lookup(prefix), local
	for i := e.attrLo; i < e.attrHi; i++ {
		a := &s.d.attrs[i]
		if a.space != "" { // still a prefix; bindings of this very tag count
			a.space = s.lookup(a.space)
			e.xsiNil = e.xsiNil || a.local == "nil" && a.value == "true"
		}
		for j := e.attrLo; j < i; j++ {
			if s.d.attrs[j].local == a.local && s.d.attrs[j].space == a.space {
				return badXML("an attribute stands twice")
			}
		}
	}
	if len(s.open) > 0 {
		if pe := &s.d.elements[s.open[len(s.open)-1].index]; pe.first == 0 {
			pe.first, pe.last = o.index, o.index
		} else {
			s.d.elements[pe.last].next = o.index
			pe.last = o.index
		}
	}
	s.d.elements = append(s.d.elements, e)
	s.open = append(s.open, o)
	if selfClosed {
		s.close()
	}
	return nil
}

func (s *scanner) attribute() error {
	qname, err := s.name()
	if err != nil {
		return err
	}
	s.skipSpace()
	if s.pos >= len(s.src) || s.src[s.pos] != '=' {
		return badXML("an attribute without a value")
	}
	s.pos++
	s.skipSpace()
	if s.pos >= len(s.src) || s.src[s.pos] != '"' && s.src[s.pos] != '\'' {
		return badXML("an attribute's value without quotes")
	}
	quote := s.src[s.pos]
	end := strings.IndexByte(s.src[s.pos+1:], quote)
	if end < 0 {
		return badXML("an attribute's value does not end")
	}
	if end > maxText {
		return badXML("more than %d bytes in one attribute", maxText)
	}
	value := s.src[s.pos+1 : s.pos+1+end]
	s.pos += end + 2
	if strings.IndexByte(value, '<') >= 0 {
		return badXML("< in an attribute")
	}
	if strings.IndexByte(value, '&') >= 0 {
		if value, err = unescape(value); err != nil {
			return err
		}
	}
	switch prefix, local := splitName(qname); {
	case qname == "xmlns":
		s.binds = append(s.binds, binding{"", value})
	case prefix == "xmlns":
		s.binds = append(s.binds, binding{local, value})
	default:
		s.d.attrs = append(s.d.attrs, attribute{prefix, local, value})
	}
	if len(s.d.attrs) > maxAllAttrs {
		return badXML("more than %d attributes", maxAllAttrs)
	}
	if len(s.binds) > maxBindings {
		return badXML("more than %d namespaces in scope", maxBindings)
	}
	return nil
}

// name reads a qualified name. Firmware writes ASCII names; other letters pass,
// so that an OEM's additions do not end a setup.
func (s *scanner) name() (string, error) {
	start := s.pos
	for s.pos < len(s.src) && isNameByte(s.src[s.pos]) {
		s.pos++
	}
	name := s.src[start:s.pos]
	switch {
	case name == "":
		return "", badXML("a tag or attribute without a name")
	case len(name) > maxName:
		return "", badXML("a name of more than %d bytes", maxName)
	case name[0] == '-' || name[0] == '.' || name[0] >= '0' && name[0] <= '9':
		return "", badXML("a name that begins with %q", name[0])
	case name[0] == ':' || name[len(name)-1] == ':' || strings.Count(name, ":") > 1:
		return "", badXML("a name with a misplaced colon")
	}
	return name, nil
}

func (s *scanner) skipSpace() bool {
	start := s.pos
	for s.pos < len(s.src) && isSpace(s.src[s.pos]) {
		s.pos++
	}
	return s.pos > start
}

// lookup resolves a prefix, innermost declaration first. For an undeclared one
// it returns "", which does no harm, since callers match local names.
func (s *scanner) lookup(prefix string) string {
	for i := len(s.binds) - 1; i >= 0; i-- {
		if s.binds[i].prefix == prefix {
			return s.binds[i].uri
		}
	}
	return ""
}

func splitName(q string) (prefix, local string) {
	if i := strings.IndexByte(q, ':'); i >= 0 {
		return q[:i], q[i+1:]
	}
	return "", q
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '_' || c == ':' || c == '-' || c == '.' || c >= 0x80
}

// unescape resolves XML's five entities and character references; any other
// entity would need a DOCTYPE, which Parse refuses.
func unescape(t string) (string, error) {
	var b strings.Builder
	b.Grow(len(t))
	for {
		amp := strings.IndexByte(t, '&')
		if amp < 0 {
			b.WriteString(t)
			return b.String(), nil
		}
		b.WriteString(t[:amp])
		t = t[amp+1:]
		semi := strings.IndexByte(t, ';')
		if semi < 1 || semi > 10 {
			return "", badXML("a broken entity")
		}
		r, ok := entity(t[:semi])
		if !ok {
			return "", badXML("entity &%s; is not XML's own", amt.Clip(t[:semi]))
		}
		b.WriteRune(r)
		t = t[semi+1:]
	}
}

func entity(name string) (rune, bool) {
	switch name {
	case "lt":
		return '<', true
	case "gt":
		return '>', true
	case "amp":
		return '&', true
	case "quot":
		return '"', true
	case "apos":
		return '\'', true
	}
	if name[0] != '#' {
		return 0, false
	}
	digits, base := name[1:], rune(10)
	if digits != "" && digits[0] == 'x' {
		digits, base = digits[1:], 16
	}
	if digits == "" {
		return 0, false
	}
	var r rune
	for i := range len(digits) {
		var v rune
		switch c := digits[i]; {
		case c >= '0' && c <= '9':
			v = rune(c - '0')
		case base == 16 && c >= 'a' && c <= 'f':
			v = rune(c-'a') + 10
		case base == 16 && c >= 'A' && c <= 'F':
			v = rune(c-'A') + 10
		default:
			return 0, false
		}
		if r = r*base + v; r > utf8.MaxRune {
			return 0, false
		}
	}
	return r, utf8.ValidRune(r) && (r >= 0x20 || r == '\t' || r == '\n' || r == '\r')
}
