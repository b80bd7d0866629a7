package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// UnprovisionInput asks for a device's setup to be undone.
type UnprovisionInput struct {
	OneDevice
	Body api.UnprovisionBody
}

// MaintainInput asks for a device to be looked at.
type MaintainInput struct {
	OneDevice
	Body *api.MaintainBody `required:"false"`
}

// orderRoutes are commands that a worker carries out on a managed device.
func (s *Server) orderRoutes(to huma.API) {
	op := func(id, verb, summary, description string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/" + verb, Summary: summary, Description: description, Tags: []string{"devices"}}
	}
	add(s, to, op("unprovision-device", "unprovision", "Undo a device's setup", "Its record and passwords are kept; it is unprovisioned when it shows that it is."),
		func(ctx context.Context, in *UnprovisionInput) (api.ActionResult, error) {
			u, err := s.which(ctx, in.UUID)
			if err != nil {
				return api.ActionResult{}, err
			}
			if c, err := s.which(ctx, in.Body.Confirm); err != nil || c != u {
				return api.ActionResult{}, conflict("this cannot be undone: confirm with the device's UUID, %s, or its name", u)
			}
			if err := s.alone("unprovision", in.Body.Mode, u); err != nil {
				return api.ActionResult{}, err
			}
			return s.command(ctx, &ActionInput{OneDevice: in.OneDevice, Body: &api.Action{Note: in.Body.Note}}, "unprovision", func(c *command) error {
				return c.order("unprovision", in.Body.Mode, store.Unprovisioning, "unprovision_requested")
			})
		})
	add(s, to, op("maintain-device", "maintain", "Look after a device now", "Only what is due is done, or what is named."),
		func(ctx context.Context, in *MaintainInput) (api.ActionResult, error) {
			b := api.MaintainBody{}
			if in.Body != nil {
				b = *in.Body
			}
			if err := checkTask(b.Task); err != nil {
				return api.ActionResult{}, err
			}
			return s.command(ctx, &ActionInput{OneDevice: in.OneDevice, Body: &api.Action{Note: b.Note}}, "maintain", func(c *command) error {
				return c.order("maintain", b.Task, "", "maintenance_requested")
			})
		})
	add(s, to, op("rotate-secret", "secrets/rotate", "Change a device's admin password", "The new one is durable here before the device hears it, and the old one is kept."),
		func(ctx context.Context, in *ActionInput) (api.ActionResult, error) {
			return s.command(ctx, in, "rotate", func(c *command) error {
				return c.order("rotate", "", "", "rotation_requested")
			})
		})
}

// order makes a run for a managed device. One that waits is replaced: an
// operator's word is newer than a timer's.
func (c *command) order(kind, task string, to store.Lifecycle, event string) error {
	d := c.device
	if c.live != nil {
		if c.live.State == store.RunRunning {
			return busy(*c.live)
		}
		if err := c.tx.FinishRun(c.ctx, c.live.ID, store.RunCancelled, reason.Cancelled, event+" by "+c.who.User, string(reason.ThePolicy)); err != nil {
			return err
		}
	}
	run, err := c.tx.CreateRun(c.ctx, store.NewRun{UUID: d.UUID, Kind: kind, Trigger: "api", Profile: d.Profile, Task: task})
	if errors.Is(err, store.ErrConflict) {
		return conflict("another run of this device began in this moment; look again")
	}
	if err != nil {
		return err
	}
	c.runID, c.said = run.ID, fmt.Sprintf("run %d is queued", run.ID)
	code, detail := d.Reason, d.Detail
	if to != "" {
		code, detail = "", ""
	}
	if err := c.transition(to, code, detail, event, &run); err != nil {
		return err
	}
	return c.s.Enqueue(c.ctx, c.tx, run.ID, c.tx.Now(), priorityUrgent)
}
