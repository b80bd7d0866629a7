package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
)

// RetryInput is the command to try again.
type RetryInput struct {
	OneDevice
	Body *api.Retry `required:"false"`
}

// TrustInput is a word for a device's certificate.
type TrustInput struct {
	OneDevice
	Body api.Retry
}

func (s *Server) vouchRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "retry-device", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/retry",
		Summary:     "Try again now",
		Description: "Brings a waiting run forward or starts a new one.", Tags: []string{"devices"}},
		func(ctx context.Context, in *RetryInput) (api.ActionResult, error) {
			b := api.Retry{}
			if in.Body != nil {
				b = *in.Body
			}
			return s.command(ctx, in.UUID, operate.Command{Verb: operate.Retry, Note: b.Note, Vouch: b.Vouch})
		})
	add(s, to, huma.Operation{OperationID: "trust-device", Method: http.MethodPost, Path: "/api/v1/devices/{uuid}/trust",
		Summary: "Vouch for the certificate that a device shows",
		Description: "For a device whose key is not known here, or has changed: passwords that it may hold are answered to the " +
			"certificate with this fingerprint, or to the first that answers. The next contact, which is begun, makes its key the " +
			"device's, and the word is spent.", Tags: []string{"devices"}},
		func(ctx context.Context, in *TrustInput) (api.ActionResult, error) {
			return s.command(ctx, in.UUID, operate.Command{Verb: operate.Trust, Note: in.Body.Note, Vouch: in.Body.Vouch})
		})
}
