//go:build !failpoints

package provision

// withFailpoints does nothing in a shipped binary; see failpoint.go.
func withFailpoints(c Config) Config { return c }

// Failpoint does nothing in a shipped binary.
func (e *Engine) Failpoint(string) {}
