package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/amt/hello"
)

func replayCommand() *cobra.Command {
	var server, from string
	var split bool
	var times int
	c := &cobra.Command{
		Use:   "replay FILE",
		Short: "Send captured hellos, byte for byte; FILE is of any form that provctl hello decode reads, - is standard input",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := readCapture(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			for range times {
				for _, r := range list {
					if err := sendRaw(cmd.Context(), server, from, r.Raw, split); err != nil {
						return err
					}
				}
			}
			for _, r := range list {
				fmt.Fprintf(cmd.OutOrStdout(), "sent %d bytes (%s) to %s, %d times\n", len(r.Raw), r.Form, server, times)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&server, "server", "127.0.0.1:9971", "host:port that takes hellos")
	f.StringVar(&from, "from", "", "own address to send from, such as 127.20.0.1")
	f.BoolVar(&split, "split", false, "one byte a segment")
	f.IntVar(&times, "times", 1, "how often")
	return c
}

// readCapture reads the hellos of a file, in any form that provctl hello decode
// takes. What is no hello is sent as it is.
func readCapture(name string, in io.Reader) ([]hello.Recorded, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	list, err := hello.Recordings(b)
	if err != nil {
		list = []hello.Recorded{{Raw: b, Form: "bytes that are no hello"}}
	}
	return list, nil
}

func sendRaw(ctx context.Context, server, from string, b []byte, split bool) error {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	if from != "" {
		a, err := netip.ParseAddr(from)
		if err != nil {
			return fmt.Errorf("--from: %w", err)
		}
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
	}
	c, err := dialer.DialContext(ctx, "tcp", server)
	if err != nil {
		return err
	}
	step := len(b)
	if split {
		step = 1
	}
	for len(b) > 0 {
		n, err := c.Write(b[:min(step, len(b))])
		if err != nil {
			_ = c.Close()
			return err
		}
		b = b[n:]
	}
	return c.Close()
}
