package rest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// maxTags bounds what one device carries.
const maxTags = 50

// checkChange refuses what no device could be given, before a job of it begins.
func checkChange(ctx context.Context, tx *store.Tx, verb string, m api.Change) error {
	switch verb {
	case "tag", "untag":
		if len(m.Tags) == 0 {
			return api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "say which tags")
		}
		for _, t := range m.Tags {
			if t == "" || len(t) > 64 || t != api.Clean(t) || strings.ContainsAny(t, " ,|\t") {
				return api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "%q is no tag: want up to 64 characters without spaces or commas", api.Clip(t, 40))
			}
		}
	case "assign-profile":
		if m.Profile == "" {
			return api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "say which profile; - lets list and rules decide again")
		}
		if m.Profile == noProfile {
			return nil
		}
		if ok, err := profileKnown(ctx, tx, m.Profile); err != nil || !ok {
			if err == nil {
				err = api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "there is no profile %s; provctl profile list shows them", api.Clip(m.Profile, 64))
			}
			return err
		}
	default:
		if len(m.Tags) > 0 || m.Profile != "" {
			return api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "tags go with tag and untag, and profile with assign-profile")
		}
	}
	return nil
}

// noProfile takes the assignment away.
const noProfile = "-"

func (c *command) tag() error {
	return c.retag("tagged", func(have []string) []string {
		for _, t := range c.more.Tags {
			if !slices.Contains(have, t) {
				have = append(have, t)
			}
		}
		return have
	})
}

func (c *command) untag() error {
	return c.retag("untagged", func(have []string) []string {
		return slices.DeleteFunc(have, func(t string) bool { return slices.Contains(c.more.Tags, t) })
	})
}

func (c *command) retag(event string, change func([]string) []string) error {
	if err := checkChange(c.ctx, c.tx, "tag", c.more); err != nil {
		return err
	}
	tags := change(slices.Clone(c.device.Tags))
	if len(tags) > maxTags {
		return conflict("it would have %d tags; %d is the most", len(tags), maxTags)
	}
	if slices.Equal(tags, c.device.Tags) {
		c.said = "nothing changed; its tags are: " + tagList(tags)
		return nil
	}
	if err := c.tx.UpdateDevice(c.ctx, c.device.UUID, store.DeviceFacts{Tags: &tags}); err != nil {
		return err
	}
	c.said = "its tags are: " + tagList(tags)
	return c.eventWith(event, map[string]any{"tags": c.more.Tags})
}

func tagList(tags []string) string {
	if len(tags) == 0 {
		return "none"
	}
	return strings.Join(tags, ", ")
}

func (c *command) assignProfile() error {
	if err := checkChange(c.ctx, c.tx, "assign-profile", c.more); err != nil {
		return err
	}
	name := strings.TrimPrefix(c.more.Profile, noProfile)
	if c.more.Profile != noProfile {
		name = c.more.Profile
	}
	if name == c.device.AssignedProfile {
		c.said = "nothing changed"
		return nil
	}
	if err := c.tx.UpdateDevice(c.ctx, c.device.UUID, store.DeviceFacts{AssignedProfile: &name}); err != nil {
		return err
	}
	switch {
	case name == "":
		c.said = "list and rules decide about its profile again"
	case managed(c.device.Lifecycle) && name != c.device.Profile:
		c.said = fmt.Sprintf("its profile is %s; a rollout brings it there", name)
	default:
		c.said = "its profile is " + name
	}
	return c.eventWith("profile_assigned", map[string]any{"profile": c.more.Profile})
}

// eventWith adds to the timeline without moving the device.
func (c *command) eventWith(name string, data map[string]any) error {
	if c.note != "" {
		data["note"] = c.note
	}
	_, err := c.tx.AddEvent(c.ctx, store.Event{UUID: c.device.UUID, Name: name, Actor: c.who.Actor(), Data: data})
	return err
}
