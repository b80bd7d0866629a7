//go:build !linux

package main

import (
	"errors"
	"io"
	"os"
)

// silently is for terminals that this program cannot quieten: a password is not
// asked for where everybody would read it.
func silently(in io.Reader, fn func() error) error {
	if f, ok := in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return errors.New("a password cannot be asked for at this terminal; give it in a file")
		}
	}
	return fn()
}

// onTerminal reports whether somebody may be there to answer a question.
func onTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return true
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
