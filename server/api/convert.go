package api

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

var problemType = reflect.TypeFor[Problem]()

// maxText bounds every text that a device had a hand in.
const maxText = 512

// lines are put into one: some errors have several.
var lines = strings.NewReplacer("\r\n", "; ", "\n", "; ", "\t", " ")

// clean makes a text of a device harmless to show: bounded, valid UTF-8, and
// without control characters or marks that turn the direction of writing.
func clean(s string) string {
	s = lines.Replace(s)
	ok := len(s) <= maxText && utf8.ValidString(s)
	for _, r := range s {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			ok = false
		}
	}
	if ok {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return clip(s, maxText)
}

// clip shortens to at most n bytes without cutting a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func list(s []string) []string {
	out := make([]string, 0, len(s))
	for _, v := range s {
		out = append(out, clean(v))
	}
	return out
}

func toSummary(d store.Device) DeviceSummary {
	return DeviceSummary{
		UUID: d.UUID.String(), Lifecycle: string(d.Lifecycle), Reason: string(d.Reason), DeviceMode: clean(d.DeviceMode),
		AMTVersion: d.Version.String(), Address: addrText(d.Address), FQDN: clean(d.FQDN),
		FirstSeen: timeOrNull(d.FirstSeen), ProvisionedAt: timeOrNull(d.ProvisionedAt),
	}
}

func toDevice(d store.Device) Device {
	return Device{
		DeviceSummary: toSummary(d), Detail: clean(d.Detail), Health: clean(d.Health), HostName: clean(d.HostName), Suffix: clean(d.Suffix),
		MAC: clean(d.MAC), Serial: clean(d.Serial), SKU: clean(d.SKU), Profile: clean(d.Profile), Certificate: clean(d.Certificate),
		TLSVersion: clean(d.TLSVersion), Tags: list(d.Tags), Approved: d.Approved, LastSeen: timeOrNull(d.LastSeen),
		LastContact: timeOrNull(d.LastContact), WindowUntil: timeOrNull(d.WindowUntil), NextRetry: timeOrNull(d.NextRetry),
		Attempts: d.Attempts, HelloCount: d.HelloCount, PeerSeen: hex.EncodeToString(d.PeerSeen), Vouched: vouched(d.Vouched),
		AddressBy: addressBy(d), HeardFrom: addrText(d.HeardFrom), AgentAddress: addrText(d.AgentAddress),
	}
}

// vouched is a person's word for a certificate: its fingerprint, or first.
func vouched(word []byte) string {
	if bytes.Equal(word, store.VouchFirst) {
		return "first"
	}
	return hex.EncodeToString(word)
}

func toRun(r store.Run, steps []store.StepRecord) Run {
	out := Run{
		ID: r.ID, Kind: r.Kind, Trigger: r.Trigger, State: r.State, Attempt: r.Attempt, Node: clean(r.Node), Profile: clean(r.Profile),
		Task: clean(r.Task), Certificate: clean(r.Certificate), CreatedAt: timeOrNull(r.CreatedAt), NotBefore: timeOrNull(r.NotBefore),
		StartedAt: timeOrNull(r.StartedAt), FinishedAt: timeOrNull(r.FinishedAt), Reason: string(r.Reason), Detail: clean(r.Detail),
		Blame: r.Blame, Steps: []Step{},
	}
	for _, s := range steps {
		out.Steps = append(out.Steps, Step{
			Seq: s.Seq, Name: s.Name, State: s.State, Attempt: s.Attempt, StartedAt: timeOrNull(s.StartedAt),
			FinishedAt: timeOrNull(s.FinishedAt), Detail: clean(s.Detail), Reason: string(s.Reason),
		})
	}
	return out
}

func toEvent(e store.Event, fqdn string) Event {
	out := Event{
		ID: e.ID, At: timeOrNull(e.At), RunID: e.RunID, Name: clean(e.Name), Reason: string(e.Reason), Detail: clean(e.Detail),
		Actor: clean(e.Actor), Data: cleanMap(e.Data),
	}
	if !e.UUID.IsZero() {
		out.UUID, out.FQDN = e.UUID.String(), fqdn
	}
	return out
}

// cleanMap is clean for the texts inside of an event's data.
func cleanMap(m map[string]any) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[clean(k)] = cleanAny(v)
	}
	return out
}

func cleanAny(v any) any {
	switch x := v.(type) {
	case string:
		return clean(x)
	case map[string]any:
		return cleanMap(x)
	case []any:
		out := make([]any, len(x))
		for i := range x {
			out[i] = cleanAny(x[i])
		}
		return out
	}
	return v
}

// cleanJSON reads a stored document; one that cannot be read is left out.
func cleanJSON(raw json.RawMessage) any {
	if len(raw) == 0 || len(raw) > 64<<10 {
		return nil
	}
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return nil
	}
	return cleanAny(v)
}

func toCredential(c store.Credential) Credential {
	return Credential{
		Generation: c.Generation, Kind: c.Kind, State: c.State, CreatedAt: timeOrNull(c.CreatedAt), SentAt: timeOrNull(c.SentAt),
		ActivatedAt: timeOrNull(c.ActivatedAt), RetiredAt: timeOrNull(c.RetiredAt), RunID: c.RunID,
	}
}

// Roots names the hashes of a hello.
func Roots(hashes []amt.TrustHash) []TrustedRoot {
	out := make([]TrustedRoot, 0, len(hashes))
	for _, h := range hashes {
		name, _ := certs.RootName(h)
		out = append(out, TrustedRoot{Algorithm: h.Algorithm.String(), Hash: hex.EncodeToString(h.Sum), Name: name})
	}
	return out
}

// ReasonOf is the catalogue's entry for a code.
func ReasonOf(e reason.Entry) Reason {
	return Reason{
		Code: string(e.Code), Phase: string(e.Phase), Blame: string(e.Blame), Retry: string(e.Retry), Title: e.Title,
		Causes: append([]string{}, e.Causes...), Fix: append([]string{}, e.Fix...),
	}
}

func toToken(t store.Token) Token {
	return Token{
		ID: t.ID, Name: t.Name, User: t.User, Role: t.Role, CreatedBy: t.CreatedBy, CreatedAt: timeOrNull(t.CreatedAt), ExpiresAt: timeOrNull(t.ExpiresAt),
		LastUsed: timeOrNull(t.LastUsed), RevokedAt: timeOrNull(t.RevokedAt),
	}
}
