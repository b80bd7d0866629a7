// Package store is the truth: what is known of every device, what was decided
// about it, what is to be done next and every password that may ever have left
// this process. One concrete DB stands on two engines, SQLite and Postgres.
//
// How a change becomes true:
//
//  1. A caller hands Write a closure. On Postgres it runs in a transaction of
//     its own; on SQLite one writer runs all waiting closures, each in a
//     SAVEPOINT, and commits them together (group commit): one disk flush for
//     many callers.
//  2. Write answers only after the commit is durable. nil means it is there
//     after a power loss. ErrUnknownOutcome means nobody can tell; treat it
//     as not done for anything that is about to leave the process.
//  3. A closure may run more than once (a deadlock, a serialization failure):
//     it touches nothing but its Tx and variables it sets anew each time.
//
// Times are milliseconds. SQLite keeps them as integers since 1970, Postgres
// as timestamptz; no caller sees the difference. The zero time.Time is NULL.
//
// Who may work on a device is decided here as well: a lease and a fence on
// the device row (lease.go). Ownership is judged by one clock, the database's.
package store
