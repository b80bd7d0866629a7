package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// A password comes from a file, a variable or the keyboard, never from an
// argument, which every user of the machine sees.

// passwordsFrom reads files and a variable; nil when neither is there.
func (p *program) passwordsFrom(files []string, variable string) ([]string, error) {
	var out []string
	for _, name := range files {
		if name == "-" {
			line, err := p.line()
			if err != nil && line == "" {
				return nil, usage("the password on standard input: %w", err)
			}
			out = append(out, strings.TrimRight(line, "\r\n"))
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, usage("the password file: %w", err)
		}
		if len(text) > 4096 {
			return nil, usage("the password file %s is larger than a password", name)
		}
		out = append(out, strings.TrimRight(string(text), "\r\n"))
	}
	if v, ok := os.LookupEnv(variable); ok && len(out) == 0 {
		out = append(out, v)
	}
	return out, nil
}

// ask reads one line from the keyboard without showing it.
func (p *program) ask(prompt string) (string, error) {
	fmt.Fprint(p.err, prompt+": ")
	var line string
	err := silently(p.in, func() error {
		var err error
		if p.typed == nil {
			p.typed = bufio.NewReaderSize(p.in, 4096)
		}
		line, err = p.typed.ReadString('\n')
		if errors.Is(err, io.EOF) && line != "" {
			err = nil
		}
		return err
	})
	fmt.Fprintln(p.err)
	if err != nil {
		return "", &exitError{exitFailed, errors.New("no password was given")}
	}
	return strings.TrimRight(line, "\r\n"), nil
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
