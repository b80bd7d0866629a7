package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// Four things change what managed devices should have: a new version of a
// stored profile; another profile in the configuration after a restart, which
// gets the next number; a person who gives a device another profile; and rules
// or lists, after which a sweep looks through all devices once. A rollout
// (rollout.go), and nothing else, brings devices to what they should have.

// ownProfile is what the store remembers of the configuration's profile.
type ownProfile struct {
	Digest  string `json:"digest"`
	Version int    `json:"version"`
	// Trusted are the names of consoles in any version of it: runs may have told
	// them to devices.
	Trusted []string `json:"trusted,omitempty"`
}

// mostTold bounds the names of old versions.
const mostTold = 32

const ownProfileKey = store.KeptProfile

// ownVersionKey is the setting with a version of the configuration's profile:
// maintenance compares its devices with it until a rollout brings them to a
// newer one.
func ownVersionKey(name string, version int) string {
	return fmt.Sprintf("%s%s@%d", ownProfileKey, name, version)
}

// numberProfile gives the configuration's profile its version: one more than
// before if it says something else.
func (s *Server) numberProfile(ctx context.Context) error {
	p := s.o.Profile
	p.Version = 0
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	now := ownProfile{Digest: hex.EncodeToString(sum[:]), Version: 1}
	var before ownProfile
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := tx.TakeTurns(ctx, ownProfileKey+p.Name); err != nil { // nodes that start together
			return err
		}
		var err error
		if before, err = readOwnProfile(ctx, tx, p.Name); err != nil {
			return err
		}
		now.Version = max(before.Version, 1)
		now.Trusted = before.Trusted
		for _, n := range p.TrustedCN {
			if !slices.Contains(now.Trusted, n) && len(now.Trusted) < mostTold {
				now.Trusted = append(now.Trusted, n)
			}
		}
		switch {
		case before.Digest == now.Digest && len(now.Trusted) == len(before.Trusted):
			return tx.PutSetting(ctx, ownVersionKey(p.Name, now.Version), string(text))
		case before.Digest == now.Digest:
		case before.Digest != "":
			// Never give out a version again that somebody stored under its name.
			stored, err := tx.ProfileVersions(ctx, p.Name)
			if err != nil {
				return err
			}
			now.Version++
			if len(stored) > 0 {
				now.Version = max(now.Version, stored[0].Version+1)
			}
		}
		if err := tx.PutSetting(ctx, ownVersionKey(p.Name, now.Version), string(text)); err != nil {
			return err
		}
		number, err := json.Marshal(now)
		if err != nil {
			return err
		}
		return tx.PutSetting(ctx, ownProfileKey+p.Name, string(number))
	})
	if err != nil {
		return fmt.Errorf("number the configuration's profile: %w", err)
	}
	if s.o.Profile.Version = now.Version; before.Digest != "" && before.Digest != now.Digest {
		s.log.Info("profile.changed", zap.String("profile", p.Name), zap.Int("version", now.Version))
	}
	return nil
}

func readOwnProfile(ctx context.Context, tx *store.Tx, name string) (own ownProfile, err error) {
	text, err := tx.Setting(ctx, ownProfileKey+name)
	if errors.Is(err, store.ErrNotFound) {
		return own, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &own)
	}
	return own, err
}

// current reports whether a profile is the newest of its name on any node. A
// node whose configuration is older than another's judges no device by it.
func (s *Server) current(ctx context.Context, tx *store.Tx, p profile.Profile) (bool, error) {
	if p.Name != s.o.Profile.Name || p.Version != s.o.Profile.Version {
		return true, nil
	}
	own, err := readOwnProfile(ctx, tx, p.Name)
	return own.Version <= p.Version, err
}

// swept says how far the sweep for other profiles has come.
type swept struct {
	Rules string    `json:"rules"` // digest of the rules that it used
	After string    `json:"after"` // the device after which to go on
	Done  time.Time `json:"done"`  // end of the sweep; zero while under way
}

const (
	sweptKey = "rules_swept"
	// sweepAgain is when a sweep begins without a change of rules: a list of
	// devices, a tag or an address may have changed.
	sweepAgain = 24 * time.Hour
	sweepPage  = 500
	sweepPages = 10 // a tick: 100,000 devices take 20 minutes of small queries
)

// sweepRules finds devices to which rules or lists give another profile now,
// and begins rollouts to it.
func (s *Server) sweepRules(ctx context.Context) error {
	var at swept
	digest := ""
	if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
		rules, err := tx.AssignmentRules(ctx)
		if err != nil {
			return err
		}
		for i := range rules {
			rules[i].ID, rules[i].UpdatedAt = 0, time.Time{}
		}
		text, err := json.Marshal(rules)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		digest = hex.EncodeToString(sum[:])
		saved, err := tx.Setting(ctx, sweptKey)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			err = json.Unmarshal([]byte(saved), &at)
		}
		return err
	}); err != nil {
		return fmt.Errorf("look for rules that changed: %w", err)
	}
	if at.Rules == digest && time.Since(at.Done) < sweepAgain {
		return nil
	}
	if at.Rules != digest || !at.Done.IsZero() {
		at = swept{Rules: digest}
	}
	cause := "rules " + digest[:12]
	for page := 0; page < sweepPages && at.Done.IsZero(); page++ {
		var found []admit.Astray
		next := ""
		if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
			found, next, err = admit.FindAstray(ctx, tx, at.After, sweepPage)
			return err
		}); err != nil {
			return err
		}
		if err := s.rollOutAstray(ctx, cause, found); err != nil {
			return err
		}
		if at.After = next; next == "" {
			at.Done = time.Now().UTC()
		}
	}
	text, err := json.Marshal(at)
	if err != nil {
		return err
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error { return tx.PutSetting(ctx, sweptKey, string(text)) })
}

// rollOutAstray begins rollouts to the profiles that rules and lists give: one
// for each profile, which devices from later pages join.
func (s *Server) rollOutAstray(ctx context.Context, cause string, found []admit.Astray) error {
	to := map[string][]amt.UUID{}
	for _, a := range found {
		if a.Device.AssignedProfile == "" { // a person's word has a rollout of its own
			to[a.Profile] = append(to[a.Profile], a.Device.UUID)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(to)) {
		if err := s.DB.Write(ctx, func(tx *store.Tx) error {
			p, err := s.profileNamed(ctx, tx, name)
			if err != nil {
				return err
			}
			o := store.Outgrown{Profile: p.Name, Version: p.Version, Cause: cause}
			if err := tx.TakeTurns(ctx, "rollout "+p.Name); err != nil {
				return err
			}
			var fresh []amt.UUID
			for _, u := range to[name] {
				has, err := tx.RolledOut(ctx, o, u)
				if err != nil {
					return err
				}
				if !has {
					fresh = append(fresh, u)
				}
			}
			return s.join(ctx, tx, o, fresh)
		}); err != nil {
			return fmt.Errorf("roll profile %s out: %w", name, err)
		}
	}
	return nil
}
