package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/provisiond/provisiond/server"
)

// ownDaemon is where the daemon of this configuration listens on this machine,
// and a client that talks to it alone: over TLS only the certificate of api.tls
// is believed, and the one that the daemon shows until it takes that up, so that
// a token does not go to whoever took the port.
func ownDaemon(ctx context.Context, cfg Config, patience time.Duration) (base string, c *http.Client, err error) {
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
	if _, err := ownLeaves(ctx, cfg); err != nil {
		return "", nil, err
	}
	c.Transport = &http.Transport{TLSClientConfig: server.OnlyOurs(func() [][]byte {
		leaves, _ := ownLeaves(ctx, cfg) // as they are when the daemon has shown its own
		return leaves
	})}
	return "https://" + net.JoinHostPort(host, port), c, nil
}
