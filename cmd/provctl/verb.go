package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

// A verb is one command that asks the server something: its words, what it asks,
// and how the answer is shown.
type verb[T any] struct {
	use, short, long, example string
	args                      cobra.PositionalArgs // nil: none
	flags                     func(f *pflag.FlagSet)
	choices                   map[string][]string       // what a flag may be given, for completion
	check                     func(args []string) error // refuses before anything is asked or made
	ask                       func(ctx context.Context, c *api.Client, args []string) (T, error)
	findings                  bool           // a refusal comes with findings about a certificate
	out                       *string        // the new file of --out; see newFile
	undo                      func()         // what to take back that check made, when the server refuses
	bytes                     func(T) []byte // what the file is to hold; nil: no file after all
	kept                      func(T) string // how to come by it again, when the file cannot be written
	json                      func(T) any    // nil: --json shows the whole answer
	show                      func(T)        // says it in words
	status                    func(T) error  // the exit status of an answer
}

// command makes the command of a verb.
func (v verb[T]) command(p *program) *cobra.Command {
	cmd := &cobra.Command{Use: v.use, Short: v.short, Long: v.long, Example: v.example, Args: v.args}
	if cmd.Args == nil {
		cmd.Args = cobra.NoArgs
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return v.run(cmd.Context(), p, args) }
	if v.flags != nil {
		v.flags(cmd.Flags())
	}
	for flag, words := range v.choices {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

func (v verb[T]) run(ctx context.Context, p *program, args []string) error {
	if v.check != nil {
		if err := v.check(args); err != nil {
			return err
		}
	}
	name := ""
	if v.out != nil {
		name = *v.out
	}
	c, out, err := p.clientAndFile(name)
	var t T
	if err == nil {
		if t, err = v.ask(ctx, c, args); err != nil && v.findings {
			err = p.withFindings(err)
		}
	}
	if err != nil {
		if v.undo != nil {
			v.undo()
		}
		return out.drop(err)
	}
	if err := v.write(out, t); err != nil {
		return err
	}
	switch {
	case !p.json:
		v.show(t)
	case v.json != nil:
		err = p.printJSON(v.json(t))
	default:
		err = p.printJSON(t)
	}
	if err == nil && v.status != nil {
		err = v.status(t)
	}
	return err
}

func (v verb[T]) write(out *outFile, t T) error {
	if out == nil {
		return nil
	}
	data := v.bytes(t)
	if data == nil {
		return out.drop(nil)
	}
	err := out.write(data)
	if err != nil && v.kept != nil {
		err = fmt.Errorf("%w; %s", err, v.kept(t))
	}
	if err != nil {
		return &exitError{exitFailed, err}
	}
	return nil
}

// none and one ask by a method of the client that takes nothing, or what the
// first argument names.
func none[T any](m func(*api.Client, context.Context) (T, error)) func(context.Context, *api.Client, []string) (T, error) {
	return func(ctx context.Context, c *api.Client, _ []string) (T, error) { return m(c, ctx) }
}

func one[T any](m func(*api.Client, context.Context, string) (T, error)) func(context.Context, *api.Client, []string) (T, error) {
	return func(ctx context.Context, c *api.Client, args []string) (T, error) { return m(c, ctx, args[0]) }
}

// list is a verb that shows a table, one row for each thing; empty is what
// standard error says when there is none.
func list[T any](p *program, v verb[[]T], empty, head string, row func(T) []any) *cobra.Command {
	v.show = func(all []T) {
		if len(all) == 0 && empty != "" {
			p.note("%s\n", empty)
			return
		}
		rows(p, head, all, row)
	}
	return v.command(p)
}

// action is a verb about one device, which answers with a sentence.
func (p *program) action(v verb[api.ActionResult]) *cobra.Command {
	ask, device := v.ask, ""
	v.ask = func(ctx context.Context, c *api.Client, args []string) (api.ActionResult, error) {
		device = args[0]
		return ask(ctx, c, args)
	}
	v.show = func(r api.ActionResult) { p.say("%s: %s\n", device, r.Said) }
	return v.command(p)
}

func (p *program) showAction(device string, r api.ActionResult, err error) error {
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(r)
	}
	p.say("%s: %s\n", device, r.Said)
	return nil
}

// number is for a verb whose one argument is a number; wrong says what another
// argument is not.
func number(wrong string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(1)(cmd, args); err != nil {
			return err
		}
		if id, err := strconv.ParseInt(args[0], 10, 64); err != nil || id < 1 {
			return usage("%q is not %s", args[0], wrong)
		}
		return nil
	}
}

// idOf is what number let through.
func idOf(s string) int64 {
	id, _ := strconv.ParseInt(s, 10, 64)
	return id
}

// Flags that several verbs have.

func noteFlag(f *pflag.FlagSet, note *string) {
	f.StringVar(note, "note", "", "why, for the timeline and the audit")
}

func outFlag(f *pflag.FlagSet, file *string, what string) {
	f.StringVar(file, "out", "", "write "+what+" to a new `FILE`")
}

// exit is the status of an answer that was shown already.
func exit(status int, when bool) error {
	if when {
		return &exitError{status: status}
	}
	return nil
}

// failed is a failure that is no refusal of the server's.
func failed(format string, args ...any) error {
	return &exitError{exitFailed, fmt.Errorf(format, args...)}
}

// withFindings prints what was found before the refusal.
func (p *program) withFindings(err error) error {
	var refused *api.Problem
	if errors.As(err, &refused) && refused.Code != "" && refused.Status != 401 && refused.Status != 403 {
		for _, f := range refused.Errors {
			p.note("  %s %s\n", f.Location, f.Message)
		}
		if refused.Status == 409 {
			return failed("%s: %s", refused.Code, refused.Detail)
		}
	}
	return err
}
