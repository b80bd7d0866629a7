package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/typed"
)

// readHidden asks on the terminal without showing what is typed.
func readHidden(out io.Writer, question string) (amt.Secret, error) {
	fd := int(os.Stdin.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return amt.Secret{}, errNoTerminal
	}
	hidden := *was
	hidden.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &hidden); err != nil {
		return amt.Secret{}, errNoTerminal
	}
	defer func() {
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, was)
		fmt.Fprintln(out)
	}()
	fmt.Fprint(out, question)
	line, err := typed.Line(bufio.NewReader(os.Stdin))
	switch {
	case errors.Is(err, io.EOF), err == nil && line == "":
		return amt.Secret{}, errors.New("no passphrase was given")
	case err != nil:
		return amt.Secret{}, fmt.Errorf("the passphrase %w", err)
	}
	return amt.NewSecret(line), nil
}
