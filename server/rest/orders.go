package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
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
		return huma.Operation{OperationID: id, Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/" + verb, Summary: summary,
			Description: description, Tags: []string{"devices"}}
	}
	add(s, to, op("unprovision-device", "unprovision", "Undo a device's setup",
		"Its record and passwords are kept; it is unprovisioned when it shows that it is."),
		func(ctx context.Context, in *UnprovisionInput) (api.ActionResult, error) {
			confirmed, _ := s.which(ctx, in.Body.Confirm) // what names no device confirms none
			return s.command(ctx, in.UUID, operate.Command{Verb: operate.Unprovision, Note: in.Body.Note, Mode: in.Body.Mode,
				Confirmed: confirmed})
		})
	add(s, to, op("maintain-device", "maintain", "Look after a device now", "Only what is due is done, or what is named."),
		func(ctx context.Context, in *MaintainInput) (api.ActionResult, error) {
			b := api.MaintainBody{}
			if in.Body != nil {
				b = *in.Body
			}
			return s.command(ctx, in.UUID, operate.Command{Verb: operate.Maintain, Note: b.Note, Task: b.Task})
		})
	add(s, to, op("rotate-secret", "secrets/rotate", "Change a device's admin password",
		"The new one is durable here before the device hears it, and the old one is kept."),
		func(ctx context.Context, in *ActionInput) (api.ActionResult, error) {
			return s.command(ctx, in.UUID, operate.Command{Verb: operate.Rotate, Note: in.note()})
		})
}
