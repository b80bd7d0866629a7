// Package api is what operators and their programs see: REST over the store,
// with its OpenAPI description made from the code, and a Go client of it.
//
// A request goes like this:
//
//  1. authenticate (auth.go) finds the principal of the bearer token. Every
//     route under /api/ needs one; /metrics, /healthz and /readyz need none.
//  2. authorise (roles.go) looks the operation's id up in one table: who may.
//  3. The handler reads or writes rows. A command from an operator is a row too
//     (actions.go); a worker finds it. Nothing here talks to a device.
//  4. An error becomes an RFC 9457 problem in one place (problem.go); what is
//     not meant for the caller goes to the log instead.
//
// A password leaves only through reveal.go, one at a time, after the record of
// it is durable.
package api
