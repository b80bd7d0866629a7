package receive

import (
	"bytes"
	"fmt"

	"go.uber.org/zap"
)

// ProbePath is what a browser or curl on a machine of a device network asks of
// the hello port, without TLS, to see that its road ends here. Any other
// request is noise.
const ProbePath = "/probe"

var probeRequest = []byte("GET " + ProbePath + " HTTP/1.")

// probed reports whether the peer asks for the probe page, and answers it. The
// answer tells a caller nothing but its own address. The metrics count nothing,
// since a check of the road is no hello, good or bad.
func (s *Server) probed(c *conn) bool {
	b, err := c.ahead(len(probeRequest))
	if err != nil || !bytes.HasPrefix(b, probeRequest) {
		return false
	}
	// Read the request to its end: otherwise closing would reset the connection
	// before the caller has read the answer.
	for !bytes.Contains(b, []byte("\r\n\r\n")) {
		if len(b) == bufSize {
			return false
		}
		if b, err = c.ahead(len(b) + 1); err != nil {
			return false
		}
	}
	text := fmt.Sprintf("provisiond hears hellos of Intel AMT on this port.\nIt sees you come from %s: a hello sent from there arrives.\n",
		c.from.Addr().Unmap())
	_, _ = fmt.Fprintf(c.Conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nCache-Control: "+
		"no-store\r\nConnection: close\r\n\r\n%s", len(text), text) // a caller who has gone does not need it
	s.log.Debug("the hello port was probed", zap.Stringer("from", c.from))
	return true
}
