// Package sim is an Intel AMT device seen from its own side. It listens on its
// own loopback address, says hello, judges the server's certificate chain as
// firmware does, and lets a server set it up over WS-Management.
//
// It is a second reading of the protocol: it shares no codec, digest or
// envelope code with the client in amt/session, so that a mistake there does
// not find its twin here. A device remembers everything that anybody ever told
// it (Snapshot), so that a test can ask from outside whether a password was
// lost.
//
// One setup, in order:
//
//  1. Run writes a hello to the server, from the device's own address.
//  2. The server connects to port 16993; trust.go judges its chain.
//  3. Requests arrive one at a time (http.go). The device authenticates each
//     (digest.go), parses it (soap.go) and answers by its class (classes.go).
//  4. Changes go to pending settings; CommitChanges saves them, cuts the
//     network for a moment and comes back with the configured TLS certificate.
//
// Generations differ as data: personality.go. Misbehaviour has names:
// faults.go. Impostors: rogue.go.
package sim
