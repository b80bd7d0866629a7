//go:build !failpoints

package main

// failpointEnv: a shipped binary has no failpoints.
var failpointEnv []string
