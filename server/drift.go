package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/server/provision"
	"github.com/provisiond/provisiond/store"
)

// What is wanted of managed devices changes in three places: a stored profile
// gets a new version, which devices are asked for by number (store.Due); the
// configuration's own profile is another one after a restart, so that it gets
// the next number; and rules or lists give devices another profile, so that they
// are looked through once. Who differs is drifted, and due.

// ownProfile is what is remembered of the configuration's profile.
type ownProfile struct {
	Digest  string `json:"digest"`
	Version int    `json:"version"`
	// Trusted are the names of consoles that any version of it named: devices may have
	// been told them.
	Trusted []string `json:"trusted,omitempty"`
}

// mostTold bounds the names kept of versions gone by.
const mostTold = 32

const ownProfileKey = "profile_configured:"

// numberProfile gives the configuration's profile its version: one more than
// before when it says something else.
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
		if err := tx.LockNetwork(ctx, ownProfileKey+p.Name); err != nil { // nodes that start together
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
			return nil
		case before.Digest == now.Digest:
		case before.Digest != "":
			// A version that was stored under its name once is never given again.
			stored, err := tx.ProfileVersions(ctx, p.Name)
			if err != nil {
				return err
			}
			now.Version++
			if len(stored) > 0 {
				now.Version = max(now.Version, stored[0].Version+1)
			}
		}
		text, err := json.Marshal(now)
		if err != nil {
			return err
		}
		return tx.PutSetting(ctx, ownProfileKey+p.Name, string(text))
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

// current reports whether a profile is the newest one of its name that any node
// has. A node whose configuration is older than another's judges no device by it.
func (s *Server) current(ctx context.Context, tx *store.Tx, p profile.Profile) (bool, error) {
	if p.Name != s.o.Profile.Name || p.Version != s.o.Profile.Version {
		return true, nil
	}
	own, err := readOwnProfile(ctx, tx, p.Name)
	return own.Version <= p.Version, err
}

// swept says how far managed devices were looked through for another profile.
type swept struct {
	Rules string    `json:"rules"` // digest of those it went by
	After string    `json:"after"` // where to go on
	Done  time.Time `json:"done"`  // when it came to the end; zero while under way
}

const (
	sweptKey = "rules_swept"
	// sweepAgain is after what time all are looked through although no rule was
	// changed: a list of devices, a tag or an address may have been.
	sweepAgain = 24 * time.Hour
	sweepPage  = 500
	sweepPages = 10 // a tick: 100,000 devices take 20 minutes of small questions
)

// sweepRules begins runs for at most room devices to which rules or lists give
// another profile now.
func (s *Server) sweepRules(ctx context.Context, room int) (begun int, err error) {
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
		return 0, fmt.Errorf("look for rules that changed: %w", err)
	}
	if at.Rules == digest && time.Since(at.Done) < sweepAgain {
		return 0, nil
	}
	if at.Rules != digest || !at.Done.IsZero() {
		at = swept{Rules: digest}
	}
	for page := 0; page < sweepPages && at.Done.IsZero() && room > begun; page++ {
		var found []admit.Astray
		next := ""
		if err := s.DB.Read(ctx, func(tx *store.Tx) (err error) {
			found, next, err = admit.FindAstray(ctx, tx, at.After, sweepPage)
			return err
		}); err != nil {
			return begun, err
		}
		for i, a := range found {
			if begun == room {
				// The rest of the page comes with the next tick.
				next = found[i-1].Device.Cursor(store.ByUUID)
				break
			}
			ok, err := s.beginAstray(ctx, a)
			if err != nil {
				return begun, err
			}
			if ok {
				begun++
			}
		}
		if at.After = next; next == "" {
			at.Done = time.Now().UTC()
		}
	}
	text, err := json.Marshal(at)
	if err != nil {
		return begun, err
	}
	return begun, s.DB.Write(ctx, func(tx *store.Tx) error { return tx.PutSetting(ctx, sweptKey, string(text)) })
}

// beginAstray begins a device's way to its other profile. One that somebody
// works on asks the rules by itself; one whose last run failed does so at its
// next attempt.
func (s *Server) beginAstray(ctx context.Context, a admit.Astray) (begun bool, err error) {
	if a.Device.NextRetry.After(time.Now()) {
		return false, nil
	}
	who := "the rule " + a.Rule + " gives it"
	switch {
	case a.Device.AssignedProfile != "":
		who = "it was given"
	case a.Rule == "":
		who = "the list of authorised devices gives it"
	}
	had := a.Device.Profile
	if had == "" {
		had = "default"
	}
	t := store.Transition{
		UUID: a.Device.UUID, To: store.Drifted, Reason: reason.ProfileDrift, Event: "drift_found", Actor: "system",
		Detail: fmt.Sprintf("%s the profile %s and it still has %s", who, a.Profile, had),
	}
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		_, err := s.startManaged(ctx, tx, a.Device, provision.KindMaintain, "", "timer", t)
		return err
	})
	if errors.Is(err, store.ErrConflict) { // somebody works on it
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("device %s: %w", a.Device.UUID, err)
	}
	return true, nil
}
