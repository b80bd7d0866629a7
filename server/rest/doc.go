// Package rest serves the API over HTTP. It makes the OpenAPI description from
// the code.
//
// A request goes like this:
//
//  1. authenticate (auth.go) finds the principal of the bearer token. Every
//     route under /api/ needs one; /metrics, /healthz and /readyz need none.
//  2. authorise (server.go) looks the operation up in the table of roles (package
//     api): who may.
//  3. The handler reads or writes rows. A command from an operator is a row too;
//     a worker finds it. Nothing here talks to a device.
//  4. explain (problem.go) turns an error into an RFC 9457 problem, in one place;
//     what is not meant for the caller goes to the log instead.
//
// A password leaves only through reveal.go, one at a time, after the record of
// it is durable.
package rest
