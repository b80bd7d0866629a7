package main

import (
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/provisiond/provisiond/server"
)

// ownDaemon is where the daemon of this configuration listens on this machine,
// and a client that talks to it alone: over TLS only the certificate of api.tls
// is believed, so that a token does not go to whoever took the port.
func ownDaemon(cfg Config, patience time.Duration) (base string, c *http.Client, err error) {
	host, port, err := net.SplitHostPort(string(cfg.API.Listen))
	if err != nil {
		return "", nil, fmt.Errorf("api.listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	c = &http.Client{Timeout: patience}
	if cfg.API.TLS.Cert == "" {
		return "http://" + net.JoinHostPort(host, port), c, nil
	}
	text, err := os.ReadFile(string(cfg.API.TLS.Cert))
	if err != nil {
		return "", nil, fmt.Errorf("api.tls.cert: %w", err)
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" { // leaf first, as it is served
			c.Transport = &http.Transport{TLSClientConfig: server.OnlyThis(block.Bytes)}
			return "https://" + net.JoinHostPort(host, port), c, nil
		}
	}
	return "", nil, fmt.Errorf("api.tls.cert: %s holds no certificate in PEM form", cfg.API.TLS.Cert)
}
