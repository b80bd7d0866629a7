//go:build failpoints

package main

// failpointEnv is what server/provision/failpoint.go reads.
var failpointEnv = []string{"PROVISIOND_CRASH_AT", "PROVISIOND_CRASH_TRACE"}
