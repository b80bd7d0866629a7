package provision

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// TaskSettings is what a profile wants beyond ownership (settings.go).
const TaskSettings = "settings"

// mostFlips is how often a setting is mended that somebody else changes back, before
// it is left to them.
const mostFlips = 3

// A setting is one wish of a profile as firmware keeps it. The plan's steps, the
// names of tasks, metrics and rows, and what is remembered of a device all follow
// from the list in settings.go: a new setting is one row of it, and its keys in
// server/profile.
type setting struct {
	name string
	// wants reports whether a profile speaks of it at all.
	wants func(*profile.Sections) bool
	// differs asks a device and changes nothing: what it has otherwise, in words.
	differs func(context.Context, *Run) ([]string, error)
	// write brings the device there. It is safe to repeat.
	write func(context.Context, *Run) error
}

// settingSteps are the steps of maintenance that the list of settings makes. None
// ends the run because a device says no: the device is ours, and stays as wanted in
// everything else.
func settingSteps() []Step {
	steps := make([]Step, len(settings))
	for i, s := range settings {
		steps[i] = Step{
			Name:   "set_" + s.name,
			Label:  TaskSettings,
			Needed: func(r *Run) bool { return r.tasks.wants(TaskSettings) && s.wants(&r.Profile.Sections) && !r.lacks(s) },
			Done:   s.asWanted,
			Apply:  s.apply,
		}
	}
	return steps
}

// lacks reports whether this firmware was found before to have nothing of a setting.
func (r *Run) lacks(s setting) bool {
	was := r.Job.Settings[s.name]
	return was.State == store.SettingUnsupported && was.Firmware == r.Identity.Version.String() && !r.requires(s)
}

func (r *Run) requires(s setting) bool {
	for _, name := range r.Profile.Required {
		if name == s.name {
			return true
		}
	}
	return false
}

// asWanted is the question of a setting's step.
func (s setting) asWanted(ctx context.Context, r *Run) (bool, error) {
	what, err := s.differs(ctx, r)
	switch {
	case err != nil:
		return true, r.answered(s, err)
	case len(what) == 0:
		r.remember(s, store.SettingOK, "")
		return true, nil
	}
	detail := strings.Join(what, ", ")
	was := r.Job.Settings[s.name]
	if was.ProfileVersion != r.Profile.Version || was.Profile != r.Profile.Name {
		was = store.DeviceSetting{}
	}
	switch {
	case was.State == store.SettingRefused && was.Firmware == r.Identity.Version.String():
		r.leave(s, store.SettingRefused, was.Detail)
	case was.Flips >= mostFlips:
		r.leave(s, store.SettingElsewhere, "another console writes this: "+detail)
	case r.tasks.only() || !r.Profile.Mends():
		r.leave(s, store.SettingDiffers, detail)
	default:
		return false, nil
	}
	return true, nil
}

// apply writes a setting, and asks the device again: its yes proves nothing.
func (s setting) apply(ctx context.Context, r *Run) error {
	if err := s.write(ctx, r); err != nil {
		return r.answered(s, err)
	}
	what, err := s.differs(ctx, r)
	switch {
	case err != nil:
		return r.answered(s, err)
	case len(what) > 0:
		r.leave(s, store.SettingRefused, "the device said yes, and still: "+strings.Join(what, ", "))
		return nil
	}
	r.remember(s, store.SettingOK, "")
	r.mended(s)
	return nil
}

// answered sorts what a device said instead of doing as told. A failure of the line
// ends the attempt: the next one asks first.
func (r *Run) answered(s setting, err error) error {
	var status amt.Status
	switch {
	case errors.As(err, &status) && status.Class() == amt.ClassFlash:
		return &reason.Error{Code: reason.FlashWriteLimit, Err: err}
	case sent(err):
		return err
	case session.Unsupported(err), errors.As(err, &status) && status == stateUnsupported:
		if r.requires(s) {
			r.leave(s, store.SettingUnsupported, "its firmware has none of it, and the profile requires it")
			return nil
		}
		r.remember(s, store.SettingUnsupported, "")
		return nil
	case session.Refused(err) && !session.Passes(err):
		r.leave(s, store.SettingRefused, clip(errText(err)))
		return nil
	}
	return err
}

// stateUnsupported is RequestStateChange's answer where a state cannot be had (CIM).
const stateUnsupported amt.Status = 1

// leave notes a setting that stays otherwise than wanted.
func (r *Run) leave(s setting, state store.SettingState, detail string) {
	r.remember(s, state, detail)
	r.differs = append(r.differs, s.name+": "+detail)
}

// remember keeps what became of a setting for the run's outcome.
func (r *Run) remember(s setting, state store.SettingState, detail string) {
	was := r.Job.Settings[s.name]
	now := store.DeviceSetting{Name: s.name, State: state, Detail: detail, Firmware: r.Identity.Version.String(), Profile: r.Profile.Name,
		ProfileVersion: r.Profile.Version}
	if was.Profile == now.Profile && was.ProfileVersion == now.ProfileVersion {
		now.Flips = was.Flips
	}
	if r.settings == nil {
		r.settings = map[string]store.DeviceSetting{}
	}
	r.settings[s.name] = now
}

// mended counts a setting that was as wanted once, by the same version of the
// profile, and had to be written again.
func (r *Run) mended(s setting) {
	was, now := r.Job.Settings[s.name], r.settings[s.name]
	if was.State == store.SettingOK && was.Profile == now.Profile && was.ProfileVersion == now.ProfileVersion {
		now.Flips++
		r.settings[s.name] = now
	}
	r.did(s.name)
}

// SettingNames lists the settings in their order.
func SettingNames() []string {
	names := make([]string, len(settings))
	for i, s := range settings {
		names[i] = s.name
	}
	return names
}

// A wish is one field of a class and what a profile wants it to hold.
type wish struct {
	key   string // in the profile's document
	field string
	want  func(*profile.Sections) (value string, wished bool)
}

// values makes a setting of the fields of one instance: they are read together and
// put back together. A field that the release lacks is left out. only, when not nil,
// says why the device takes no change of it.
func values(name, class, id string, only func(*session.Instance) error, wishes ...wish) setting {
	differs := func(ctx context.Context, r *Run) (*session.Instance, []wish, []string, error) {
		in, err := r.Device.Instance(ctx, class, id)
		if err != nil {
			return nil, nil, nil, err
		}
		var list []wish
		var words []string
		for _, w := range wishes {
			want, wished := w.want(&r.Profile.Sections)
			have, is := in.Value(w.field)
			if !wished || !is || same(have, want) {
				continue
			}
			list, words = append(list, w), append(words, fmt.Sprintf("%s is %s, not %s", w.key, have, want))
		}
		return in, list, words, nil
	}
	return setting{
		name: name,
		wants: func(s *profile.Sections) bool {
			for _, w := range wishes {
				if _, wished := w.want(s); wished {
					return true
				}
			}
			return false
		},
		differs: func(ctx context.Context, r *Run) ([]string, error) {
			_, _, words, err := differs(ctx, r)
			return words, err
		},
		write: func(ctx context.Context, r *Run) error {
			in, list, _, err := differs(ctx, r)
			if err != nil {
				return err
			}
			if only != nil {
				if err := only(in); err != nil {
					return err
				}
			}
			for _, w := range list {
				want, _ := w.want(&r.Profile.Sections)
				in.Set(w.field, want)
			}
			return r.Device.Put(ctx, in)
		},
	}
}

// same compares a field's texts: firmware writes a boolean in one of two ways.
func same(have, want string) bool {
	return have == want || want == "true" && session.IsTrue(have) || want == "false" && (have == "0" || strings.EqualFold(have, "false"))
}

// switched makes a setting of a class that is switched by RequestStateChange. on are
// the states that count as on, the first one the one to ask for; off likewise.
func switched(name, class, key string, want func(*profile.Sections) *bool, on, off []string) setting {
	states := func(r *Run) []string {
		if *want(&r.Profile.Sections) {
			return on
		}
		return off
	}
	return setting{
		name:  name,
		wants: func(s *profile.Sections) bool { return want(s) != nil },
		differs: func(ctx context.Context, r *Run) ([]string, error) {
			in, err := r.Device.Instance(ctx, class, "")
			if err != nil {
				return nil, err
			}
			have, _ := in.Value("EnabledState")
			for _, s := range states(r) {
				if s == have {
					return nil, nil
				}
			}
			return []string{fmt.Sprintf("%s is in state %s, not %s", key, have, states(r)[0])}, nil
		},
		write: func(ctx context.Context, r *Run) error {
			return r.Device.Invoke(ctx, class, "RequestStateChange", session.Arg{Name: "RequestedState", Value: states(r)[0]})
		},
	}
}
