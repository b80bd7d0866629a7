package rest

import (
	"context"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// OneDevice names a device in a path by whatever names it alone.
type OneDevice struct {
	UUID string `path:"uuid" maxLength:"255" doc:"its UUID, or all of its name, of the first label of its name, of its address, MAC or serial number; what fits several is answered with the list of them"`
}

// which finds the one device that a text names.
func (s *Server) which(ctx context.Context, text string) (u amt.UUID, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		u, err = operate.Which(ctx, tx, text)
		return err
	})
	return u, err
}
