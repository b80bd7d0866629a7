// Package api is the contract between the daemon and every program that asks
// it: the wire types, the problems and their codes, the roles, and a Go client.
// It knows no database and no web framework, so that a client carries neither.
//
// Package server/rest answers what the client asks, and package server/operate
// decides what an operator may do.
package api
