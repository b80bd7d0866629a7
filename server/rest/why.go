package rest

import (
	"context"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// AnyDevice names a device by whatever is known of it.
type AnyDevice struct {
	ID string `path:"id" maxLength:"255" doc:"a UUID, an address, a MAC or a name"`
}

func (s *Server) why(ctx context.Context, in *AnyDevice) (out api.Why, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		w, err := s.Why(ctx, tx, in.ID)
		out = toWhy(w)
		return err
	})
	return out, err
}

func toWhy(w *operate.Answer) api.Why {
	out := api.Why{
		Query: w.Query, Found: w.Found, Others: []api.DeviceSummary{}, Says: w.Says, Since: timeOrNull(w.Since),
		Tried: append([]string{}, w.Tried...),
		Next:  w.Next, Checks: append([]string{}, w.Checks...),
	}
	if w.Found {
		d := toDevice(w.Device)
		out.Device = &d
	}
	for _, o := range w.Others {
		out.Others = append(out.Others, toSummary(o))
	}
	if w.Reason != nil {
		r := api.ReasonOf(*w.Reason)
		out.Reason = &r
	}
	if w.LastRun != nil {
		r := toRun(*w.LastRun, w.Steps)
		out.LastRun = &r
	}
	return out
}
