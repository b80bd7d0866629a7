// Package wsman speaks WS-Management the way Intel AMT does: SOAP 1.2 over
// HTTP/1.1 with digest login, one connection, one request at a time.
//
//  1. The client writes a request from templates into one buffer and sends it in
//     one Write (TLS 1.0 stacks that parse HTTP per record stumble otherwise).
//  2. It reads the answer with limits on every dimension: header bytes, body
//     bytes, depth, elements, attributes, name and text lengths.
//  3. It answers a 401 with the stored logins in their order, each at most twice
//     a request and never again once the device refused it.
//  4. It opens a line again that the device closed in good order, at once or not
//     at all. A line that breaks ends the conversation. So does a line that closes
//     without a word after a change: a device that restarted has forgotten it.
//  5. What a caller decides on is a type: *reason.Error around *Fault or
//     amt.Status. Sent says whether a change may have happened.
package wsman

// A class is named AMT_…, IPS_… or CIM_…, and its resource URI is the namespace
// of its prefix followed by its name.
const (
	nsAMT    = "http://intel.com/wbem/wscim/1/amt-schema/1/"
	nsIPS    = "http://intel.com/wbem/wscim/1/ips-schema/1/"
	nsCIM    = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/"
	nsSOAP   = "http://www.w3.org/2003/05/soap-envelope"
	nsSOAP11 = "http://schemas.xmlsoap.org/soap/envelope/"
	nsAddr   = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
	nsWSMAN  = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
	nsEnum   = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
	nsXfer   = "http://schemas.xmlsoap.org/ws/2004/09/transfer"

	anonymous = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
)

// URI is the resource URI of a class: URI("AMT_GeneralSettings").
func URI(class string) string {
	switch {
	case len(class) > 4 && class[:4] == "IPS_":
		return nsIPS + class
	case len(class) > 4 && class[:4] == "CIM_":
		return nsCIM + class
	}
	return nsAMT + class
}
