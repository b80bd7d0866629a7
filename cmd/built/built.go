// Package built gives tests the programs as an operator has them: built from the
// sources as they are, into bin/tests of the repository. The go command sees when
// a program that lies there is up to date, so that all the test binaries of a run,
// and the next run, build it once.
package built

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
)

// Program gives the path of a program of cmd, built with these flags; each kind
// is built when a test binary first asks for it.
func Program(name string, flags ...string) (string, error) {
	kind := strings.Join(append([]string{name}, flags...), " ")
	once, _ := kinds.LoadOrStore(kind, sync.OnceValues(func() (string, error) { return build(name, kind, flags) }))
	return once.(func() (string, error))()
}

// Watched gives the program that watches for data races, if the test binary does:
// built with the same flags.
func Watched(name string) (string, error) {
	if !Race {
		return Program(name)
	}
	flags := []string{"-race"}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-gcflags" {
				flags = append(flags, "-gcflags="+s.Value)
			}
		}
	}
	return Program(name, flags...)
}

var kinds sync.Map // of functions, by name and flags

func build(name, kind string, flags []string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "bin", "tests")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// One build at a time: two of the same program would get in each other's way.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("wait for another build: %w", err)
	}
	file := strings.Map(func(r rune) rune {
		if r == ' ' || r == '/' || r == '=' {
			return '_'
		}
		return r
	}, kind)
	out := filepath.Join(dir, file)
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", out, "./cmd/"+name)...)
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w: %s", kind, err, text)
	}
	return out, nil
}

// moduleRoot looks for go.mod upwards: a test runs in its package's directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", errors.New("no go.mod above " + dir)
		}
	}
}
