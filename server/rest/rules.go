package rest

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
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// RulesInput replaces all rules.
type RulesInput struct {
	Body api.RuleSet
}

func (s *Server) ruleRoutes(to huma.API) {
	tags := []string{"rules"}
	add(s, to, huma.Operation{OperationID: "list-rules", Method: http.MethodGet, Path: "/api/v1/rules",
		Summary: "The assignment rules in their order", Tags: tags}, s.listRules)
	add(s, to, huma.Operation{OperationID: "apply-rules", Method: http.MethodPut, Path: "/api/v1/rules",
		Summary: "Replace the assignment rules", Tags: tags}, s.applyRules)
	add(s, to, huma.Operation{OperationID: "test-rules", Method: http.MethodGet, Path: "/api/v1/devices/{uuid}/rule",
		Summary: "What the rules make of a device, and why", Tags: tags}, s.testRules)
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

func (s *Server) listRules(ctx context.Context, _ *none) (out api.RuleList, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		rules, err := storedRules(ctx, tx)
		out.Rules = toRules(rules)
		return err
	})
	return out, err
}

func (s *Server) applyRules(ctx context.Context, in *RulesInput) (api.RulesReport, error) {
	who, _ := PrincipalOf(ctx)
	rep := api.RulesReport{DryRun: in.Body.DryRun, Added: []string{}, Changed: []string{}, Removed: []string{}}
	var rules []profile.Rule
	var bad []api.ProblemField
	seen := map[string]bool{}
	for i, doc := range in.Body.Rules {
		var r profile.Rule
		where := fmt.Sprintf("rules[%d]", i)
		if err := api.Strictly(doc, &r); err != nil {
			bad = append(bad, api.ProblemField{Location: where, Message: err.Error()})
			continue
		}
		if err := r.Validate(); err != nil {
			bad = append(bad, api.ProblemField{Location: where, Message: err.Error()})
		}
		if seen[r.Name] {
			bad = append(bad, api.ProblemField{Location: where, Message: "a second rule named " + api.Clip(r.Name, 64)})
		}
		seen[r.Name] = true
		rules = append(rules, r)
	}
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		rep.Added, rep.Changed, rep.Removed, rep.Same = rep.Added[:0], rep.Changed[:0], rep.Removed[:0], 0
		wrong := slices.Clone(bad)
		for i, r := range rules {
			if ok, err := operate.ProfileKnown(ctx, tx, r.Assign.Profile); err != nil {
				return err
			} else if !ok {
				wrong = append(wrong, api.ProblemField{Location: fmt.Sprintf("rules[%d].assign.profile", i),
					Message: "there is no profile " + api.Clip(r.Assign.Profile, 64) + "; provctl profile apply makes one"})
			}
		}
		if len(wrong) > 0 {
			p := api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "the rules cannot be used: %s: %s", wrong[0].Location,
				wrong[0].Message)
			p.Errors = wrong
			return p
		}
		return replaceRules(ctx, tx, &rep, rules, who)
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
func (s *Server) moves(ctx context.Context, rules []profile.Rule) (out []api.ProfileMove, err error) {
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
			m := api.ProfileMove{From: cmp.Or(way[0], s.configured().Name), To: way[1], Devices: devices, Waves: wavesOf(devices, s.Canary)}
			_, from, _, known, err := s.newest(ctx, tx, m.From)
			if err != nil {
				return err
			}
			_, to, _, there, err := s.newest(ctx, tx, m.To)
			if err != nil {
				return err
			}
			if known && there {
				m.Risks = toRisks(profile.Risks(from, to))
			}
			out = append(out, m)
		}
		slices.SortFunc(out, func(a, b api.ProfileMove) int {
			return cmp.Or(strings.Compare(a.To, b.To), strings.Compare(a.From, b.From))
		})
		return nil
	})
	return out, err
}

// replaceRules makes the stored list this one.
func replaceRules(ctx context.Context, tx *store.Tx, rep *api.RulesReport, rules []profile.Rule, who operate.Principal) error {
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

func (s *Server) testRules(ctx context.Context, in *OneDevice) (api.RuleVerdict, error) {
	u, err := s.which(ctx, in.UUID)
	if err != nil {
		return api.RuleVerdict{}, err
	}
	v := api.RuleVerdict{UUID: u.String(), Names: toSources(s.NameSources), Tried: []api.RuleTried{}, Profile: "default"}
	if len(v.Names) == 0 {
		v.Names = toSources(profile.DefaultSources())
	}
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		d, err := tx.Device(ctx, u)
		if errors.Is(err, store.ErrNotFound) {
			return operate.NoDevice(u)
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
		for _, t := range tried {
			v.Tried = append(v.Tried, api.RuleTried(t))
		}
		if rule != nil {
			v.Rule, v.Domain = rule.Name, rule.Assign.Domain
			if rule.Assign.Profile != "" {
				v.Profile = rule.Assign.Profile
			}
			if len(rule.Assign.Names) > 0 {
				v.Names = toSources(rule.Assign.Names)
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
