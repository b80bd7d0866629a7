//go:build !linux

package main

import (
	"io"

	"github.com/provisiond/provisiond/amt"
)

func readHidden(io.Writer, string) (amt.Secret, error) { return amt.Secret{}, errNoTerminal }
