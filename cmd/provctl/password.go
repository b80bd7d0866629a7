package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/provisiond/provisiond/amt/typed"
)

// A password comes from a file, a variable or the keyboard, never from an
// argument, which every user of the machine sees.

// passwordsFrom reads files and a variable; nil when neither is there.
func (p *program) passwordsFrom(files []string, variable string) ([]string, error) {
	var out []string
	for _, name := range files {
		if name == "-" {
			line, err := p.secretLine()
			if err != nil {
				return nil, unusable("the password on standard input %w", err)
			}
			out = append(out, line)
			continue
		}
		line, err := typed.PasswordFile(name)
		if err != nil {
			return nil, unusable("the password file: %w", err)
		}
		out = append(out, line)
	}
	if v, ok := os.LookupEnv(variable); ok && len(out) == 0 {
		line, err := typed.Password([]byte(v))
		if err != nil {
			return nil, unusable("the variable %s %w", variable, err)
		}
		out = append(out, line)
	}
	return out, nil
}

// secretLine reads one line of standard input that is a password.
func (p *program) secretLine() (string, error) {
	if p.typed == nil {
		p.typed = bufio.NewReader(p.in)
	}
	line, err := typed.Line(p.typed)
	if errors.Is(err, io.EOF) {
		err = errors.New("is missing: nothing came")
	}
	return line, err
}

// ask reads one line from the keyboard without showing it.
func (p *program) ask(prompt string) (string, error) {
	fmt.Fprint(p.err, prompt+": ")
	var line string
	err := silently(p.in, func() error {
		var err error
		line, err = p.secretLine()
		return err
	})
	fmt.Fprintln(p.err)
	if err != nil {
		return "", &exitError{exitFailed, fmt.Errorf("the password %w", err)}
	}
	return line, nil
}

// onePassword is the first of files and variable, or asked for.
func (p *program) onePassword(file, variable, prompt string) (string, error) {
	var files []string
	if file != "" {
		files = []string{file}
	}
	found, err := p.passwordsFrom(files, variable)
	if err != nil || len(found) > 0 {
		return strings.Join(found[:min(len(found), 1)], ""), err
	}
	return p.ask(prompt)
}
