package rest

import (
	"encoding/hex"
	"encoding/json"
	"reflect"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

var problemType = reflect.TypeFor[api.Problem]()

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func list(s []string) []string {
	out := make([]string, 0, len(s))
	for _, v := range s {
		out = append(out, api.Clean(v))
	}
	return out
}

func toSummary(d store.Device) api.DeviceSummary {
	return api.DeviceSummary{
		UUID: d.UUID.String(), Lifecycle: string(d.Lifecycle), Reason: string(d.Reason), DeviceMode: api.Clean(d.DeviceMode),
		AMTVersion: d.Version.String(), Address: amt.Text(d.Address), FQDN: api.Clean(d.FQDN),
		FirstSeen: timeOrNull(d.FirstSeen), ProvisionedAt: timeOrNull(d.ProvisionedAt),
	}
}

func toDevice(d store.Device) api.Device {
	return api.Device{
		DeviceSummary: toSummary(d), Detail: api.Clean(d.Detail), Health: api.Clean(d.Health), HostName: api.Clean(d.HostName),
		Suffix: api.Clean(d.Suffix),
		MAC:    api.Clean(d.MAC), Serial: api.Clean(d.Serial), SKU: api.Clean(d.SKU), Profile: api.Clean(d.Profile),
		Certificate: api.Clean(d.Certificate),
		TLSVersion:  api.Clean(d.TLSVersion), Tags: list(d.Tags), Approved: d.Approved, LastSeen: timeOrNull(d.LastSeen),
		LastContact: timeOrNull(d.LastContact), WindowUntil: timeOrNull(d.WindowUntil), NextRetry: timeOrNull(d.NextRetry),
		Attempts: d.Attempts, HelloCount: d.HelloCount, PeerSeen: hex.EncodeToString(d.PeerSeen), Vouched: operate.Vouched(d.Vouched),
		AddressBy: operate.AddressBy(d), HeardFrom: amt.Text(d.HeardFrom), AgentAddress: amt.Text(d.AgentAddress),
	}
}

func toRun(r store.Run, steps []store.StepRecord) api.Run {
	out := api.Run{
		ID: r.ID, Kind: r.Kind, Trigger: r.Trigger, State: r.State, Attempt: r.Attempt, Node: api.Clean(r.Node),
		Profile: api.Clean(r.Profile),
		Task:    api.Clean(r.Task), Certificate: api.Clean(r.Certificate), CreatedAt: timeOrNull(r.CreatedAt),
		NotBefore: timeOrNull(r.NotBefore),
		StartedAt: timeOrNull(r.StartedAt), FinishedAt: timeOrNull(r.FinishedAt), Reason: string(r.Reason), Detail: api.Clean(r.Detail),
		Blame: r.Blame, Steps: []api.Step{},
	}
	for _, s := range steps {
		out.Steps = append(out.Steps, api.Step{
			Seq: s.Seq, Name: s.Name, State: s.State, Attempt: s.Attempt, StartedAt: timeOrNull(s.StartedAt),
			FinishedAt: timeOrNull(s.FinishedAt), Detail: api.Clean(s.Detail), Reason: string(s.Reason),
		})
	}
	return out
}

func toEvent(e store.Event, fqdn string) api.Event {
	out := api.Event{
		ID: e.ID, At: timeOrNull(e.At), RunID: e.RunID, Name: api.Clean(e.Name), Reason: string(e.Reason), Detail: api.Clean(e.Detail),
		Actor: api.Clean(e.Actor), Data: cleanMap(e.Data),
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
		out[api.Clean(k)] = cleanAny(v)
	}
	return out
}

func cleanAny(v any) any {
	switch x := v.(type) {
	case string:
		return api.Clean(x)
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

func toCredential(c store.Credential) api.Credential {
	return api.Credential{
		Generation: c.Generation, Kind: c.Kind, State: c.State, CreatedAt: timeOrNull(c.CreatedAt), SentAt: timeOrNull(c.SentAt),
		ActivatedAt: timeOrNull(c.ActivatedAt), RetiredAt: timeOrNull(c.RetiredAt), RunID: c.RunID,
	}
}

// section is nil for what a profile does not mention.
func section[T any](s *T) any {
	if s == nil {
		return nil
	}
	return s
}

// toProfile writes a profile as programs see it.
func toProfile(p profile.Profile) api.Profile {
	return api.Profile{
		Name: p.Name, Version: p.Version, TLS: string(p.TLS), TrustedCN: p.TrustedCN, Unprotected: p.Unprotected, AdminUser: p.AdminUser,
		MEBx: p.MEBx, HostName: p.HostName,
		Domain: p.Domain, ExtendHours: p.ExtendHours, CertificateDays: p.CertificateDays, PasswordDays: p.PasswordDays,
		Passwords: p.Passwords,
		Network:   section(p.Network), Time: section(p.Time), Redirection: section(p.Redirection), Consent: section(p.Consent),
		Power: section(p.Power), Users: section(p.Users),
		Required: p.Required, Drift: p.Drift,
	}
}

func toChanges(changes []profile.Change) (out []api.ProfileChange) {
	for _, c := range changes {
		out = append(out, api.ProfileChange(c))
	}
	return out
}

func toRisks(risks []profile.Risk) (out []api.ProfileRisk) {
	for _, r := range risks {
		out = append(out, api.ProfileRisk(r))
	}
	return out
}

func toRules(rules []profile.Rule) []api.Rule {
	out := make([]api.Rule, 0, len(rules))
	for _, r := range rules {
		out = append(out, api.Rule{Name: r.Name, Disabled: r.Disabled, Match: api.RuleMatch(r.Match), Assign: api.RuleAssign{
			Profile: r.Assign.Profile, Names: toSources(r.Assign.Names), Domain: r.Assign.Domain, Pattern: r.Assign.Pattern,
		}})
	}
	return out
}

func toSources(sources []profile.Source) (out []string) {
	for _, s := range sources {
		out = append(out, string(s))
	}
	return out
}

func toToken(t store.Token) api.Token {
	return api.Token{
		ID: t.ID, Name: t.Name, User: t.User, Role: t.Role, CreatedBy: t.CreatedBy, CreatedAt: timeOrNull(t.CreatedAt),
		ExpiresAt: timeOrNull(t.ExpiresAt),
		LastUsed:  timeOrNull(t.LastUsed), RevokedAt: timeOrNull(t.RevokedAt),
	}
}
