package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// OneDevice names a device in a path by whatever names it alone.
type OneDevice struct {
	UUID string `path:"uuid" maxLength:"255" doc:"its UUID, or all of its name, of the first label of its name, of its address, MAC or serial number; what fits several is answered with the list of them"`
}

// which finds the one device that a text names. A UUID names its device heard of or
// not; any other text has to be all of what it is, since a command for pc-2 is none
// for pc-24.
func (s *Server) which(ctx context.Context, text string) (u amt.UUID, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		u, err = s.whichOf(ctx, tx, text)
		return err
	})
	return u, err
}

func (s *Server) whichOf(ctx context.Context, tx *store.Tx, text string) (amt.UUID, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return amt.UUID{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "want a UUID, an address, a MAC or a name")
	}
	found, err := s.find(ctx, tx, text)
	if err != nil {
		return amt.UUID{}, err
	}
	if u, err := amt.ParseUUID(text); err == nil {
		if len(found) == 1 {
			return found[0].UUID, nil // it may have been written in the other order of bytes
		}
		return u, nil
	}
	whole := slices.DeleteFunc(slices.Clone(found), func(d store.Device) bool { return !isAllOf(d, text) })
	switch {
	case len(whole) == 1:
		return whole[0].UUID, nil
	case len(whole) > 1:
		return amt.UUID{}, ambiguous(text, "name one of them", whole)
	case len(found) > 0:
		return amt.UUID{}, ambiguous(text, "it is only a part of what they are called; name one of them", found)
	}
	return amt.UUID{}, api.NewProblem(http.StatusNotFound, api.CodeNoDevice, "no device %s is known", api.Clip(api.Clean(text), 80))
}

// isAllOf reports whether a text is all of a device's name, address, MAC or serial
// number.
func isAllOf(d store.Device, text string) bool {
	for _, name := range []string{d.FQDN, d.HostName, d.Serial, d.MAC} {
		if label, _, _ := strings.Cut(name, "."); name != "" && (strings.EqualFold(name, text) || strings.EqualFold(label, text)) {
			return true
		}
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return d.Address == a.Unmap().WithZone("")
	}
	mac, ok := macOf(text)
	have, known := macOf(d.MAC)
	return ok && known && mac == have
}

// ambiguous lists the devices that a text may mean.
func ambiguous(text, next string, found []store.Device) *api.Problem {
	const most = 5 // in the sentence
	var words []string
	var fields []api.ProblemField
	for _, d := range found {
		fields = append(fields, api.ProblemField{Location: d.UUID.String(), Message: strings.TrimSpace(api.Clean(d.FQDN) + " " + amt.Text(d.Address) + " " + string(d.Lifecycle))})
		if len(words) < most {
			words = append(words, amt.Called(d.UUID.String(), api.Clean(d.FQDN)))
		}
	}
	if len(found) > most {
		words = append(words, fmt.Sprintf("and %d more", len(found)-most))
	}
	p := api.NewProblem(http.StatusConflict, api.CodeAmbiguous, "%s fits %s: %s; %s", api.Clip(api.Clean(text), 80), devices(len(found)), strings.Join(words, ", "), next)
	p.Errors = fields
	return p
}

// names finds what the devices among some texts are called, for lists that have no
// more than a UUID.
func names(ctx context.Context, tx *store.Tx, texts []string) (map[string]string, error) {
	var uuids []amt.UUID
	for _, t := range texts {
		if u, err := amt.ParseUUID(t); err == nil && !u.IsZero() {
			uuids = append(uuids, u)
		}
	}
	out := map[string]string{}
	if len(uuids) == 0 {
		return out, nil
	}
	found, err := tx.CalledOf(ctx, uuids)
	for u, name := range found {
		out[u.String()] = api.Clean(name)
	}
	return out, err
}

// known reads a device that a text names.
func (s *Server) known(ctx context.Context, tx *store.Tx, text string) (store.Device, error) {
	u, err := s.whichOf(ctx, tx, text)
	if err != nil {
		return store.Device{}, err
	}
	d, err := tx.Device(ctx, u)
	if errors.Is(err, store.ErrNotFound) {
		return d, unknownDevice(u)
	}
	return d, err
}
