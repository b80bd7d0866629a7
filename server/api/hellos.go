package api

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store"
)

// HelloInput carries the bytes of one hello.
type HelloInput struct {
	Body HelloBytes
}

// HelloBytes is a hello in one of two forms.
type HelloBytes struct {
	Hex    string `json:"hex,omitempty" maxLength:"65536" doc:"hexadecimal digits, or what a tool made of them: a dump of xxd, hexdump, od or Wireshark, a list of 0x01, base64"`
	Base64 string `json:"base64,omitempty" maxLength:"65536" doc:"the bytes, or a file of any form that the command provctl hello decode takes"`
}

// KeptHello is a hello of a device as it was recorded.
type KeptHello struct {
	ID     int64     `json:"id"`
	At     time.Time `json:"at"`
	From   string    `json:"from"`
	Via    string    `json:"via" doc:"plain, relay or agent"`
	Peer   string    `json:"peer,omitempty" doc:"subject of the relay's or agent's certificate"`
	Retry  int64     `json:"retry"`
	Hashes int       `json:"hashes"`
	Hex    string    `json:"hex" doc:"its bytes"`
}

// KeptHellos are the recorded hellos of a device, newest first.
type KeptHellos struct {
	UUID   string      `json:"uuid"`
	Name   string      `json:"name,omitempty"`
	Hellos []KeptHello `json:"hellos"`
}

// hellosQuery names a device and how many of its hellos.
type hellosQuery struct {
	OneDevice
	Limit int `query:"limit" minimum:"0" maximum:"1000" doc:"0 means 100"`
}

func (s *Server) helloRoutes(api huma.API) {
	add(s, api, huma.Operation{OperationID: "decode-hello", Method: http.MethodPost, Path: "/api/v1/hellos/decode", Summary: "Read a recorded hello", Tags: []string{"devices"}}, s.decodeHello)
	add(s, api, huma.Operation{OperationID: "list-hellos", Method: http.MethodGet, Path: "/api/v1/devices/{uuid}/hellos", Summary: "The recorded hellos of a device, newest first", Tags: []string{"devices"}}, s.listHellos)
}

func (s *Server) decodeHello(_ context.Context, in *HelloInput) (HelloDecoded, error) {
	var data []byte
	switch {
	case (in.Body.Hex == "") == (in.Body.Base64 == ""):
		return HelloDecoded{}, problem(http.StatusUnprocessableEntity, CodeInvalid, "give hex or base64")
	case in.Body.Hex != "":
		data = []byte(in.Body.Hex)
	default:
		var err error
		if data, err = base64.StdEncoding.DecodeString(in.Body.Base64); err != nil {
			return HelloDecoded{}, problem(http.StatusUnprocessableEntity, CodeInvalid, "body.base64 is not base64")
		}
	}
	all, err := DecodeHellos(data)
	if err != nil {
		return HelloDecoded{}, problem(http.StatusUnprocessableEntity, string(helloCode(err)), "%s", err)
	}
	return all[0], nil
}

func helloCode(err error) reason.Code {
	var pe *hello.ParseError
	if errors.As(err, &pe) && pe.Kind == hello.KindVersion {
		return reason.HelloVersionUnsupported
	}
	return reason.HelloMalformed
}

// A HelloError says what a file was taken for, and why that is no hello.
type HelloError struct {
	Form string
	Err  error
}

func (e *HelloError) Error() string { return "taken for " + e.Form + ": " + e.Err.Error() }

func (e *HelloError) Unwrap() error { return e.Err }

// DecodeHellos reads the hellos of a file in any form that people keep one in:
// at least one, or an error that says what the file was taken for.
func DecodeHellos(data []byte) (out []HelloDecoded, err error) {
	found, err := hello.Recordings(data)
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		m, err := hello.Parse(r.Raw)
		if err != nil {
			return nil, &HelloError{r.Form, err}
		}
		out = append(out, HelloDecoded{
			Form: r.Form, Version: int(m.Version), UUID: m.UUID.String(), Retry: int64(m.RetryCount), AdminCredentialsSet: m.AdminCredentialsSet, Hashes: Roots(m.Hashes),
		})
	}
	return out, nil
}

func (s *Server) listHellos(ctx context.Context, in *hellosQuery) (KeptHellos, error) {
	out := KeptHellos{Hellos: []KeptHello{}}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		d, err := s.known(ctx, tx, in.UUID)
		if err != nil {
			return err
		}
		out.UUID, out.Name = d.UUID.String(), clean(d.FQDN)
		limit := in.Limit
		if limit == 0 {
			limit = 100
		}
		list, err := tx.Hellos(ctx, d.UUID, limit)
		if err != nil {
			return err
		}
		for _, h := range list {
			m := hello.Message{Version: uint16(h.Version), RetryCount: h.Retry, UUID: h.UUID, AdminCredentialsSet: h.AdminSet, PID: h.PID, Trailing: h.Trailing}
			if h.TrustTable != 0 {
				if m.Hashes, err = tx.TrustHashes(ctx, h.TrustTable); err != nil {
					return err
				}
			}
			raw := h.Raw
			if len(raw) == 0 {
				raw = m.Encode()
			}
			out.Hellos = append(out.Hellos, KeptHello{ID: h.ID, At: h.At.UTC(), From: clean(h.From), Via: h.Via, Peer: clean(h.Peer), Retry: int64(h.Retry), Hashes: len(m.Hashes), Hex: hex.EncodeToString(raw)})
		}
		return nil
	})
	return out, err
}

// Hellos lists the recorded hellos of a device, newest first.
func (c *Client) Hellos(ctx context.Context, device string, limit int) (KeptHellos, error) {
	return call[KeptHellos](ctx, c, http.MethodGet, devicePath(device, "/hellos"), values(struct {
		Limit int `query:"limit"`
	}{limit}), nil)
}
