package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

// maxHello is far more than any hello, and its hexadecimal form, can be.
const maxHello = 1 << 20

func (p *program) helloCommand() *cobra.Command {
	decode := &cobra.Command{
		Use: "decode FILE", Short: "Read a recorded hello; needs no daemon", Args: cobra.ExactArgs(1),
		Long: "Read a recorded hello: its bytes as they came, or hexadecimal digits with any white space.\n- reads standard input. Known roots are named.",
		RunE: func(_ *cobra.Command, args []string) error {
			raw, err := p.readHello(args[0])
			if err != nil {
				return err
			}
			d, err := api.DecodeHello(api.HelloText(raw))
			if err != nil {
				return &exitError{exitFailed, err}
			}
			if p.json {
				return p.printJSON(d)
			}
			var t table
			t.row("version", fmt.Sprintf("%d (%s)", d.Version, map[int]string{2: "PSK", 3: "PKI"}[d.Version]))
			t.row("uuid", d.UUID)
			t.row("retry", fmt.Sprint(d.Retry))
			t.row("admin credentials set", map[bool]string{true: "yes", false: "no"}[d.AdminCredentialsSet])
			t.row("hashes", fmt.Sprint(len(d.Hashes)))
			t.print(p.out)
			var h table
			for i, r := range d.Hashes {
				name := r.Name
				if name == "" {
					name = "(not a known root)"
				}
				h.row(fmt.Sprintf("%4d", i+1), r.Algorithm, r.Hash, name)
			}
			h.print(p.out)
			return nil
		},
	}
	return group("hello", "Recorded hellos", decode)
}

func (p *program) readHello(name string) ([]byte, error) {
	from := p.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, &exitError{exitConfig, err}
		}
		defer f.Close()
		from = f
	}
	b, err := io.ReadAll(io.LimitReader(from, maxHello+1))
	if err != nil {
		return nil, &exitError{exitConfig, err}
	}
	if len(b) > maxHello {
		return nil, &exitError{exitFailed, fmt.Errorf("%s is longer than any hello", name)}
	}
	return b, nil
}
