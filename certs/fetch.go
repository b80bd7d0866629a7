package certs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	fetchTime = 10 * time.Second
	fetchSize = 1 << 20
)

// FetchOver reads AIA addresses over plain HTTP, each within ten seconds and
// 1 MB. A redirect is an answer like any other that is not 200: nobody is
// followed elsewhere. Whether it may be used at all is the operator's decision;
// where it may connect to is over's.
func FetchOver(over http.RoundTripper) Fetch {
	client := &http.Client{Transport: over, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context, address string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, fetchTime)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return nil, err
		}
		// RFC 5280 4.2.2.1 and the baseline requirements say http: a TLS server
		// would need a chain of its own.
		if req.URL.Scheme != "http" || req.URL.User != nil {
			return nil, errors.New("only plain http is fetched from")
		}
		res, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		if res.StatusCode >= 300 && res.StatusCode < 400 {
			return nil, fmt.Errorf("the server answered %s, and redirects are not followed", res.Status)
		}
		if res.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("the server answered %s", res.Status)
		}
		data, err := io.ReadAll(io.LimitReader(res.Body, fetchSize+1))
		switch {
		case err != nil:
			return nil, err
		case len(data) > fetchSize:
			return nil, errors.New("the answer is larger than 1 MB")
		}
		return data, nil
	}
}
