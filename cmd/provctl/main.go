// Command provctl is an operator's hand on a running provisiond. It is a client
// of the REST API and nothing else; only hello decode works without a daemon.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
)

// version is stamped by the build.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit statuses, which scripts rely on.
const (
	exitOK       = 0
	exitFailed   = 1
	exitPartly   = 2 // some of several were done
	exitConfig   = 3 // a file or a setting that cannot be used
	exitAuth     = 4
	exitNotFound = 5
	exitUsage    = 6 // wrong arguments: nothing was asked or done
)

// exitError carries a status; what it says has been printed when err is nil.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usage is for arguments that are wrong.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// unusable is for a file or a setting that cannot be used.
func unusable(format string, args ...any) error {
	return &exitError{exitConfig, fmt.Errorf(format, args...)}
}

// run is the whole program; it returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{ctx: ctx, in: stdin, out: stdout, err: stderr}
	root := p.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	status, text, hint := p.explain(err)
	if hint == typo { // the command that was meant is known better than all of them
		hint = "usage: " + strings.TrimSuffix(cmd.UseLine(), " [flags]") + "; more: " + cmd.CommandPath() + " --help"
	}
	for _, arg := range cmd.Flags().Args() {
		if _, err := amt.ParseUUID(arg); err == nil && hint == askWhy {
			hint = strings.Replace(askWhy, "DEVICE", arg, 1)
		}
	}
	if text != "" {
		fmt.Fprintln(stderr, "provctl: "+text)
	}
	if hint != "" {
		fmt.Fprintln(stderr, "  "+hint)
	}
	return status
}

// explain turns an error into a status, a sentence and the next move.
func (p *program) explain(err error) (status int, text, hint string) {
	var exit *exitError
	var refused *api.Problem
	var lost *api.Unreachable
	switch {
	case errors.As(err, &exit):
		return exit.status, exit.Error(), ""
	case errors.Is(err, context.Canceled):
		return exitFailed, "", ""
	case errors.As(err, &lost):
		return exitFailed, lost.Error(), "is provisiond running there? Start it with: provisiond serve; or name another one: --address URL"
	case errors.As(err, &refused):
		switch refused.Status {
		case 401:
			return exitAuth, refused.Detail, p.tokenHint()
		case 403:
			return exitAuth, refused.Detail, "an admin makes tokens: provctl token create --name NAME --role ROLE"
		case 404:
			if refused.Code == api.CodeNoDevice {
				hint = askWhy
			}
			return exitNotFound, refused.Detail, hint
		}
		for _, f := range refused.Errors {
			if refused.Detail == "validation failed" {
				hint = f.Location + ": " + f.Message
			}
		}
		return exitFailed, refused.Detail, hint
	}
	// What is left comes from cobra: unknown commands, flags and argument counts.
	return exitUsage, err.Error(), typo
}

// askWhy is the next move about a device that is not known; the UUID that was
// typed takes its place in it.
const askWhy = "ask why: provctl device why DEVICE"

// typo stands for the usage of the command that was typed.
const typo = "usage"

// program holds what every command shares.
type program struct {
	ctx      context.Context
	in       io.Reader
	out, err io.Writer

	address, tokenFile, ca string
	json                   bool
	typed                  *bufio.Reader // standard input, once something was asked for
	tokenFrom              string        // where the token came from, for hints
}

func (p *program) root() *cobra.Command {
	root := group("provctl", "Look at and steer a running provisiond")
	root.SilenceUsage, root.SilenceErrors = true, true
	root.Long = "provctl looks at and steers a running provisiond. It shows times of UTC.\n\n" +
		"Exit status: 0 done, 1 failed, 2 partly done, 3 a file or setting that cannot be used, 4 not allowed, 5 not found, 6 wrong " +
		"arguments.\n\n" +
		"Environment, where the flag of that name is not given:\n" +
		"  PROVISIOND_ADDRESS     the daemon's URL\n" +
		"  PROVISIOND_TOKEN_FILE  a file with the token\n" +
		"  PROVISIOND_TOKEN       the token itself, where no file is named\n" +
		"  PROVISIOND_CA          a file with the authorities of the daemon's certificate\n" +
		"  PROVISIOND_DATA_DIR    the local daemon's data_dir, in which admin.token is looked for"
	f := root.PersistentFlags()
	f.StringVar(&p.address, "address", envOr("PROVISIOND_ADDRESS", "http://127.0.0.1:8080"), "the daemon's `URL`")
	f.StringVar(&p.tokenFile, "token-file", os.Getenv("PROVISIOND_TOKEN_FILE"),
		"a `FILE` with the token (default: admin.token in the local daemon's data_dir)")
	f.StringVar(&p.ca, "ca", os.Getenv("PROVISIOND_CA"), "a `FILE` with the authorities of the daemon's certificate (PEM)")
	f.BoolVar(&p.json, "json", false, "print JSON for programs")
	root.AddCommand(p.deviceCommand(), p.ruleCommand(), p.profileCommand(), p.secretCommand(), p.keyCommand(), p.jobCommand(),
		p.maintainCommand(), p.unprovisionCommand(), p.eventCommand(), p.helloCommand(), p.reasonCommand(),
		p.certCommand(), p.rootCommand(), p.consoleCertificateCommand(), p.deviceCACommand(), p.auditCommand(), p.userCommand(),
		p.tokenCommand(), p.doctorCommand(), p.statusCommand(), p.versionCommand())
	return root
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			text := fmt.Sprintf("there is no %q in %s", args[0], cmd.CommandPath())
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				text += fmt.Sprintf("; did you mean %q?", near[0])
			}
			return usage("%s", text)
		}
		return cmd.Help()
	}}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(subs...)
	return cmd
}
