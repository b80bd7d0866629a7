// Package hello reads what a machine's firmware sends when it wants to be set
// up, byte by byte; package receive listens for it.
//
// A hello goes like this (Intel, "Setup mode hello messages"):
//
//  1. The firmware finds the address of ProvisionServer and connects to TCP
//     9971 as the client.
//  2. It writes one binary message, all integers little-endian, and closes. It
//     reads no answer, so the server never writes one.
//  3. The message names the platform (UUID) and, in version 3, the digests of
//     the root certificates it trusts. It holds no address, name or firmware
//     version: the server calls back the connection's source address.
//
// The same port takes TLS from relays and host agents, which must show a client
// certificate: the first byte of a connection tells (receive/server.go). A browser
// that asks for receive.ProbePath gets the answer that its road ends here; nobody else gets
// a byte.
package hello

import (
	"context"
	"net/netip"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// The interface versions that this package understands.
const (
	VersionPSK uint16 = 2 // pre-shared key: AMT 11 removed it; recognised, never provisioned
	VersionPKI uint16 = 3 // remote configuration by certificate
)

// A Message is one hello as it came over the wire.
type Message struct {
	// AdminCredentialsSet is recorded and decides nothing: nobody documents its
	// exact meaning, and every known capture has it set.
	AdminCredentialsSet bool
	Version             uint16 // VersionPSK or VersionPKI; 0 for an agent's request, which is not a hello of firmware
	RetryCount          uint32 // how often the device has said hello in this cycle
	UUID                amt.UUID
	PID                 string          // version 2 only: the name of the pre-shared key, 8 bytes
	Hashes              []amt.TrustHash // version 3 only: the trusted roots in wire order, 0 to 255
	Trailing            []byte          // what arrived after the declared length; kept, never refused
	Raw                 []byte          // the bytes received, Trailing included; the other slices point into it
}

// Via says by which road a hello came.
type Via string

const (
	ViaPlain Via = "plain" // as firmware speaks it: TCP, nobody authenticated
	ViaRelay Via = "relay" // a raw hello inside mutual TLS
	ViaAgent Via = "agent" // an HTTP POST inside mutual TLS
)

// A Hello is a message with what the connection adds to it.
type Hello struct {
	Message
	From  netip.AddrPort // the other end: the device itself, or the authenticated relay or agent
	Local netip.AddrPort // the address it reached
	At    time.Time      // when the last byte had come
	Via   Via
	Peer  string // subject common name of the client certificate; empty for ViaPlain

	// PeerNames are the names in that certificate, in lower case, the common name
	// first. Tell gives the reason and a sentence to a sender who is turned away
	// and waits for an answer; nil: nobody waits.
	PeerNames []string
	Tell      func(reason, why string)

	// What an authenticated request says of the device; zero if it does not. The
	// sender named Address, and only its form is checked: the reader decides
	// whether we may connect there.
	FQDN    string
	OTP     amt.Secret
	Address netip.Addr
}

// Result is what became of a hello: the label of
// provisiond_hello_received_total.
type Result string

// A Handler returns one of the first five; the listener adds the rest.
const (
	Accepted      Result = "accepted"
	Duplicate     Result = "duplicate"
	Updated       Result = "updated" // an agent said where a device under management is; an answer of 200
	DeniedNetwork Result = "denied_network"
	DeniedDevice  Result = "denied_device" // also: a TLS peer that did not prove itself, a plain hello where plain is off
	Malformed     Result = "malformed"
	RateLimited   Result = "rate_limited" // this source or its network sends too much
	Overload      Result = "overload"     // all sources together send too much: connections or total rate
	StoreError    Result = "store_error"
)

// A Handler decides what to do about a device that said hello. When it returns
// without an error, the hello is durable or was refused on purpose. An error
// means that the hello is lost, and counts as store_error. ctx ends when the
// server stops, or when the handler takes longer than HandlerTimeout.
type Handler interface {
	HandleHello(ctx context.Context, h Hello) (Result, error)
}
