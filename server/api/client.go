package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Client asks a daemon. Errors are *Problem when the daemon refused, and
// *Unreachable when no answer came at all.
type Client struct {
	// Base is the daemon's address such as http://127.0.0.1:8080.
	Base  string
	Token string
	HTTP  *http.Client // nil: http.DefaultClient
}

// Unreachable says that nobody answered.
type Unreachable struct {
	Base string
	Err  error
}

func (e *Unreachable) Error() string { return fmt.Sprintf("no answer from %s: %v", e.Base, e.Err) }
func (e *Unreachable) Unwrap() error { return e.Err }

// maxAnswer bounds what is read of one answer.
const maxAnswer = 64 << 20

func (c *Client) request(ctx context.Context, method, path string, query url.Values, in any) (*http.Response, error) {
	var reader io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(b)
	}
	u := strings.TrimRight(c.Base, "/") + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, reader)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json, application/problem+json, text/event-stream")
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	h := c.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	resp, err := h.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, &Unreachable{c.Base, err}
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return resp, nil
}

// refusal reads a problem, or makes one of what a stranger answered.
func refusal(resp *http.Response) error {
	p := &Problem{}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(b, p) != nil || p.Code == "" {
		return NewProblem(resp.StatusCode, CodeInternal, "%s answered %s, which is not what this daemon says: is the address right?",
			resp.Request.URL.Host, resp.Status)
	}
	p.Status = resp.StatusCode
	return p
}

func call[O any](ctx context.Context, c *Client, method, path string, query url.Values, in any) (out O, err error) {
	resp, err := c.request(ctx, method, path, query, in)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return out, nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out); err != nil {
		return out, fmt.Errorf("read the answer of %s: %w", path, err)
	}
	return out, nil
}

// values turns the query fields of a struct into parameters; zero ones are left out.
func values(in any) url.Values {
	v := url.Values{}
	rv := reflect.ValueOf(in)
	for _, f := range reflect.VisibleFields(rv.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("query"), ",")
		fv := rv.FieldByIndex(f.Index)
		if name == "" || fv.IsZero() {
			continue
		}
		if list, ok := fv.Interface().([]string); ok {
			v.Set(name, strings.Join(list, ","))
		} else {
			v.Set(name, fmt.Sprint(fv.Interface()))
		}
	}
	return v
}

func devicePath(id string, more ...string) string {
	return "/api/v1/devices/" + url.PathEscape(id) + strings.Join(more, "")
}

// Devices lists one page.
func (c *Client) Devices(ctx context.Context, q DeviceQuery) (DevicePage, error) {
	return call[DevicePage](ctx, c, http.MethodGet, "/api/v1/devices", values(q), nil)
}

// AllDevices lists every page, up to limit devices (0: no limit).
func (c *Client) AllDevices(ctx context.Context, q DeviceQuery, limit int) ([]Device, error) {
	all := []Device{}
	for {
		q.Limit = 500
		if limit > 0 {
			q.Limit = min(q.Limit, limit-len(all))
		}
		page, err := c.Devices(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Devices...)
		if page.Next == "" || limit > 0 && len(all) >= limit {
			return all, nil
		}
		q.After = page.Next
	}
}

// Device is everything known of one device.
func (c *Client) Device(ctx context.Context, uuid string) (DeviceDetail, error) {
	return call[DeviceDetail](ctx, c, http.MethodGet, devicePath(uuid), nil, nil)
}

// Why asks why a device is, or is not, under management.
func (c *Client) Why(ctx context.Context, id string) (Why, error) {
	return call[Why](ctx, c, http.MethodGet, devicePath(id, "/why"), nil, nil)
}

// Act gives a command: approve, retry, retire, restore or quarantine.
func (c *Client) Act(ctx context.Context, verb, uuid, note string) (ActionResult, error) {
	return call[ActionResult](ctx, c, http.MethodPost, devicePath(uuid, "/", verb), nil, Action{Note: note})
}

// Approve lets a device in that was seen at an address; "" takes it wherever it is.
func (c *Client) Approve(ctx context.Context, uuid, address, note string) (ActionResult, error) {
	return call[ActionResult](ctx, c, http.MethodPost, devicePath(uuid, "/approve"), nil, Action{Note: note, Address: address})
}

// Change is tag, untag or assign-profile.
func (c *Client) Change(ctx context.Context, verb, uuid string, b ChangeBody) (ActionResult, error) {
	return call[ActionResult](ctx, c, http.MethodPost, devicePath(uuid, "/", verb), nil, b)
}

// Reveal reads one password.
func (c *Client) Reveal(ctx context.Context, uuid, kind, reason string) (Revealed, error) {
	return call[Revealed](ctx, c, http.MethodPost, devicePath(uuid, "/secrets/reveal"), nil, RevealBody{Kind: kind, Reason: reason})
}

// Events lists one page.
func (c *Client) Events(ctx context.Context, q EventQuery) (EventPage, error) {
	return call[EventPage](ctx, c, http.MethodGet, "/api/v1/events", values(q), nil)
}

// Reasons is the catalogue.
func (c *Client) Reasons(ctx context.Context) (ReasonList, error) {
	return call[ReasonList](ctx, c, http.MethodGet, "/api/v1/reasons", nil, nil)
}

// Certificates lists the provisioning certificates.
func (c *Client) Certificates(ctx context.Context) (CertificateList, error) {
	return call[CertificateList](ctx, c, http.MethodGet, "/api/v1/certificates", nil, nil)
}

// Summary is the fleet at a glance.
func (c *Client) Summary(ctx context.Context) (Summary, error) {
	return call[Summary](ctx, c, http.MethodGet, "/api/v1/summary", nil, nil)
}

// Whoami is the caller as the server sees it.
func (c *Client) Whoami(ctx context.Context) (Whoami, error) {
	return call[Whoami](ctx, c, http.MethodGet, "/api/v1/whoami", nil, nil)
}

// Audit lists one page.
func (c *Client) Audit(ctx context.Context, q AuditQuery) (AuditPage, error) {
	return call[AuditPage](ctx, c, http.MethodGet, "/api/v1/audit", values(q), nil)
}

// VerifyAudit checks the chain.
func (c *Client) VerifyAudit(ctx context.Context) (AuditVerified, error) {
	return call[AuditVerified](ctx, c, http.MethodGet, "/api/v1/audit/verify", nil, nil)
}

// SignAudit makes a checkpoint of the audit as it stands.
func (c *Client) SignAudit(ctx context.Context) (AuditCheckpoint, error) {
	return call[AuditCheckpoint](ctx, c, http.MethodPost, "/api/v1/audit/checkpoint", nil, nil)
}

// ExportAudit signs the audit and writes all of it up to there, as CheckAuditFile
// reads it.
func (c *Client) ExportAudit(ctx context.Context, w io.Writer) (AuditCheckpoint, error) {
	last, err := c.SignAudit(ctx)
	if err != nil {
		return last, err
	}
	q := AuditExportQuery{Through: last.Seq}
	for {
		page, err := call[AuditLines](ctx, c, http.MethodGet, "/api/v1/audit/export", values(q), nil)
		if err != nil {
			return last, err
		}
		for _, line := range page.Lines {
			if _, err := io.WriteString(w, line+"\n"); err != nil {
				return last, err
			}
		}
		if q.After = page.Next; q.After == 0 {
			return last, nil
		}
	}
}

// Users lists all users.
func (c *Client) Users(ctx context.Context) (UserList, error) {
	return call[UserList](ctx, c, http.MethodGet, "/api/v1/users", nil, nil)
}

// CreateUser adds a user.
func (c *Client) CreateUser(ctx context.Context, u NewUser) (User, error) {
	return call[User](ctx, c, http.MethodPost, "/api/v1/users", nil, u)
}

// ChangeUser disables or enables a user, or gives it other roles.
func (c *Client) ChangeUser(ctx context.Context, name string, change UserChange) (User, error) {
	return call[User](ctx, c, http.MethodPost, "/api/v1/users/"+url.PathEscape(name), nil, change)
}

// Tokens lists all tokens.
func (c *Client) Tokens(ctx context.Context) (TokenList, error) {
	return call[TokenList](ctx, c, http.MethodGet, "/api/v1/tokens", nil, nil)
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, t NewToken) (TokenCreated, error) {
	return call[TokenCreated](ctx, c, http.MethodPost, "/api/v1/tokens", nil, t)
}

// RevokeToken ends a token.
func (c *Client) RevokeToken(ctx context.Context, id int64) (Token, error) {
	return call[Token](ctx, c, http.MethodDelete, fmt.Sprintf("/api/v1/tokens/%d", id), nil, nil)
}

// Ready asks whether the server can do its work. A red answer is no error.
func (c *Client) Ready(ctx context.Context) (Health, error) {
	h := c.HTTP
	if h == nil {
		h = http.DefaultClient
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(c.Base, "/")+"/readyz", nil)
	if err != nil {
		return Health{}, err
	}
	resp, err := h.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return Health{}, &Unreachable{c.Base, err}
	}
	defer resp.Body.Close()
	var out Health
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&out); err != nil {
		return out, NewProblem(resp.StatusCode, CodeInternal, "%s is not a provisiond: is the address right?", c.Base)
	}
	return out, nil
}

// Follow calls fn with each event behind after (negative: from now on) until ctx
// ends or fn fails. A line that breaks is taken up again where it broke.
func (c *Client) Follow(ctx context.Context, after int64, uuid string, fn func(Event) error) error {
	wait := time.Second
	for first := true; ; first = false {
		err := c.followOnce(ctx, &after, uuid, fn)
		var stop *stopFollow
		var lost *Unreachable
		switch {
		case errors.As(err, &stop):
			return stop.err
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &lost) && !first, err == nil:
			// the daemon stopped or the line broke: it may come back
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

type stopFollow struct{ err error }

func (s *stopFollow) Error() string { return s.err.Error() }

func (c *Client) followOnce(ctx context.Context, after *int64, uuid string, fn func(Event) error) error {
	q := url.Values{}
	if *after >= 0 {
		q.Set("after", strconv.FormatInt(*after, 10))
	}
	if uuid != "" {
		q.Set("uuid", uuid)
	}
	resp, err := c.request(ctx, http.MethodGet, "/api/v1/events/stream", q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		*after = e.ID
		if err := fn(e); err != nil {
			return &stopFollow{err}
		}
	}
	return nil
}

// AddressDevice says where a device is.
func (c *Client) AddressDevice(ctx context.Context, uuid string, n NewAddress) (ActionResult, error) {
	return call[ActionResult](ctx, c, http.MethodPut, devicePath(uuid, "/address"), nil, n)
}

// DeviceCA reads the authority of the devices' certificates.
func (c *Client) DeviceCA(ctx context.Context) (DeviceCA, error) {
	return call[DeviceCA](ctx, c, http.MethodGet, "/api/v1/device-ca", nil, nil)
}

// ConsoleCertificates lists client certificates of other consoles.
func (c *Client) ConsoleCertificates(ctx context.Context, all bool) (ConsoleCertificateList, error) {
	return call[ConsoleCertificateList](ctx, c, http.MethodGet, "/api/v1/console-certificates", values(ConsoleQuery{all}), nil)
}

// IssueConsoleCertificate issues one.
func (c *Client) IssueConsoleCertificate(ctx context.Context, n NewConsoleCertificate) (ConsoleCertificateIssued, error) {
	return call[ConsoleCertificateIssued](ctx, c, http.MethodPost, "/api/v1/console-certificates", nil, n)
}

// RevokeConsoleCertificate notes that one is not to be used any more.
func (c *Client) RevokeConsoleCertificate(ctx context.Context, id int64, why string) (ConsoleCertificateRevoked, error) {
	return call[ConsoleCertificateRevoked](ctx, c, http.MethodPost, fmt.Sprintf("/api/v1/console-certificates/%d/revoke", id), nil,
		RevokeConsole{Why: why})
}

// Doctor is what the checks found last.
func (c *Client) Doctor(ctx context.Context) (DoctorReport, error) {
	return call[DoctorReport](ctx, c, http.MethodGet, "/api/v1/doctor", nil, nil)
}

// RunDoctor makes all checks now.
func (c *Client) RunDoctor(ctx context.Context) (DoctorReport, error) {
	return call[DoctorReport](ctx, c, http.MethodPost, "/api/v1/doctor/run", nil, nil)
}

// Hellos lists the recorded hellos of a device, newest first.
func (c *Client) Hellos(ctx context.Context, device string, limit int) (KeptHellos, error) {
	return call[KeptHellos](ctx, c, http.MethodGet, devicePath(device, "/hellos"), values(struct {
		Limit int `query:"limit"`
	}{limit}), nil)
}
