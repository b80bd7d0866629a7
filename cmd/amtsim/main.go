// Command amtsim is simulated Intel AMT hardware: one device or thousands, each
// on its own loopback address, saying hello to a server and letting itself be
// set up.
//
//	amtsim fleet --devices 500 --server 127.0.0.1:9971 --trust lab-root.pem --suffix lab.example
//	amtsim device --personality 9 --server 127.0.0.1:9971 --trust lab-root.pem --suffix lab.example
//	amtsim replay capture.hex --server 127.0.0.1:9971
//	amtsim bench hello|provision|floor
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// errFailed ends the program with status 1 when all that had to be said has
// been said.
var errFailed = errors.New("")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	understood := false
	c := root()
	c.PersistentPreRun = func(*cobra.Command, []string) { understood = true }
	if err := c.ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errFailed) {
			fmt.Fprintln(os.Stderr, "amtsim:", err)
		}
		stop()
		if !understood {
			os.Exit(6) // wrong arguments, as of the other programs
		}
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:           "amtsim",
		Short:         "Simulated Intel AMT devices that say hello and let themselves be set up",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddCommand(fleetCommand(), deviceCommand(), replayCommand(), benchCommand(), personalitiesCommand())
	return c
}
