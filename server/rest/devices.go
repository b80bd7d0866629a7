package rest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

func (s *Server) deviceRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "list-devices", Method: http.MethodGet, Path: "/api/v1/devices", Summary: "List devices", Tags: []string{"devices"}}, s.listDevices)
	add(s, to, huma.Operation{OperationID: "get-device", Method: http.MethodGet, Path: "/api/v1/devices/{uuid}", Summary: "Everything known of one device", Tags: []string{"devices"}}, s.getDevice)
	add(s, to, huma.Operation{OperationID: "why-device", Method: http.MethodGet, Path: "/api/v1/devices/{id}/why", Summary: "Why a device is, or is not, under management",
		Description: "The id is a UUID (in either byte order), an address, a MAC or a name; it may be of a device that was never seen.", Tags: []string{"devices"}}, s.why)
}

func (s *Server) listDevices(ctx context.Context, in *api.DeviceQuery) (api.DevicePage, error) {
	f, err := deviceFilter(in, s.now())
	if err != nil {
		return api.DevicePage{}, err
	}
	limit := f.Limit
	if limit == 0 {
		limit = 100
	}
	f.Limit = min(limit+1, 1000) // one more tells whether there is a next page
	limit = min(limit, 999)
	var found []store.Device
	if err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		found, err = tx.Devices(ctx, f)
		return err
	}); err != nil {
		return api.DevicePage{}, err
	}
	page := api.DevicePage{Devices: []api.Device{}}
	if len(found) > limit {
		found = found[:limit]
		page.Next = found[limit-1].Cursor(f.Order)
	}
	for _, d := range found {
		page.Devices = append(page.Devices, toDevice(d))
	}
	return page, nil
}

// terms are what a query may name; those of plain say what its text is, which
// is looked for everywhere anyway.
var (
	terms = []string{"state", "reason", "amt", "net", "suffix", "tag", "profile", "health", "seen", "silent", "uuid", "name", "address", "mac", "serial"}
	term  = regexp.MustCompile(`(?:^|\s)(` + strings.Join(terms, "|") + `):(\S+)`)
	// A word of letters before a colon is a term, unless it can be the beginning
	// of an address or a MAC.
	anyTerm = regexp.MustCompile(`(?:^|\s)([A-Za-z_]*[G-Zg-z_][A-Za-z_]*):\S`)
	version = regexp.MustCompile(`^(>=|<=|>|<)?(\d{1,5})((?:\.\d+){0,3})$`)
)

// amtVersion puts what a query asks of the version into a filter: 11, 11.8, a
// whole version, or a bound of generations.
func amtVersion(text string, f *store.DeviceFilter) bool {
	m := version.FindStringSubmatch(text)
	if m == nil || m[1] != "" && m[3] != "" {
		return text == ""
	}
	major, _ := strconv.Atoi(m[2]) // five digits at most
	switch m[1] {
	case "":
		f.Version = text
	case ">=":
		f.From = major
	case ">":
		f.From = major + 1
	case "<=":
		f.To = max(major, 1)
	default:
		f.To = max(major-1, 1)
	}
	return true
}

// deviceFilter reads the fields and the terms inside of Q.
func deviceFilter(q *api.DeviceQuery, now time.Time) (store.DeviceFilter, error) {
	f := store.DeviceFilter{
		Reason: reason.Code(q.Reason), Health: q.Health, Suffix: q.Suffix, Profile: q.Profile, Tag: q.Tag,
		Order: orderOf(q.Order), After: q.After, Limit: q.Limit,
	}
	states := slices.Clone(q.Lifecycle)
	network, seen, silent := q.Network, "", ""
	text, versions := q.Q, []string{q.Version}
	var plain []string
	for _, m := range term.FindAllStringSubmatch(text, -1) {
		switch m[1] {
		case "state":
			states = append(states, strings.Split(m[2], ",")...)
		case "reason":
			f.Reason = reason.Code(m[2])
		case "amt":
			versions = append(versions, m[2])
		case "net":
			network = m[2]
		case "suffix":
			f.Suffix = m[2]
		case "tag":
			f.Tag = m[2]
		case "profile":
			f.Profile = m[2]
		case "health":
			f.Health = m[2]
		case "seen":
			seen = m[2]
		case "silent":
			silent = m[2]
		default:
			plain = append(plain, m[2])
		}
	}
	text = term.ReplaceAllString(text, " ")
	f.Query = strings.TrimSpace(text + " " + strings.Join(plain, " "))
	var bad []api.ProblemField
	if m := anyTerm.FindStringSubmatch(text); m != nil {
		bad = append(bad, api.ProblemField{Location: "query.q", Message: fmt.Sprintf("there is no term %q%s", api.Clip(m[1], 40)+":", api.Meant(m[1], terms))})
	}
	for _, v := range versions {
		if !amtVersion(v, &f) {
			bad = append(bad, api.ProblemField{Location: "query.q", Message: "amt: want 11, 11.8, a whole version, or generations such as >=16"})
		}
	}
	if _, err := netip.ParsePrefix(f.Query); err == nil && network == "" {
		network, f.Query = f.Query, ""
	} else if u, err := amt.ParseUUID(f.Query); err == nil {
		f.Query = u.String()
	} else if mac, ok := macOf(f.Query); ok {
		f.Query = colons(mac)
	}
	if !goodCursor(f.Order, f.After) {
		bad = append(bad, api.ProblemField{Location: "query.after", Message: "not the next of a page in this order"})
	}
	for _, st := range states {
		if st == "" {
			continue
		}
		if !slices.Contains(store.Lifecycles(), store.Lifecycle(st)) {
			bad = append(bad, api.ProblemField{Location: "query.lifecycle", Message: "no such lifecycle; they are " + lifecycleWords()})
			continue
		}
		f.Lifecycle = append(f.Lifecycle, store.Lifecycle(st))
	}
	if f.Reason != "" && !reason.Known(f.Reason) {
		bad = append(bad, api.ProblemField{Location: "query.reason", Message: "no such reason; /api/v1/reasons lists them"})
	}
	if network != "" {
		if p, err := netip.ParsePrefix(network); err == nil {
			f.Network = p.Masked()
		} else if a, err := netip.ParseAddr(network); err == nil {
			f.Network = netip.PrefixFrom(a, a.BitLen())
		} else {
			bad = append(bad, api.ProblemField{Location: "query.network", Message: "want a network such as 10.20.0.0/16"})
		}
	}
	for _, age := range []struct {
		name, text string
		into       *time.Time
	}{{"seen", seen, &f.Seen}, {"silent", silent, &f.Silent}} {
		if age.text == "" {
			continue
		}
		d, err := parseAge(age.text)
		if err != nil {
			bad = append(bad, api.ProblemField{Location: "query.q", Message: age.name + ": want an age such as 24h or 7d"})
			continue
		}
		*age.into = now.Add(-d)
	}
	if len(bad) > 0 {
		said := bad[0].Message
		if bad[0].Location != "query.q" { // which is what was typed, and names its term
			said = bad[0].Location + ": " + said
		}
		p := api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "%s", said)
		p.Errors = bad
		return f, p
	}
	return f, nil
}

// parseAge reads 24h or 7d.
func parseAge(s string) (time.Duration, error) {
	s = strings.TrimLeft(s, "<>")
	if n, ok := strings.CutSuffix(s, "d"); ok {
		d, err := time.ParseDuration(n + "h")
		return 24 * d, err
	}
	return time.ParseDuration(s)
}

func lifecycleWords() string {
	var words []string
	for _, l := range store.Lifecycles() {
		words = append(words, string(l))
	}
	return strings.Join(words, ", ")
}

// uuidOf reads a UUID of a path.
func uuidOf(text string) (amt.UUID, error) {
	u, err := amt.ParseUUID(text)
	if err != nil {
		return u, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "%s", err)
	}
	return u, nil
}

func unknownDevice(u amt.UUID) *api.Problem {
	return api.NewProblem(http.StatusNotFound, api.CodeNoDevice, "no device %s is known", u)
}

const (
	recentRuns   = 20
	recentEvents = 100
)

func (s *Server) getDevice(ctx context.Context, in *OneDevice) (api.DeviceDetail, error) {
	var out api.DeviceDetail
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		d, err := s.known(ctx, tx, in.UUID)
		if err != nil {
			return err
		}
		u := d.UUID
		out = toDetail(d)
		hashes, err := tx.TrustHashes(ctx, d.TrustTable)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		out.TrustedRoots = api.Roots(hashes)
		if out.Credentials, err = s.credentials(ctx, tx, u); err != nil {
			return err
		}
		settings, err := tx.DeviceSettings(ctx, u)
		if err != nil {
			return err
		}
		out.Settings = toSettings(settings)
		runs, err := tx.Runs(ctx, u, recentRuns)
		if err != nil {
			return err
		}
		out.Runs = []api.Run{}
		for _, r := range runs {
			steps, err := tx.Steps(ctx, r.ID)
			if err != nil {
				return err
			}
			out.Runs = append(out.Runs, toRun(r, steps))
		}
		events, err := tx.Events(ctx, store.EventFilter{UUID: u, Newest: true, Limit: recentEvents})
		if err != nil {
			return err
		}
		out.Events = []api.Event{}
		for _, e := range events {
			out.Events = append(out.Events, toEvent(e, out.FQDN))
		}
		return nil
	})
	return out, err
}

// toSettings lists settings in the order in which a device gets them.
func toSettings(all map[string]store.DeviceSetting) []api.Setting {
	out := []api.Setting{}
	for _, name := range profile.Settings {
		if s, is := all[name]; is {
			out = append(out, api.Setting{Name: name, State: string(s.State), Detail: api.Clean(s.Detail), At: s.At})
		}
	}
	return out
}

func toDetail(d store.Device) api.DeviceDetail {
	return api.DeviceDetail{
		Device: toDevice(d), Realm: api.Clean(d.Realm), Domain: api.Clean(d.Domain), SecureDNS: d.SecureDNS, ProfileVersion: d.ProfileVersion, AssignedProfile: api.Clean(d.AssignedProfile),
		PeerFingerprint: hex.EncodeToString(d.PeerFingerprint), PeerVerified: d.PeerVerified, DeviceCertNotAfter: timeOrNull(d.DeviceCertNotAfter),
		PasswordChangedAt: timeOrNull(d.PasswordChangedAt), Generation: d.Generation, Record: cleanJSON(d.Record),
	}
}

// credentials lists what there is without the passwords.
func (s *Server) credentials(ctx context.Context, tx *store.Tx, u amt.UUID) ([]api.Credential, error) {
	out := []api.Credential{}
	for _, kind := range []string{store.KindAdmin, store.KindMEBx} {
		list, err := tx.Credentials(ctx, u, kind)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		for _, c := range list {
			out = append(out, toCredential(c))
		}
	}
	users, err := tx.UserPasswords(ctx, u, "")
	for _, c := range users {
		out = append(out, toCredential(c.Credential()))
	}
	return out, err
}

func orderOf(s string) store.Order {
	if s == "uuid" {
		return store.ByUUID
	}
	return store.Order(s)
}

// goodCursor reports whether after can be the Cursor of a device in this order.
func goodCursor(o store.Order, after string) bool {
	if after == "" {
		return true
	}
	id := after
	if o != store.ByUUID {
		i := strings.LastIndexByte(after, ',')
		if i < 0 {
			return false
		}
		id = after[i+1:]
		if _, err := strconv.ParseInt(after[:i], 10, 64); o == store.ByLastSeen && err != nil {
			return false
		}
	}
	_, err := amt.ParseUUID(id)
	return err == nil
}
