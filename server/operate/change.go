package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// maxTags bounds what one device carries.
const maxTags = 50

// checkChange refuses what no device could be given, before a job of it begins.
func checkChange(ctx context.Context, tx *store.Tx, verb string, m api.Change) error {
	switch verb {
	case Tag, Untag:
		if len(m.Tags) == 0 {
			return Wrong("say which tags")
		}
		for _, t := range m.Tags {
			if t == "" || len(t) > 64 || t != api.Clean(t) || strings.ContainsAny(t, " ,|\t") {
				return Wrong("%q is no tag: want up to 64 characters without spaces or commas", api.Clip(t, 40))
			}
		}
	case AssignProfile:
		if m.Profile == "" {
			return Wrong("say which profile; - lets list and rules decide again")
		}
		if m.Profile == noProfile {
			return nil
		}
		if ok, err := ProfileKnown(ctx, tx, m.Profile); err != nil || !ok {
			if err == nil {
				err = Wrong("there is no profile %s; provctl profile list shows them", api.Clip(m.Profile, 64))
			}
			return err
		}
	default:
		if len(m.Tags) > 0 || m.Profile != "" {
			return Wrong("tags go with tag and untag, and profile with assign-profile")
		}
	}
	return nil
}

// noProfile takes the assignment away.
const noProfile = "-"

func (c *given) tag() error {
	return c.retag("tagged", func(have []string) []string {
		for _, t := range c.Change.Tags {
			if !slices.Contains(have, t) {
				have = append(have, t)
			}
		}
		return have
	})
}

func (c *given) untag() error {
	return c.retag("untagged", func(have []string) []string {
		return slices.DeleteFunc(have, func(t string) bool { return slices.Contains(c.Change.Tags, t) })
	})
}

func (c *given) retag(event string, change func([]string) []string) error {
	if err := checkChange(c.ctx, c.tx, Tag, c.Change); err != nil {
		return err
	}
	tags := change(slices.Clone(c.device.Tags))
	if len(tags) > maxTags {
		return Conflict("it would have %d tags; %d is the most", len(tags), maxTags)
	}
	if slices.Equal(tags, c.device.Tags) {
		c.Said = "nothing changed; its tags are: " + tagList(tags)
		return nil
	}
	if err := c.tx.UpdateDevice(c.ctx, c.device.UUID, store.DeviceFacts{Tags: &tags}); err != nil {
		return err
	}
	c.Said = "its tags are: " + tagList(tags)
	return c.eventWith(event, "tags", c.Change.Tags)
}

func tagList(tags []string) string {
	if len(tags) == 0 {
		return "none"
	}
	return strings.Join(tags, ", ")
}

func (c *given) assignProfile() error {
	if err := checkChange(c.ctx, c.tx, AssignProfile, c.Change); err != nil {
		return err
	}
	name := strings.TrimPrefix(c.Change.Profile, noProfile)
	if c.Change.Profile != noProfile {
		name = c.Change.Profile
	}
	if name == c.device.AssignedProfile {
		c.Said = "nothing changed"
		return nil
	}
	if err := c.tx.UpdateDevice(c.ctx, c.device.UUID, store.DeviceFacts{AssignedProfile: &name}); err != nil {
		return err
	}
	switch {
	case name == "":
		c.Said = "list and rules decide about its profile again"
	case c.device.Lifecycle.Managed() && name != c.device.Profile:
		c.Said = fmt.Sprintf("its profile is %s; a rollout brings it there", name)
	default:
		c.Said = "its profile is " + name
	}
	return c.eventWith("profile_assigned", "profile", c.Change.Profile)
}

// ProfileKnown reports whether a profile of this name can be assigned.
func ProfileKnown(ctx context.Context, tx *store.Tx, name string) (bool, error) {
	if name == "" || name == profile.Default().Name {
		return true, nil
	}
	_, err := tx.Profile(ctx, name, 0)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
