// Package sim is an Intel AMT device seen from its own side. It listens on its
// own loopback address, says hello, judges the certificate chain it is shown as
// firmware does, and lets itself be set up over WS-Management.
//
// It is a second reading of the protocol: no codec, digest or envelope code is
// shared with the client in amt/session, so that a mistake made there does not
// find its twin here. A device remembers everything it was ever told (Snapshot),
// so that a test can ask from outside whether a password was lost.
//
// One setup, in order:
//
//  1. Run writes a hello to the server, from the device's own address.
//  2. The server connects to port 16993; trust.go judges its chain.
//  3. Requests arrive one at a time (http.go), are authenticated (digest.go),
//     taken apart (soap.go) and answered by the class they name (classes.go).
//  4. Changes go to pending settings; CommitChanges saves them, cuts the
//     network for a moment and comes back with the configured TLS certificate.
//
// Generations differ as data: personality.go. Misbehaviour has names: faults.go.
// What is not the device it says it is: rogue.go.
package sim
