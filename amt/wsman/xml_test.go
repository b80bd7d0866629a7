package wsman

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
)

// outline writes a tree in one line: name=text(children), namespaces left out.
func outline(n Node) string {
	s := n.Name()
	if n.Text() != "" {
		s += "=" + n.Text()
	}
	var kids []string
	for c := range n.Children() {
		kids = append(kids, outline(c))
	}
	if kids != nil {
		s += "(" + strings.Join(kids, " ") + ")"
	}
	return s
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, in, want string }{
		{"plain", `<a><b>1</b><c/></a>`, "a(b=1 c)"},
		{"prefixes and order", `<x:a xmlns:x="u"><y:c xmlns:y="v"/><x:b>1</x:b></x:a>`, "a(c b=1)"},
		{"undeclared prefix", `<x:a><z:b>1</z:b></x:a>`, "a(b=1)"},
		{"spaces around =", `<a  b = "1"  c= '2'><b>x</b ></a >`, "a(b=x)"},
		{"declaration with spaces", `<?xml version= "1.0" encoding= "UTF-8"?><a/>`, "a"},
		{"upper-case encoding", `<?xml version='1.0' encoding='utf-8' standalone="yes"?>` + "\n<a/>\n", "a"},
		{"comments", `<!-- < & > --><a><!-- x -->1<!-- y -->2</a><!-- z -->`, "a=12"},
		{"white space", "<a>\r\n\t<b>\n x y \n</b>\n</a>", "a(b=x y)"},
		{"entities", `<a b="&quot;">&lt;&amp;&gt;&apos;&#65;&#x42;&#x20AC;</a>`, "a=<&>'AB€"},
		{"CDATA", `<a>1<![CDATA[<b>&amp;]]>2</a>`, "a=1<b>&amp;2"},
		{"mixed", `<a>1<b/>2</a>`, "a=12(b)"},
		{"processing instruction", `<?x y?><a><?z?>1</a>`, "a=1"},
		{"umlauts", `<a><Ü>ö</Ü></a>`, "a(Ü=ö)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n, err := Parse([]byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if got := outline(n); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	for _, in := range []string{
		``, ` `, `x`, `<`, `<a`, `<a>`, `</a>`, `<a></b>`, `<a/><b/>`, `<a/>x`, `x<a/>`, `<a b/>`, `<a b=1/>`, `<a b="1"c="2"/>`,
		`<a b="<"/>`, `<a b="1" b="2"/>`, `<a>&x;</a>`, `<a>&#0;</a>`, `<a>&#xD800;</a>`, `<a>&;</a>`, `<a>&amp</a>`,
		`<!DOCTYPE a><a/>`, `<a><!ELEMENT b></a>`, `<a><![CDATA[x</a>`, `<a><!-- x</a>`, `<1a/>`, `<a:/>`, `<:a/>`, `<a:b:c/>`,
		"<a>\x01</a>", "<a>\xc3</a>", `<?xml version="1.0" encoding="utf-16"?><a/>`, `<?xml version="1.0" encoding=?><a/>`,
		`<![CDATA[x]]><a/>`,
		"<" + strings.Repeat("n", maxName+1) + "/>",
	} {
		if n, err := Parse([]byte(in)); err == nil {
			t.Errorf("%.60q is read as %s, want it refused", in, outline(n))
		}
	}
}

func TestNodePaths(t *testing.T) {
	t.Parallel()
	n, err := Parse([]byte(`<r xmlns="u" xmlns:q="w"><a><b q:Name="x">1</b><b>2</b></a><e>true</e><f>0</f><g>perhaps</g>` +
		`<Ref><ReferenceParameters><SelectorSet><Selector Name="InstanceID"> Intel(r) AMT Key: Handle: 0 </Selector></SelectorSet></ReferenceParameters></Ref></r>`))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for b := range n.Child("a").All("b") {
		all = append(all, b.Text())
	}
	yes, no := true, false
	got := []any{
		n.Child("a", "b").Text(), n.Child("a", "x", "y").OK(), n.Find("b").Attr("Name"), n.Space(), all,
		n.Child("e").Bool(), n.Child("f").Bool(), n.Child("g").Bool(), n.Child("Ref").Selector("InstanceID"), n.Selector("Other"),
		Node{}.Text(), Node{}.Child("a").Find("b").Selector("c"),
	}
	want := []any{
		"1", false, "x", "u", []string{"1", "2"},
		&yes, &no, (*bool)(nil), "Intel(r) AMT Key: Handle: 0", "", "", "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What goes out, byte for byte.
func TestRequests(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(r request) reply {
		switch {
		case strings.Contains(r.body, "/Get<"):
			return ok(r, `<h:AMT_TLSSettingData xmlns:h="http://intel.com/wbem/wscim/1/amt-schema/1/AMT_TLSSettingData" xmlns:o="urn:oem">`+
				`<h:AcceptNonSecureConnections>true</h:AcceptNonSecureConnections><h:Enabled>false</h:Enabled><o:Odd o:k="&lt;1&gt;" j="2"><o:In/>t&amp;</o:Odd>`+
				`<h:InstanceID>I</h:InstanceID><h:TrustedCN>a</h:TrustedCN><h:TrustedCN>b</h:TrustedCN></h:AMT_TLSSettingData>`)
		case strings.Contains(r.body, "_INPUT"):
			return ok(r, `<g:AddUserAclEntryEx_OUTPUT><g:ReturnValue>0</g:ReturnValue></g:AddUserAclEntryEx_OUTPUT>`)
		}
		return ok(r, ``)
	})
	c := p.client(Config{})
	n, err := c.Get(t.Context(), "AMT_TLSSettingData", Selector{"InstanceID", `<"I"&'>`})
	if err != nil {
		t.Fatal(err)
	}
	in := InstanceOf("AMT_TLSSettingData", n)
	in.Set("Enabled", "true")
	in.Set("MutualAuthentication", "false")
	in.SetAll("TrustedCN", []string{"x.example"})
	in.Remove("AcceptNonSecureConnections")
	if err := c.Put(t.Context(), in, Selector{"InstanceID", "I"}); err != nil {
		t.Fatal(err)
	}
	ctx := NewInstance("AMT_TLSCredentialContext")
	ctx.SetEPR("ElementInContext", EPR{"AMT_PublicKeyCertificate", Selector{"InstanceID", "C: 1"}})
	ctx.SetEPR("ElementProvidingContext", EPR{"AMT_TLSProtocolEndpointCollection", Selector{"ElementName", "N"}})
	if _, err := c.Create(t.Context(), ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), "AMT_PublicKeyCertificate", Selector{"InstanceID", "C: 1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Invoke(t.Context(), "AMT_AuthorizationService", "AddUserAclEntryEx",
		Arg{Name: "DigestUsername", Value: "a\r<\x01\xff"}, Arg{Name: "Realms", Value: "2"}, Arg{Name: "Realms", Value: "3"},
		Arg{Name: "Ref", EPR: &EPR{"CIM_X", Selector{"Name", "n"}}}); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	for _, r := range p.seen() {
		fmt.Fprintf(&got, "%s\n\n", r.body)
		if r.header.Get("Content-Type") != "application/soap+xml;charset=UTF-8" || len(r.header) != 2 {
			t.Errorf("headers are %v", r.header)
		}
		if _, err := xmlTokens(r.body); err != nil {
			t.Errorf("encoding/xml cannot read what we write: %v", err)
		}
	}
	file := filepath.Join("testdata", "requests.txt")
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "><"), strings.Split(got.String(), "><")); diff != "" {
		_ = os.WriteFile(filepath.Join(t.ArtifactDir(), "requests.txt"), got.Bytes(), 0o600)
		t.Errorf("what goes out differs from %s:\n%s", file, diff)
	}
}

// xmlTokens reads a document with encoding/xml, as a second opinion, and joins
// element names and text.
func xmlTokens(s string) (string, error) {
	d := xml.NewDecoder(strings.NewReader(s))
	var b strings.Builder
	for {
		t, err := d.Token()
		if err == io.EOF {
			return b.String(), nil
		}
		if err != nil {
			return "", err
		}
		switch t := t.(type) {
		case xml.StartElement:
			b.WriteString("<" + t.Name.Local + ">")
		case xml.EndElement:
			b.WriteString("</" + t.Name.Local + ">")
		}
	}
}

func TestEnumerate(t *testing.T) {
	t.Parallel()
	const enum = `xmlns:n="http://schemas.xmlsoap.org/ws/2004/09/enumeration"`
	begun := `<n:EnumerateResponse ` + enum + `><n:EnumerationContext>CTX</n:EnumerationContext></n:EnumerateResponse>`
	pulled := func(inner string) string { return `<n:PullResponse ` + enum + `>` + inner + `</n:PullResponse>` }
	fault := func(sub string) string {
		return `<a:Fault><a:Code><a:Value>a:Sender</a:Value><a:Subcode><a:Value>w:` + sub + `</a:Value></a:Subcode></a:Code></a:Fault>`
	}
	for _, tc := range []struct {
		name  string
		first string
		pulls []string // the last is repeated
		want  string   // texts of the items; "error" when it fails
		sends int
	}{
		{"one pull", begun, []string{pulled(`<n:Items><g:X>1</g:X><g:X>2</g:X></n:Items><n:EndOfSequence/>`)}, "1 2", 2},
		{"none", begun, []string{pulled(`<n:Items/><n:EndOfSequence/>`)}, "", 2},
		{"three pulls", begun, []string{
			pulled(`<n:EnumerationContext>B</n:EnumerationContext><n:Items><g:X>1</g:X></n:Items>`),
			pulled(`<n:EnumerationContext>C</n:EnumerationContext><n:Items><g:X>2</g:X></n:Items>`),
			pulled(`<n:Items><g:X>3</g:X></n:Items><n:EndOfSequence></n:EndOfSequence>`)}, "1 2 3", 4},
		{"same context goes on", begun, []string{pulled(`<n:Items><g:X>1</g:X></n:Items>`), pulled(`<n:Items><g:X>2</g:X></n:Items><n:EndOfSequence/>`)}, "1 2", 3},
		{"items at once", `<n:EnumerateResponse ` + enum + `><n:EnumerationContext/><w:Items><g:X>1</g:X></w:Items><w:EndOfSequence/></n:EnumerateResponse>`, nil, "1", 1},
		{"items at once, then more", `<n:EnumerateResponse ` + enum + `><n:EnumerationContext>CTX</n:EnumerationContext><w:Items><g:X>1</g:X></w:Items></n:EnumerateResponse>`,
			[]string{pulled(`<n:Items><g:X>2</g:X></n:Items><n:EndOfSequence/>`)}, "1 2", 2},
		{"items with references", begun, []string{pulled(`<n:Items><w:Item><g:X>1</g:X><b:EndpointReference/></w:Item></n:Items><n:EndOfSequence/>`)}, "1", 2},
		{"end not said", begun, []string{pulled(`<n:Items><g:X>1</g:X></n:Items>`), fault("InvalidEnumerationContext")}, "1", 3},
		{"no context", `<n:EnumerateResponse ` + enum + `/>`, nil, "error", 1},
		{"not a response", `<g:X/>`, nil, "error", 1},
		{"empty pull", begun, []string{pulled(``)}, "error", 2},
		{"endless", begun, []string{pulled(`<n:EnumerationContext>B</n:EnumerationContext><n:Items><g:X>1</g:X></n:Items>`)}, "error", 1 + maxPulls},
		{"fault at first", fault("InvalidResourceURI"), nil, "error", 1},
		{"fault later", begun, []string{fault("InternalError")}, "error", 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			pull := 0
			p := startPeer(t, func(r request) reply {
				if strings.Contains(r.body, "enumeration/Enumerate<") {
					return ok(r, tc.first)
				}
				if pull == 1 && tc.name == "three pulls" && !strings.Contains(r.body, ">B</EnumerationContext>") {
					t.Errorf("the second pull does not carry the new context: %s", r.body)
				}
				body := tc.pulls[min(pull, len(tc.pulls)-1)]
				pull++
				return ok(r, body)
			})
			items, err := p.client(Config{}).Enumerate(t.Context(), "CIM_SoftwareIdentity")
			var texts []string
			for _, n := range items {
				texts = append(texts, n.Text())
			}
			got := strings.Join(texts, " ")
			if err != nil {
				got = "error"
			}
			if got != tc.want || len(p.seen()) != tc.sends {
				t.Errorf("got %q (%v) after %d requests, want %q after %d", got, err, len(p.seen()), tc.want, tc.sends)
			}
		})
	}
}

func TestReturnValueIsAStatus(t *testing.T) {
	t.Parallel()
	p := startPeer(t, func(r request) reply {
		return ok(r, `<q:CommitChanges_OUTPUT xmlns:q="other"><!-- x --><q:ReturnValue> 2057 </q:ReturnValue></q:CommitChanges_OUTPUT>`)
	})
	err := commit(p.client(Config{}), t.Context())
	wantStatus(t, err, amt.StatusDataMissing)
}
