package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/server/api"
)

// maxHello bounds what a hello is looked for in: a capture of a morning.
const maxHello = 64 << 20

func (p *program) helloCommand() *cobra.Command {
	cmd := group("hello", "Recorded hellos", p.helloDecode(), p.helloList(), p.helloShow(), p.helloExport())
	cmd.Long = `Recorded hellos: those that lie in a file, and those that the server keeps.

  provctl hello decode capture.pcapng       each hello in a capture of port 9971
  provctl hello list pc11.corp.example      when it said one, and from where
  provctl hello export pc11.corp.example --out hello.bin`
	return cmd
}

func (p *program) helloDecode() *cobra.Command {
	return &cobra.Command{
		Use: "decode FILE", Short: "Read a recorded hello; needs no daemon", Args: cobra.ExactArgs(1),
		Long: "Read a recorded hello, whatever a tool made of it: its bytes, hexadecimal digits, a dump of xxd, hexdump, od or Wireshark, a list of 0x01,\n" +
			"base64, or each hello of a pcap or pcapng file. What it was taken for is said. - reads standard input. Known roots are named.",
		RunE: func(_ *cobra.Command, args []string) error {
			raw, err := p.readHello(args[0])
			if err != nil {
				return err
			}
			all, err := api.DecodeHellos(raw)
			if err != nil {
				return &exitError{exitFailed, fmt.Errorf("%s: %w", args[0], err)}
			}
			if p.json {
				if len(all) == 1 {
					return p.printJSON(all[0])
				}
				return p.printJSON(all)
			}
			for i, d := range all {
				if i > 0 {
					p.say("\n")
				}
				p.printHello(d)
			}
			return nil
		},
	}
}

func (p *program) printHello(d api.HelloDecoded) {
	var t table
	t.row("taken for", d.Form)
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
}

func (p *program) helloList() *cobra.Command {
	limit := 0
	cmd := &cobra.Command{
		Use: "list DEVICE", Short: "The hellos of a device that are kept, newest first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := p.keptHellos(cmd, args[0], limit)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l.Hellos)
			}
			if len(l.Hellos) == 0 {
				fmt.Fprintf(p.err, "no hello of %s is kept\n", l.UUID)
				return nil
			}
			var t table
			t.row("ID", "AT", "FROM", "VIA", "RETRY", "HASHES")
			for _, h := range l.Hellos {
				via := h.Via
				if h.Peer != "" {
					via += " " + h.Peer
				}
				t.row(fmt.Sprint(h.ID), when(&h.At), h.From, via, fmt.Sprint(h.Retry), fmt.Sprint(h.Hashes))
			}
			t.print(clean{p.out})
			return nil
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 0, "at most so many (0: 100)")
	return cmd
}

func (p *program) helloShow() *cobra.Command {
	id := int64(0)
	cmd := &cobra.Command{
		Use: "show DEVICE", Short: "The last hello of a device in words", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, raw, err := p.keptHello(cmd, args[0], id)
			if err != nil {
				return err
			}
			all, err := api.DecodeHellos(raw)
			if err != nil {
				return &exitError{exitFailed, fmt.Errorf("hello %d: %w", h.ID, err)}
			}
			all[0].Form = fmt.Sprintf("hello %d of %s from %s", h.ID, when(&h.At), h.From)
			if p.json {
				return p.printJSON(all[0])
			}
			p.printHello(all[0])
			return nil
		},
	}
	helloID(cmd, &id)
	return cmd
}

func (p *program) helloExport() *cobra.Command {
	id, file := int64(0), ""
	cmd := &cobra.Command{
		Use: "export DEVICE --out FILE", Short: "Write the last hello of a device to a file, as its bytes", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usage("--out: which file is to hold the hello?")
			}
			h, raw, err := p.keptHello(cmd, args[0], id)
			if err != nil {
				return err
			}
			out, err := newFile("--out", file)
			if err != nil {
				return err
			}
			if err := out.write(raw); err != nil {
				return &exitError{exitFailed, err}
			}
			p.say("hello %d of %s, %d bytes, written to %s\n", h.ID, when(&h.At), len(raw), file)
			return nil
		},
	}
	helloID(cmd, &id)
	cmd.Flags().StringVar(&file, "out", "", "the new `FILE`")
	return cmd
}

func helloID(cmd *cobra.Command, id *int64) {
	cmd.Flags().Int64Var(id, "id", 0, "another one than the last, by its ID in provctl hello list")
}

func (p *program) keptHellos(cmd *cobra.Command, device string, limit int) (api.KeptHellos, error) {
	c, err := p.client()
	if err != nil {
		return api.KeptHellos{}, err
	}
	return c.Hellos(cmd.Context(), device, limit)
}

// keptHello is one of them; id 0 is the last.
func (p *program) keptHello(cmd *cobra.Command, device string, id int64) (api.KeptHello, []byte, error) {
	limit := 1
	if id != 0 {
		limit = 1000
	}
	l, err := p.keptHellos(cmd, device, limit)
	if err != nil {
		return api.KeptHello{}, nil, err
	}
	for _, h := range l.Hellos {
		if id == 0 || h.ID == id {
			raw, err := hex.DecodeString(h.Hex)
			return h, raw, err
		}
	}
	if id != 0 {
		return api.KeptHello{}, nil, &exitError{exitFailed, fmt.Errorf("hello %d is not kept of %s; provctl hello list %s shows which are", id, l.UUID, l.UUID)}
	}
	return api.KeptHello{}, nil, &exitError{exitFailed, fmt.Errorf("no hello of %s is kept", l.UUID)}
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
		return nil, &exitError{exitFailed, fmt.Errorf("%s is longer than %d MiB: cut it down to the hellos, such as tcpdump -r FILE -w SMALL port 9971", name, maxHello>>20)}
	}
	return b, nil
}
