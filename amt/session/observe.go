package session

import (
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"syscall"
)

// An observer stands between crypto/tls and the network during the handshake
// and reads what the device sends in clear, because crypto/tls reports many
// failures as text only: which version the device chose, and the certificate
// that it could not parse.
type observer struct {
	net.Conn
	done bool   // the handshake is over: pass everything through
	seen []byte // raw records, at most maxObserved bytes
}

const maxObserved = 24 << 10

func (o *observer) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	if !o.done && n > 0 && len(o.seen) < maxObserved {
		o.seen = append(o.seen, b[:min(n, maxObserved-len(o.seen))]...)
	}
	return n, err
}

// SyscallConn lets the WS-Management client look for a FIN on an idle line.
func (o *observer) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := o.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, syscall.ENOTSUP
}

// stop ends the observation and frees its memory.
func (o *observer) stop() { o.done, o.seen = true, nil }

// observed is what a handshake showed.
type observed struct {
	notTLS      bool   // the first byte was no TLS record's
	version     uint16 // in its ServerHello; 0: it sent none
	cipher      uint16
	certAsked   bool // it sent a CertificateRequest (TLS 1.2 and before)
	certificate []byte
}

// look reads the records. It never fails: a cut or odd record ends the reading.
func (o *observer) look() observed {
	var out observed
	b := o.seen
	if len(b) > 0 && (b[0] < 20 || b[0] > 23) {
		out.notTLS = true
		return out
	}
	var msgs []byte
	for len(b) >= 5 && b[0] == 22 {
		n := int(b[3])<<8 | int(b[4])
		body := b[5:]
		if len(body) > n {
			body = body[:n]
		}
		msgs = append(msgs, body...)
		b = b[min(len(b), 5+n):]
	}
	for len(msgs) >= 4 {
		kind, n := msgs[0], int(msgs[1])<<16|int(msgs[2])<<8|int(msgs[3])
		body := msgs[4:]
		whole := len(body) >= n
		if whole {
			body = body[:n]
		}
		switch kind {
		case 2:
			out.serverHello(body)
		case 11:
			if whole && len(body) >= 6 {
				if m := int(body[3])<<16 | int(body[4])<<8 | int(body[5]); m <= len(body)-6 {
					out.certificate = body[6 : 6+m]
				}
			}
		case 13:
			out.certAsked = true
		}
		if !whole {
			break
		}
		msgs = msgs[4+n:]
	}
	return out
}

func (out *observed) serverHello(b []byte) {
	if len(b) < 35 {
		return
	}
	out.version = uint16(b[0])<<8 | uint16(b[1])
	rest := b[34:]
	if id := int(rest[0]); len(rest) >= 1+id+2 {
		out.cipher = uint16(rest[1+id])<<8 | uint16(rest[2+id])
	}
}

// mended is the advice about firmware with such certificates.
const mended = "no firmware update is known to mend this, except for AMT 3.2.1, which 3.2.2 mends"

// certificateProblem says why crypto/tls cannot take the device's certificate;
// nil if it can, or if none came.
func (out *observed) certificateProblem() error {
	if out.certificate == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(out.certificate)
	if err != nil {
		odd := oddities(out.certificate)
		if len(odd) == 0 {
			odd = []string{"it breaks a rule of X.509"}
		}
		err = fmt.Errorf("%s; %s (%w)", strings.Join(odd[:min(len(odd), 2)], "; "), mended, err)
		return err
	}
	if key, ok := cert.PublicKey.(*rsa.PublicKey); ok {
		if bits := key.N.BitLen(); bits < 1024 || bits > 8192 {
			return &keySizeError{bits}
		}
	}
	return nil
}

type keySizeError struct{ bits int }

func (e *keySizeError) Error() string { return fmt.Sprintf("an RSA key of %d bits", e.bits) }

// A CertificateError carries a device's certificate that crypto/tls does not
// take, for whoever looks into the firmware. It proves nothing: the handshake
// ended before the device showed that it holds the key.
type CertificateError struct {
	DER []byte // at most MaxOddCertificate bytes of it
	Err error
}

// MaxOddCertificate bounds how much of an unusable certificate the error keeps.
const MaxOddCertificate = 4 << 10

func (e *CertificateError) Error() string {
	return "the device's certificate cannot be used: " + e.Err.Error()
}
func (e *CertificateError) Unwrap() error { return e.Err }
