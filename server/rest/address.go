package rest

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
)

// AddressInput says where a device is.
type AddressInput struct {
	OneDevice
	Body api.NewAddress
}

func (s *Server) addressRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "address-device", Method: http.MethodPut, Path: "/api/v1/devices/{uuid}/address",
		Summary: "Say where a device is",
		Description: "It is called there from now on, also a device under management; its key decides whether it is the device. Of two " +
			"machines that say hello with one UUID it is the one at this address.", Tags: []string{"devices"}}, s.addressDevice)
}

func (s *Server) addressDevice(ctx context.Context, in *AddressInput) (api.ActionResult, error) {
	a, err := netip.ParseAddr(in.Body.Address)
	a = a.Unmap()
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return api.ActionResult{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid,
			"address %q: want the IP address of one device, such as 10.20.3.7", api.Clip(in.Body.Address, 64))
	}
	if s.Networks != nil && !operate.Inside(s.Networks, a) {
		return api.ActionResult{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid,
			"address %s: provisioning.networks names no network that it is in, so nobody would call there; add its network first", a)
	}
	return s.command(ctx, in.UUID, operate.Command{Verb: operate.Address, Note: in.Body.Note, Address: a})
}
