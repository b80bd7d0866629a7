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

// FetchOver reads AIA addresses with client, each within ten seconds and 1 MB.
// Whether it may be used at all is the operator's decision; where the client
// may connect to is the client's.
func FetchOver(client *http.Client) Fetch {
	return func(ctx context.Context, url string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, fetchTime)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, err
		}
		res, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
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
