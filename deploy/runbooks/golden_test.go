package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRunbooksAreUpToDate(t *testing.T) {
	t.Parallel()
	want, err := render()
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../RUNBOOKS.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, string(have)); d != "" {
		t.Errorf("deploy/RUNBOOKS.md is old; run `go run ./deploy/runbooks > deploy/RUNBOOKS.md`:\n%s", d)
	}
}

func TestEveryFirstMoveHasItsAlert(t *testing.T) {
	t.Parallel()
	list, err := alerts()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, a := range list {
		known[a.Name] = true
	}
	for name := range firstMoves {
		if !known[name] {
			t.Errorf("moves.go speaks of %s, which rules.yml does not have", name)
		}
	}
}
