package rest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/store"
)

// HelloInput carries the bytes of one hello.
type HelloInput struct {
	Body api.HelloBytes
}

// hellosQuery names a device and how many of its hellos.
type hellosQuery struct {
	OneDevice
	Limit int `query:"limit" minimum:"0" maximum:"1000" doc:"0 means 100"`
}

func (s *Server) helloRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "decode-hello", Method: http.MethodPost, Path: "/api/v1/hellos/decode",
		Summary: "Read a recorded hello", Tags: []string{"devices"}}, s.decodeHello)
	add(s, to, huma.Operation{OperationID: "list-hellos", Method: http.MethodGet, Path: "/api/v1/devices/{uuid}/hellos",
		Summary: "The recorded hellos of a device, newest first", Tags: []string{"devices"}}, s.listHellos)
}

func (s *Server) decodeHello(_ context.Context, in *HelloInput) (api.HelloDecoded, error) {
	var data []byte
	switch {
	case (in.Body.Hex == "") == (in.Body.Base64 == ""):
		return api.HelloDecoded{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "give hex or base64")
	case in.Body.Hex != "":
		data = []byte(in.Body.Hex)
	default:
		var err error
		if data, err = base64.StdEncoding.DecodeString(in.Body.Base64); err != nil {
			return api.HelloDecoded{}, api.NewProblem(http.StatusUnprocessableEntity, api.CodeInvalid, "body.base64 is not base64")
		}
	}
	all, err := hello.Decode(data)
	if err != nil {
		return api.HelloDecoded{}, api.NewProblem(http.StatusUnprocessableEntity, string(helloCode(err)), "%s", err)
	}
	m := all[0]
	return api.HelloDecoded{
		Form: m.Form, Version: int(m.Version), UUID: m.UUID.String(), Retry: int64(m.RetryCount),
		AdminCredentialsSet: m.AdminCredentialsSet, Hashes: api.Roots(m.Hashes),
	}, nil
}

func helloCode(err error) reason.Code {
	var pe *hello.ParseError
	if errors.As(err, &pe) && pe.Kind == hello.KindVersion {
		return reason.HelloVersionUnsupported
	}
	return reason.HelloMalformed
}

func (s *Server) listHellos(ctx context.Context, in *hellosQuery) (api.KeptHellos, error) {
	out := api.KeptHellos{Hellos: []api.KeptHello{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		d, err := operate.Known(ctx, tx, in.UUID)
		if err != nil {
			return err
		}
		out.UUID, out.Name = d.UUID.String(), api.Clean(d.FQDN)
		limit := in.Limit
		if limit == 0 {
			limit = 100
		}
		list, err := tx.Hellos(ctx, d.UUID, limit)
		if err != nil {
			return err
		}
		for _, h := range list {
			m := hello.Message{Version: uint16(h.Version), RetryCount: h.Retry, UUID: h.UUID, AdminCredentialsSet: h.AdminSet, PID: h.PID,
				Trailing: h.Trailing}
			if h.TrustTable != 0 {
				if m.Hashes, err = tx.TrustHashes(ctx, h.TrustTable); err != nil {
					return err
				}
			}
			raw := h.Raw
			if len(raw) == 0 {
				raw = m.Encode()
			}
			out.Hellos = append(out.Hellos, api.KeptHello{ID: h.ID, At: h.At.UTC(), From: api.Clean(h.From), Via: h.Via,
				Peer: api.Clean(h.Peer), Retry: int64(h.Retry), Hashes: len(m.Hashes), Hex: hex.EncodeToString(raw)})
		}
		return nil
	})
	return out, err
}
