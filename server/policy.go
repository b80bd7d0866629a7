package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/provisiond/provisiond/server/admit"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// policy is the configuration of admission.
func (s *Server) policy() admit.Policy {
	return admit.Policy{
		Mode: s.o.Admission, Reprovision: s.o.Reprovision, Networks: s.o.Networks,
		HelloPause: 3 * time.Second, MostHastened: 6, Attempts: s.o.Attempts, StopPause: time.Hour,
		Window: s.o.SetupWindow, TwinWithin: s.o.TwinWithin, Names: s.o.Names, OTP: s.o.OTP, OTPFor: 24 * time.Hour, Relays: s.o.Relays,
	}
}

// profileOf finds the document for a run when a worker claims it. By then more
// may be known of the device than at its hello, so it asks the rules again.
func (s *Server) profileOf(ctx context.Context, tx *store.Tx, d store.Device, name string) (profile.Profile, error) {
	as, _, _, err := admit.Assign(ctx, tx, d)
	if err != nil {
		return profile.Profile{}, err
	}
	if as.Profile != "" {
		name = as.Profile
	}
	p, err := s.profileNamed(ctx, tx, name)
	if err != nil {
		return p, err
	}
	return p.With(as), nil
}

// assignAgain is profileOf in the middle of a run, after the device has said
// what it is.
func (s *Server) assignAgain(ctx context.Context, d store.Device, name string) (p profile.Profile, err error) {
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		as, _, _, err := admit.Assign(ctx, tx, d)
		if err != nil {
			return err
		}
		if p, err = s.profileOf(ctx, tx, d, name); err != nil || as.Profile == d.Profile {
			return err
		}
		return tx.UpdateDevice(ctx, d.UUID, store.DeviceFacts{Profile: &as.Profile})
	})
	return p, err
}

// profileKept finds the version of the profile that a managed device has. known
// is false if the store has no such version: then it returns the newest.
func (s *Server) profileKept(ctx context.Context, tx *store.Tx, d store.Device) (p profile.Profile, known bool, err error) {
	if p, err = s.profileNamed(ctx, tx, d.Profile); err != nil {
		return p, false, err
	}
	switch {
	case d.ProfileVersion == p.Version:
		known = true
	case d.ProfileVersion == 0:
		// An earlier release did not keep versions. The device has what all devices
		// have, unless a newer version is on its way.
		if known, err = s.rolledOut(ctx, tx, p); err != nil {
			return p, false, err
		}
	default:
		var kept profile.Profile
		if kept, known, err = s.profileVersion(ctx, tx, p.Name, d.ProfileVersion); err != nil {
			return p, false, err
		}
		if known {
			p = kept
		}
	}
	as, _, _, err := admit.Assign(ctx, tx, d)
	return p.With(as), known, err
}

// profileVersion reads one version: a stored one, or one from some node's
// configuration.
func (s *Server) profileVersion(ctx context.Context, tx *store.Tx, name string, version int) (p profile.Profile, known bool, err error) {
	doc := ""
	stored, err := tx.Profile(ctx, name, version)
	if err == nil {
		doc = string(stored.Document)
	} else if errors.Is(err, store.ErrNotFound) {
		doc, err = tx.Setting(ctx, ownVersionKey(name, version))
	}
	if errors.Is(err, store.ErrNotFound) {
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	p = profile.Default()
	if err := json.Unmarshal([]byte(doc), &p); err != nil {
		return p, false, fmt.Errorf("profile %s version %d: %w", name, version, err)
	}
	p.Name, p.Version = name, version
	return p, true, nil
}

// profileNamed reads the newest version of a stored profile. The
// configuration's profile is the default until somebody stores one of that
// name.
func (s *Server) profileNamed(ctx context.Context, tx *store.Tx, name string) (profile.Profile, error) {
	if name == "" {
		name = "default"
	}
	stored, err := tx.Profile(ctx, name, 0)
	if errors.Is(err, store.ErrNotFound) && (name == "default" || name == s.o.Profile.Name) {
		return s.o.Profile, nil
	}
	if err != nil {
		return profile.Profile{}, err
	}
	p := profile.Default()
	if err := json.Unmarshal(stored.Document, &p); err != nil {
		return p, fmt.Errorf("profile %s version %d: %w", name, stored.Version, err)
	}
	p.Name, p.Version = stored.Name, stored.Version
	return p, nil
}
