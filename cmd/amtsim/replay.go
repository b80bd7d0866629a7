package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func replayCommand() *cobra.Command {
	var server, from string
	var split bool
	var times int
	c := &cobra.Command{
		Use:   "replay FILE",
		Short: "Send a captured hello, byte for byte; FILE is hexadecimal or raw, - is standard input",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := readCapture(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			for range times {
				if err := sendRaw(cmd.Context(), server, from, b, split); err != nil {
					return err
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "sent %d bytes to %s, %d times\n", len(b), server, times)
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

// readCapture takes hexadecimal digits with any white space, or raw bytes.
func readCapture(name string, in io.Reader) ([]byte, error) {
	var b []byte
	var err error
	if name == "-" {
		b, err = io.ReadAll(in)
	} else {
		b, err = os.ReadFile(name)
	}
	if err != nil {
		return nil, err
	}
	text := bytes.Join(bytes.Fields(b), nil)
	if raw := make([]byte, hex.DecodedLen(len(text))); len(text) > 0 {
		if n, err := hex.Decode(raw, text); err == nil {
			return raw[:n], nil
		}
	}
	return b, nil
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
