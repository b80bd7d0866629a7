package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// silently runs fn while the terminal at in, if it is one, shows nothing of
// what is typed.
func silently(in io.Reader, fn func() error) error {
	f, ok := in.(*os.File)
	if !ok {
		return fn()
	}
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fn() // not a terminal
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return err
	}
	defer func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }()
	return fn()
}

// onTerminal reports whether somebody may be there to answer a question.
func onTerminal(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return true
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
