// Package store holds what the daemon knows about every device, what it
// decided, what it does next, and every password that may ever have left this
// process. One concrete DB works on two engines, SQLite and Postgres.
//
// How a change becomes durable:
//
//  1. A caller gives Write a closure. Postgres runs it in a transaction of its
//     own. On SQLite one writer runs all waiting closures, each in a SAVEPOINT,
//     and commits them together (group commit): one disk flush for many callers.
//  2. Write returns only after the commit. nil means that the change survives a
//     power loss. ErrUnknownOutcome means that nobody can tell: the caller must
//     send nothing that depends on the change.
//  3. A closure may run more than once (a deadlock, a serialization failure), so
//     it uses nothing but its Tx and variables that it sets anew each time.
//
// Times are milliseconds. SQLite stores them as integers since 1970, Postgres
// as timestamptz; callers see no difference. The zero time.Time is NULL.
//
// The store also decides who may work on a device, by a lease and a fence on
// the device's row (lease.go). The database's clock alone judges who has the
// lease.
package store
