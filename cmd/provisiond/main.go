// Command provisiond is the machine behind the DNS name ProvisionServer: it
// takes the hellos of Intel AMT firmware and sets the devices up.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// version and commit are set by the linker; a plain go build says what it is
// built from.
var version, commit string

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// errSilent ends with status 1 without another word: the command has said it.
var errSilent = errors.New("")

// exitCode lets a command choose its exit status.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		stop() // a second signal ends at once; nothing is lost by that
	}()

	root := &cobra.Command{
		Use: "provisiond", Short: "Sets up Intel AMT devices that say hello",
		Version: buildVersion(), SilenceUsage: true, SilenceErrors: true,
	}
	root.Long = root.Short + ".\n\nExit status: 0 done, 1 failed, 3 a configuration that cannot be used, 6 wrong arguments; of doctor: 0 " +
		"all is well, 1 there are warnings, 2 something fails."
	understood := false
	root.PersistentPreRun = func(*cobra.Command, []string) { understood = true }
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetArgs(args)
	root.AddCommand(newServe(), newDemo(), newMigrate(), newHealth(), newVersion(), newConfigCommand())
	root.AddCommand(moreCommands()...)

	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errConfig):
		return exitConfig
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, errSilent):
		return 1
	}
	fmt.Fprintln(stderr, "provisiond:", err)
	if !understood {
		return exitUsage
	}
	return 1
}

// exitUsage is the exit status for wrong arguments.
const exitUsage = 6

func newVersion() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Say what this program is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "provisiond %s (%s)\n", buildVersion(), revision())
			return err
		}}
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" && b.Main.Version != "(devel)" {
		return b.Main.Version
	}
	return "dev"
}

func revision() string {
	if commit != "" {
		return commit
	}
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown revision"
}
