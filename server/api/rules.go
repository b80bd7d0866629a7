package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// RuleList is the assignment rules in the order they are tried.
type RuleList struct {
	Rules []profile.Rule `json:"rules"`
}

// RulesInput replaces all rules.
type RulesInput struct {
	Body RuleSet
}

// RuleSet is the whole ordered list.
type RuleSet struct {
	Rules  []map[string]any `json:"rules" maxItems:"1000" doc:"name, disabled, match {networks, suffixes, amt, roots, tags}, assign {profile, names, domain, pattern}"`
	DryRun bool             `json:"dry_run,omitempty"`
}

// RulesReport says what a new list changes.
type RulesReport struct {
	DryRun  bool     `json:"dry_run"`
	Added   []string `json:"added"`
	Changed []string `json:"changed"`
	Removed []string `json:"removed"`
	Same    int      `json:"same"`
	Started int      `json:"started" doc:"runs that began at once, of devices that waited for what was changed; in a dry run: that would begin"`

	Moves []ProfileMove `json:"moves,omitempty" doc:"devices under management that these rules give another profile than they have, which a rollout brings them to"`
}

// ProfileMove is what becomes of managed devices that are given another profile.
type ProfileMove struct {
	From    string         `json:"from"`
	To      string         `json:"to"`
	Devices int            `json:"devices"`
	Waves   []Wave         `json:"waves" doc:"how they go. The first device that is lost stops the rest"`
	Risks   []profile.Risk `json:"risks,omitempty" doc:"what could be lost by it, and what keeps it from that"`
}

// RuleVerdict says what the rules make of one device.
type RuleVerdict struct {
	UUID     string           `json:"uuid"`
	Rule     string           `json:"rule" doc:"the one that decides; empty: none fits"`
	Profile  string           `json:"profile"`
	Assigned bool             `json:"assigned" doc:"a person gave it this profile, whatever list and rules say"`
	Names    []profile.Source `json:"names" doc:"name sources in the order they are asked"`
	Domain   string           `json:"domain"`
	FQDN     string           `json:"fqdn" doc:"the name assigned; empty leaves it to the sources"`
	By       string           `json:"by" doc:"the entry of the list of authorised devices that goes before the rules; empty: none"`
	Tried    []profile.Tried  `json:"tried" doc:"each rule asked, and why it did or did not fit"`
}

func (s *Server) ruleRoutes(api huma.API) {
	tags := []string{"rules"}
	add(s, api, huma.Operation{OperationID: "list-rules", Method: http.MethodGet, Path: "/api/v1/rules", Summary: "The assignment rules in their order", Tags: tags}, s.listRules)
	add(s, api, huma.Operation{OperationID: "apply-rules", Method: http.MethodPut, Path: "/api/v1/rules", Summary: "Replace the assignment rules", Tags: tags}, s.applyRules)
	add(s, api, huma.Operation{OperationID: "test-rules", Method: http.MethodGet, Path: "/api/v1/devices/{uuid}/rule", Summary: "What the rules make of a device, and why", Tags: tags}, s.testRules)
}

func storedRules(ctx context.Context, tx *store.Tx) ([]profile.Rule, error) {
	stored, err := tx.AssignmentRules(ctx)
	rules := make([]profile.Rule, 0, len(stored))
	for _, r := range stored {
		rule, bad := profile.ReadRule(r.Name, r.Enabled, r.Match, r.Assign)
		if bad != nil {
			return nil, bad
		}
		rules = append(rules, rule)
	}
	return rules, err
}

func (s *Server) listRules(ctx context.Context, _ *none) (out RuleList, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		out.Rules, err = storedRules(ctx, tx)
		return err
	})
	return out, err
}

func (s *Server) applyRules(ctx context.Context, in *RulesInput) (RulesReport, error) {
	who, _ := PrincipalOf(ctx)
	rep := RulesReport{DryRun: in.Body.DryRun, Added: []string{}, Changed: []string{}, Removed: []string{}}
	var rules []profile.Rule
	var bad []ProblemField
	seen := map[string]bool{}
	for i, doc := range in.Body.Rules {
		var r profile.Rule
		where := fmt.Sprintf("rules[%d]", i)
		if err := Strictly(doc, &r); err != nil {
			bad = append(bad, ProblemField{where, err.Error()})
			continue
		}
		if err := r.Validate(); err != nil {
			bad = append(bad, ProblemField{where, err.Error()})
		}
		if seen[r.Name] {
			bad = append(bad, ProblemField{where, "a second rule named " + clip(r.Name, 64)})
		}
		seen[r.Name] = true
		rules = append(rules, r)
	}
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		rep.Added, rep.Changed, rep.Removed, rep.Same = rep.Added[:0], rep.Changed[:0], rep.Removed[:0], 0
		wrong := slices.Clone(bad)
		for i, r := range rules {
			if ok, err := profileKnown(ctx, tx, r.Assign.Profile); err != nil {
				return err
			} else if !ok {
				wrong = append(wrong, ProblemField{fmt.Sprintf("rules[%d].assign.profile", i), "there is no profile " + clip(r.Assign.Profile, 64) + "; provctl profile apply makes one"})
			}
		}
		if len(wrong) > 0 {
			p := problem(http.StatusUnprocessableEntity, CodeInvalid, "the rules cannot be used: %s: %s", wrong[0].Location, wrong[0].Message)
			p.Errors = wrong
			return p
		}
		return rep.replace(ctx, tx, rules, who)
	})
	if err == nil && len(rep.Added)+len(rep.Changed)+len(rep.Removed) > 0 {
		rep.Moves, err = s.moves(ctx, append([]profile.Rule{}, rules...))
	}
	switch {
	case err != nil:
	case in.Body.DryRun:
		rep.Started, err = s.wouldStart(ctx, append([]profile.Rule{}, rules...), "")
	case len(rep.Added)+len(rep.Changed)+len(rep.Removed) > 0: // the same rules change nobody's answer
		rep.Started, err = s.reconsider(ctx)
	}
	return rep, err
}

// moves says whom rules would give another profile, and what could be lost by it.
func (s *Server) moves(ctx context.Context, rules []profile.Rule) (out []ProfileMove, err error) {
	if s.WouldStray == nil {
		return nil, nil
	}
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		out = nil
		n, err := s.WouldStray(ctx, tx, rules)
		if err != nil {
			return err
		}
		for way, devices := range n {
			m := ProfileMove{From: cmp.Or(way[0], s.configured().Name), To: way[1], Devices: devices, Waves: wavesOf(devices, s.Canary)}
			from, _, known, err := s.newest(ctx, tx, m.From)
			if err != nil {
				return err
			}
			to, _, there, err := s.newest(ctx, tx, m.To)
			if err != nil {
				return err
			}
			if known && there {
				m.Risks = profile.Risks(from.Profile, to.Profile)
			}
			out = append(out, m)
		}
		slices.SortFunc(out, func(a, b ProfileMove) int {
			return cmp.Or(strings.Compare(a.To, b.To), strings.Compare(a.From, b.From))
		})
		return nil
	})
	return out, err
}

// replace makes the stored list this one.
func (rep *RulesReport) replace(ctx context.Context, tx *store.Tx, rules []profile.Rule, who Principal) error {
	have, err := tx.AssignmentRules(ctx)
	if err != nil {
		return err
	}
	before := map[string]store.AssignmentRule{}
	for _, h := range have {
		before[h.Name] = h
	}
	for i, r := range rules {
		match, err1 := json.Marshal(r.Match)
		assign, err2 := json.Marshal(r.Assign)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		next := store.AssignmentRule{Position: i + 1, Name: r.Name, Match: match, Assign: assign, Enabled: !r.Disabled}
		old, known := before[r.Name]
		delete(before, r.Name)
		switch {
		case !known:
			rep.Added = append(rep.Added, r.Name)
		case old.Position == next.Position && old.Enabled == next.Enabled && sameJSON(old.Match, match) && sameJSON(old.Assign, assign):
			rep.Same++
			continue
		default:
			rep.Changed = append(rep.Changed, r.Name)
		}
		if rep.DryRun {
			continue
		}
		if _, err := tx.PutAssignmentRule(ctx, next); err != nil {
			return err
		}
	}
	for name := range before {
		rep.Removed = append(rep.Removed, name)
	}
	slices.Sort(rep.Removed)
	if rep.DryRun {
		return nil
	}
	for _, name := range rep.Removed {
		if err := tx.DeleteAssignmentRule(ctx, name); err != nil {
			return err
		}
	}
	return tx.Audit(ctx, store.AuditRecord{Actor: who.Actor(), Action: "rules.apply", Subject: fmt.Sprintf("%d rules", len(rules)),
		Detail: map[string]any{"added": rep.Added, "changed": rep.Changed, "removed": rep.Removed}})
}

// sameJSON compares what two documents say: an engine may write them its own way.
func sameJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	xb, err1 := json.Marshal(x)
	yb, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && bytes.Equal(xb, yb)
}

func (s *Server) testRules(ctx context.Context, in *OneDevice) (RuleVerdict, error) {
	u, err := s.which(ctx, in.UUID)
	if err != nil {
		return RuleVerdict{}, err
	}
	v := RuleVerdict{UUID: u.String(), Names: s.NameSources, Tried: []profile.Tried{}, Profile: "default"}
	if len(v.Names) == 0 {
		v.Names = profile.DefaultSources()
	}
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		d, err := tx.Device(ctx, u)
		if errors.Is(err, store.ErrNotFound) {
			return unknownDevice(u)
		} else if err != nil {
			return err
		}
		rules, err := storedRules(ctx, tx)
		if err != nil {
			return err
		}
		subject := profile.Subject{Address: d.Address, Suffix: d.Suffix, Version: d.Version, Tags: d.Tags}
		if d.TrustTable != 0 {
			if subject.Roots, err = tx.TrustHashes(ctx, d.TrustTable); err != nil {
				return err
			}
		}
		for _, h := range subject.Roots {
			if n, ok := certs.RootName(h); ok {
				subject.RootNames = append(subject.RootNames, n)
			}
		}
		rule, tried := profile.Choose(rules, subject)
		v.Tried = append(v.Tried, tried...)
		if rule != nil {
			v.Rule, v.Domain = rule.Name, rule.Assign.Domain
			if rule.Assign.Profile != "" {
				v.Profile = rule.Assign.Profile
			}
			if len(rule.Assign.Names) > 0 {
				v.Names = rule.Assign.Names
			}
		}
		entry, err := tx.AuthorisedFor(ctx, d)
		if err == nil {
			v.By = entry.Kind + " " + entry.Value
			if entry.Profile != "" {
				v.Profile = entry.Profile
			}
			v.FQDN = entry.FQDN
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if d.AssignedProfile != "" {
			v.Profile, v.Assigned = d.AssignedProfile, true
		}
		if n, err := tx.NameOf(ctx, u); err == nil {
			v.FQDN = n.FQDN
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		return nil
	})
	return v, err
}
