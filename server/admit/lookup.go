package admit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Lookup asks sources outside for a device's name. They are slow and may be
// wrong, so they are asked beside the transactions, each with an end, and what
// they say is checked.
type Lookup struct {
	// ReverseDNS is a resolver; nil asks nobody.
	ReverseDNS Resolver
	// Webhook is https, or http on loopback; "" asks nobody.
	Webhook string
	// HTTP carries the authorities trusted and a client certificate; redirects
	// are not followed in any case.
	HTTP    *http.Transport
	Timeout time.Duration // for one question; 0: 5 s
}

// Resolver is the resolver, nil for none.
func (l Lookup) Resolver() Resolver { return l.ReverseDNS }

// Resolver is the part of *net.Resolver that is used.
type Resolver interface {
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// answer is what a source said: a name, or why there is none. One that failed may
// know a name all the same.
type answer struct {
	name, why string
	failed    bool
}

const (
	lookupsAtOnce = 8
	lookupPause   = time.Minute // between questions about one device
	maxAnswer     = 4 << 10

	// failedFor is how long after its first hello a device waits for a source that
	// fails before a pattern names it: a name once given is in directories and
	// certificates, and a setup window lasts for hours.
	failedFor = 15 * time.Minute
)

// ResolveNames looks up the names of devices that wait for one. Any node may do
// it; a device is asked about once a minute.
func (a *Admitter) ResolveNames(ctx context.Context) error {
	var due []store.Device
	var sources = map[amt.UUID][]profile.Source{}
	err := a.DB.Read(ctx, func(tx *store.Tx) (err error) {
		due, err = tx.DueForIdentity(ctx, 1)
		return err
	})
	if err != nil || len(due) == 0 {
		return err
	}
	err = a.DB.Write(ctx, func(tx *store.Tx) error {
		var err error
		if due, err = tx.DueForIdentity(ctx, 64); err != nil {
			return err
		}
		for _, d := range due {
			// Taken: no other node asks meanwhile.
			if err := tx.SetNextRetry(ctx, d.UUID, tx.Now().Add(lookupPause)); err != nil {
				return err
			}
			as, _, _, err := Assign(ctx, tx, d)
			if err != nil {
				return err
			}
			if sources[d.UUID] = as.Names; len(as.Names) == 0 {
				sources[d.UUID] = a.Policy().Names
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("find devices without a name: %w", err)
	}
	var g errgroup.Group
	g.SetLimit(lookupsAtOnce)
	for _, d := range due {
		g.Go(func() error {
			answers := a.ask(ctx, d, sources[d.UUID])
			if _, err := a.reconsider(ctx, d, answers); err != nil {
				return fmt.Errorf("device %s: %w", d.UUID, err)
			}
			return a.again(ctx, d)
		})
	}
	return g.Wait()
}

// again keeps the time of the next question when the device waits on.
func (a *Admitter) again(ctx context.Context, d store.Device) error {
	return a.DB.Write(ctx, func(tx *store.Tx) error {
		now, err := tx.Device(ctx, d.UUID)
		if errors.Is(err, store.ErrNotFound) || err == nil && (now.Lifecycle != store.PendingIdentity || now.NextRetry.After(tx.Now())) {
			return nil
		}
		if err != nil {
			return err
		}
		return tx.SetNextRetry(ctx, d.UUID, tx.Now().Add(lookupPause))
	})
}

func (a *Admitter) ask(ctx context.Context, d store.Device, sources []profile.Source) map[profile.Source]answer {
	out := map[profile.Source]answer{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, s := range sources {
		fn := a.Lookup.reverse
		switch s {
		case profile.ReverseDNS:
		case profile.Webhook:
			fn = a.Lookup.webhook
		default:
			continue
		}
		wg.Go(func() {
			limit := a.Lookup.Timeout
			if limit <= 0 {
				limit = 5 * time.Second
			}
			one, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			name, err := fn(one, d)
			got, result := answer{name: name}, "found"
			switch {
			case err != nil:
				got.why, got.failed, result = string(s)+": "+err.Error(), true, "error"
				a.Log.Info("name.lookup", zap.Stringer("device", d.UUID), zap.String("source", string(s)), zap.Error(err))
			case name == "":
				got.why, result = noAnswer(s, d), "none"
			}
			a.Metrics.lookups.WithLabelValues(string(s), result).Inc()
			mu.Lock()
			out[s] = got
			mu.Unlock()
		})
	}
	wg.Wait()
	return out
}

func noAnswer(s profile.Source, d store.Device) string {
	if s == profile.ReverseDNS {
		return "reverse DNS has no name for " + d.Address.String()
	}
	return string(s) + " knows no name for it"
}

// reverse takes a name of the address that leads back to the address: whoever
// can write one zone only cannot name a device.
func (l Lookup) reverse(ctx context.Context, d store.Device) (string, error) {
	if l.ReverseDNS == nil {
		return "", errors.New("not set up here")
	}
	names, err := l.ReverseDNS.LookupAddr(ctx, d.Address.String())
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	var liars []string
	for _, n := range names[:min(len(names), 4)] {
		n = strings.ToLower(strings.TrimSuffix(n, "."))
		if profile.CheckFQDN(n) != nil {
			liars = append(liars, amt.Clip(n))
			continue
		}
		back, err := l.ReverseDNS.LookupNetIP(ctx, "ip", n)
		if err != nil && !(errors.As(err, &dns) && dns.IsNotFound) {
			return "", err
		}
		if slices.ContainsFunc(back, func(a netip.Addr) bool { return a.Unmap() == d.Address.Unmap() }) {
			return n, nil
		}
		liars = append(liars, n)
	}
	if len(liars) > 0 {
		return "", fmt.Errorf("%s is named %s, which does not lead back to it", d.Address, strings.Join(liars, ", "))
	}
	return "", nil
}

// question is what a webhook is told about a device.
type question struct {
	UUID    string   `json:"uuid"`
	Address string   `json:"address"`
	Suffix  string   `json:"suffix,omitempty"`
	Version string   `json:"amt_version,omitempty"`
	MAC     string   `json:"mac,omitempty"`
	Serial  string   `json:"serial,omitempty"`
	Tags    []string `json:"tags,omitempty"`
}

// webhook posts what is known and reads {"fqdn": "…"}. 204, 404 and an empty
// name mean that it knows none.
func (l Lookup) webhook(ctx context.Context, d store.Device) (string, error) {
	if l.Webhook == "" {
		return "", errors.New("provisioning.names.webhook is not set")
	}
	body, err := json.Marshal(question{d.UUID.String(), d.Address.String(), d.Suffix, d.Version.String(), d.MAC, d.Serial, d.Tags})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.Webhook, bytes.NewReader(body))
	if err != nil {
		return "", errors.New("the webhook's address cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if l.HTTP != nil {
		client.Transport = l.HTTP
	}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the address, which may hold a password
		}
		return "", fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNoContent, http.StatusNotFound:
		return "", nil
	default:
		return "", fmt.Errorf("answered %d", resp.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return "", fmt.Errorf("cut off: %w", err)
	}
	if len(text) > maxAnswer {
		return "", fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	var out struct {
		FQDN string `json:"fqdn"`
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return "", errors.New(`want {"fqdn": "pc7.corp.example"}`)
	}
	return strings.TrimSpace(out.FQDN), nil
}
