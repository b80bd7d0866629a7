package wsman

import (
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
)

// A Fault is a refusal of the request itself: a SOAP fault, or a refusing HTTP
// status without one. A method that ran and failed is an amt.Status.
type Fault struct {
	Code       string // without prefix: "Sender", "Receiver"; SOAP 1.1's "Client", "Server"
	Subcode    string // without prefix: "InvalidResourceURI", "DestinationUnreachable"
	Reason     string
	Detail     string
	HTTPStatus int
}

func (f *Fault) Error() string {
	var b strings.Builder
	b.WriteString("the device refused the request")
	if f.Subcode != "" || f.Code != "" {
		b.WriteString(": ")
		b.WriteString(strings.Trim(f.Code+"/"+f.Subcode, "/"))
	}
	if f.Reason != "" {
		b.WriteString(": ")
		b.WriteString(f.Reason)
	}
	if f.Detail != "" {
		fmt.Fprintf(&b, " (%s)", f.Detail)
	}
	if f.HTTPStatus != 0 && f.HTTPStatus != 200 {
		fmt.Fprintf(&b, ", HTTP %d", f.HTTPStatus)
	}
	return b.String()
}

// NoSuchClass reports whether the fault means that this firmware has no such
// class or instance, rather than that it dislikes the request.
func (f *Fault) NoSuchClass() bool {
	switch f.Subcode {
	case "InvalidResourceURI", "DestinationUnreachable", "EndpointUnavailable", "ActionNotSupported", "InvalidSelectors":
		return true
	case "":
		return f.HTTPStatus == 400 || f.HTTPStatus == 404
	}
	return false
}

// readFault reads a Fault element of SOAP 1.2 (Code/Value, Code/Subcode/Value,
// Reason/Text, Detail) or 1.1 (faultcode, faultstring, detail).
func readFault(n Node, status int) *Fault {
	f := &Fault{HTTPStatus: status}
	if code := n.Child("Code"); code.OK() {
		f.Code = amt.Clip(unprefixed(code.Child("Value").Text()))
		// A subcode may hold a subcode; the innermost says most.
		for sub := code.Child("Subcode"); sub.OK(); sub = sub.Child("Subcode") {
			f.Subcode = amt.Clip(unprefixed(sub.Child("Value").Text()))
		}
		f.Reason = amt.Clip(n.Child("Reason", "Text").Text())
		f.Detail = amt.Clip(allText(n.Child("Detail")))
		return f
	}
	f.Code = amt.Clip(unprefixed(n.Child("faultcode").Text()))
	f.Reason = amt.Clip(n.Child("faultstring").Text())
	f.Detail = amt.Clip(allText(n.Child("detail")))
	if f.Code != "Client" && f.Code != "Server" {
		f.Subcode = f.Code // SOAP 1.1 has one code for both
	}
	return f
}

func unprefixed(q string) string {
	_, local := splitName(q)
	return local
}

func allText(n Node) string {
	t := n.Text()
	for c := range n.Children() {
		if u := allText(c); u != "" {
			t = strings.TrimSpace(t + " " + u)
		}
		if len(t) > 256 {
			break
		}
	}
	return t
}
