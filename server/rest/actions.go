package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// ActionInput is an operator's command about one device.
type ActionInput struct {
	OneDevice
	Body *api.Action `required:"false"`
}

func (in *ActionInput) note() string {
	if in.Body == nil {
		return ""
	}
	return in.Body.Note
}

func (in *ActionInput) seen() string {
	if in.Body == nil {
		return ""
	}
	return in.Body.Address
}

func (s *Server) actionRoutes(to huma.API) {
	s.vouchRoutes(to)
	for _, a := range []struct {
		verb, summary, description string
	}{
		{"approve", "Let a device in", "It is set up at once when it waited for nothing else."},
		{"reject", "Turn a waiting device away", "It is kept out as rejected: its hellos are recorded and nothing else happens, until it is approved after all."},
		{"clear-failures", "Forget a device's failures", "Nothing is begun. Its next hello is looked at at once, and the pauses between attempts begin anew with the shortest."},
		{"retire", "Take a device out for good", "Its record and its passwords are kept; a hello of it raises an alarm. The device itself is not touched."},
		{"restore", "Take a retired or quarantined device back", "It starts over as discovered and needs approval again."},
		{"release", "Let a quarantined device go on", "For after a person has looked: what was held against it, such as two machines with one UUID, is forgotten, and its next hello is looked at; one that was under management when it was kept out says none, and is looked at now. A device under management that showed another key or MAC than before stays under management, and what it shows next is believed."},
		{"quarantine", "Keep a device out until somebody has looked", "Hellos are recorded, nothing else happens."},
	} {
		add(s, to, huma.Operation{
			OperationID: a.verb + "-device", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/" + a.verb, Summary: a.summary,
			Description: a.description, Tags: []string{"devices"},
		}, func(ctx context.Context, in *ActionInput) (api.ActionResult, error) {
			return s.command(ctx, in.UUID, operate.Command{Verb: a.verb, Note: in.note(), Seen: in.seen()})
		})
	}
	for _, a := range []struct {
		verb, summary, description string
	}{
		{"tag", "Give a device tags", "Rules and searches see them."},
		{"untag", "Take tags away from a device", ""},
		{"assign-profile", "Give a device its profile", "It goes before the list of authorised devices and the rules. A device under management is brought to it by a rollout, a job of its own."},
	} {
		add(s, to, huma.Operation{
			OperationID: a.verb + "-device", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/" + a.verb, Summary: a.summary,
			Description: a.description, Tags: []string{"devices"},
		}, func(ctx context.Context, in *ChangeInput) (api.ActionResult, error) {
			return s.command(ctx, in.UUID, operate.Command{Verb: a.verb, Note: in.Body.Note, Change: in.Body.Change})
		})
	}
}

// ChangeInput is a command that takes more than a note.
type ChangeInput struct {
	OneDevice
	Body api.ChangeBody
}

// command gives one device a command, in one transaction.
func (s *Server) command(ctx context.Context, device string, cmd operate.Command) (api.ActionResult, error) {
	u, err := s.which(ctx, device)
	if err != nil {
		return api.ActionResult{}, err
	}
	who, _ := PrincipalOf(ctx)
	cmd.Note = api.Clean(cmd.Note)
	var out api.ActionResult
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		done, err := s.Do(ctx, tx, who, u, cmd)
		if err != nil {
			return err
		}
		after, err := tx.Device(ctx, u)
		out = api.ActionResult{Device: toDevice(after), RunID: done.RunID, Said: done.Said}
		return err
	})
	return out, err
}
