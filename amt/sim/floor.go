package sim

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// FloorConfig describes the least that a server in Go has to do for a fleet:
// TLS handshakes and HTTP round trips, and nothing around them.
type FloorConfig struct {
	Devices    []*Device // started, in setup mode
	Client     *tls.Certificate
	Workers    int // devices under way at once
	Handshakes int // per device; 0: 2, one before the commit and one after
	RoundTrips int // per device, over all handshakes; 0: 30
}

// FloorResult is what the bare client achieved.
type FloorResult struct {
	Devices   int
	Elapsed   time.Duration
	PerSecond float64
	P50, P99  time.Duration // of one device, from dialling to the last answer
}

// Floor measures the bare client on these devices. It reads general settings
// over and over, and sets nothing up.
func Floor(ctx context.Context, cfg FloorConfig) (FloorResult, error) {
	if cfg.Handshakes <= 0 {
		cfg.Handshakes = 2
	}
	if cfg.RoundTrips <= 0 {
		cfg.RoundTrips = 30
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 100
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan *Device)
	took := make([]time.Duration, 0, len(cfg.Devices))
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := time.Now()
	for range min(cfg.Workers, len(cfg.Devices)) {
		wg.Go(func() {
			for d := range work {
				t := time.Now()
				if err := bareSetup(ctx, d, cfg); err != nil {
					cancel(fmt.Errorf("floor, device %s: %w", d.UUID(), err))
					return
				}
				mu.Lock()
				took = append(took, time.Since(t))
				mu.Unlock()
			}
		})
	}
feed:
	for _, d := range cfg.Devices {
		select {
		case work <- d:
		case <-ctx.Done():
			break feed
		}
	}
	close(work)
	wg.Wait()
	res := FloorResult{Devices: len(took), Elapsed: time.Since(begin)}
	if err := context.Cause(ctx); err != nil {
		return res, err
	}
	if len(took) == 0 {
		return res, nil
	}
	slices.Sort(took)
	res.PerSecond = float64(len(took)) / res.Elapsed.Seconds()
	res.P50, res.P99 = took[len(took)/2], took[len(took)*99/100]
	return res, nil
}

const bareRequest = `<?xml version="1.0" encoding="utf-8"?><Envelope xmlns="http://www.w3.org/2003/05/soap-envelope" xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><Header><a:Action>http://schemas.xmlsoap.org/ws/2004/09/transfer/Get</a:Action><a:To>/wsman</a:To><w:ResourceURI>http://intel.com/wbem/wscim/1/amt-schema/1/AMT_GeneralSettings</w:ResourceURI><a:MessageID>1</a:MessageID><a:ReplyTo><a:Address>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo><w:OperationTimeout>PT60S</w:OperationTimeout></Header><Body/></Envelope>`

func bareSetup(ctx context.Context, d *Device, cfg FloorConfig) error {
	conf := &tls.Config{
		MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12, CipherSuites: append(slices.Clone(suitesLate), suitesMid...),
		CurvePreferences: []tls.CurveID{tls.CurveP256}, InsecureSkipVerify: true, SessionTicketsDisabled: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cfg.Client, nil },
	}
	request := fmt.Appendf(nil, "POST /wsman HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", d.Addr(), len(bareRequest), bareRequest)
	var dialer net.Dialer
	for h := range cfg.Handshakes {
		trips := cfg.RoundTrips / cfg.Handshakes
		if h == 0 {
			trips += cfg.RoundTrips % cfg.Handshakes
		}
		for trips > 0 { // some devices close after every answer
			raw, err := dialer.DialContext(ctx, "tcp", d.Addr().String())
			if err != nil {
				return err
			}
			n, err := bareTrips(ctx, tls.Client(raw, conf), request, trips)
			if err != nil {
				_ = raw.Close()
				return err
			}
			trips -= n
		}
	}
	return nil
}

// bareTrips makes up to n round trips, fewer if the device closes.
func bareTrips(ctx context.Context, c *tls.Conn, request []byte, n int) (int, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		return 0, err
	}
	in := bufio.NewReader(c)
	for i := range n {
		if _, err := c.Write(request); err != nil {
			return i, err
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return i, err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return i, err
		}
		_ = resp.Body.Close()
		if resp.Close {
			return i + 1, c.Close()
		}
	}
	return n, c.Close()
}
