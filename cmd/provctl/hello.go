package main

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/server/api"
)

// maxHello bounds what a hello is looked for in: a capture of a morning.
const maxHello = 64 << 20

func (p *program) helloCommand() *cobra.Command {
	limit := 0
	cmd := group("hello", "Recorded hellos", p.helloDecode(),
		verb[api.KeptHellos]{
			use: "list DEVICE", short: "The hellos of a device that are kept, newest first", args: cobra.ExactArgs(1),
			flags: func(f *pflag.FlagSet) { f.IntVar(&limit, "limit", 0, "at most so many (0: 100)") },
			ask: func(ctx context.Context, c *api.Client, args []string) (api.KeptHellos, error) {
				return c.Hellos(ctx, args[0], limit)
			},
			json: func(l api.KeptHellos) any { return l.Hellos },
			show: func(l api.KeptHellos) {
				if len(l.Hellos) == 0 {
					p.note("no hello of %s is kept\n", l.UUID)
					return
				}
				rows(p, "ID|AT|FROM|VIA|RETRY|HASHES", l.Hellos, func(h api.KeptHello) []any {
					if h.Peer != "" {
						h.Via += " " + h.Peer
					}
					return []any{h.ID, h.At, h.From, h.Via, h.Retry, h.Hashes}
				})
			},
		}.command(p),
		p.helloShow(), p.helloExport())
	cmd.Long = `Recorded hellos: those that lie in a file, and those that the server keeps.

  provctl hello decode capture.pcapng       each hello in a capture of port 9971
  provctl hello list pc11.corp.example      when it said one, and from where
  provctl hello export pc11.corp.example --out hello.bin`
	return cmd
}

func (p *program) helloDecode() *cobra.Command {
	return &cobra.Command{
		Use: "decode FILE", Short: "Read a recorded hello; needs no daemon", Args: cobra.ExactArgs(1),
		Long: "Read a recorded hello, whatever a tool made of it: its bytes, hexadecimal digits, a dump of xxd, hexdump, od or " +
			"Wireshark, a list of 0x01,\n" +
			"base64, or each hello of a pcap or pcapng file. What it was taken for is said. - reads standard input. Known roots are named.",
		RunE: func(_ *cobra.Command, args []string) error {
			raw, err := p.fileUpTo(args[0], maxHello, "cut it down to the hellos, such as tcpdump -r FILE -w SMALL port 9971")
			if err != nil {
				return err
			}
			all, err := decodeHellos(raw)
			switch {
			case err != nil:
				return failed("%s: %w", args[0], err)
			case p.json && len(all) == 1:
				return p.printJSON(all[0])
			case p.json:
				return p.printJSON(all)
			}
			for i, d := range all {
				if i > 0 {
					p.say("\n")
				}
				p.sayHello(d)
			}
			return nil
		},
	}
}

// decodeHellos reads the hellos of a file without a server.
func decodeHellos(raw []byte) ([]api.HelloDecoded, error) {
	found, err := hello.Decode(raw)
	if err != nil {
		return nil, err
	}
	var all []api.HelloDecoded
	for _, m := range found {
		all = append(all, api.HelloDecoded{
			Form: m.Form, Version: int(m.Version), UUID: m.UUID.String(), Retry: int64(m.RetryCount),
			AdminCredentialsSet: m.AdminCredentialsSet, Hashes: api.Roots(m.Hashes),
		})
	}
	return all, nil
}

func (p *program) sayHello(d api.HelloDecoded) {
	p.fields("taken for", d.Form, "version", fmt.Sprintf("%d (%s)", d.Version, map[int]string{2: "PSK", 3: "PKI"}[d.Version]), "uuid",
		d.UUID,
		"retry", d.Retry, "admin credentials set", map[bool]string{true: "yes", false: "no"}[d.AdminCredentialsSet], "hashes",
		len(d.Hashes))
	var t table
	for i, r := range d.Hashes {
		if r.Name == "" {
			r.Name = "(not a known root)"
		}
		t.row(fmt.Sprintf("%4d", i+1), r.Algorithm, r.Hash, r.Name)
	}
	p.print(t)
}

// A keptHello is one of those that the server keeps.
type keptHello struct {
	api.KeptHello
	raw     []byte
	decoded api.HelloDecoded
}

// helloVerb is about one hello of a device: the last, or the one of --id.
func (p *program) helloVerb(v verb[keptHello], decode bool) *cobra.Command {
	id := int64(0)
	more := v.flags
	v.args = cobra.ExactArgs(1)
	v.flags = func(f *pflag.FlagSet) {
		f.Int64Var(&id, "id", 0, "another one than the last, by its ID in provctl hello list")
		if more != nil {
			more(f)
		}
	}
	v.ask = func(ctx context.Context, c *api.Client, args []string) (h keptHello, err error) {
		limit := 1
		if id != 0 {
			limit = 1000
		}
		l, err := c.Hellos(ctx, args[0], limit)
		if err != nil {
			return h, err
		}
		for _, k := range l.Hellos {
			if id == 0 || k.ID == id {
				h.KeptHello = k
				if h.raw, err = hex.DecodeString(k.Hex); err == nil && decode {
					h.decoded, err = decodeHello(k, h.raw)
				}
				return h, err
			}
		}
		if id != 0 {
			return h, failed("hello %d is not kept of %s; provctl hello list %s shows which are", id, l.UUID, l.UUID)
		}
		return h, failed("no hello of %s is kept", l.UUID)
	}
	return v.command(p)
}

func decodeHello(k api.KeptHello, raw []byte) (api.HelloDecoded, error) {
	all, err := decodeHellos(raw)
	if err != nil {
		return api.HelloDecoded{}, failed("hello %d: %w", k.ID, err)
	}
	all[0].Form = fmt.Sprintf("hello %d of %s from %s", k.ID, when(&k.At), k.From)
	return all[0], nil
}

func (p *program) helloShow() *cobra.Command {
	return p.helloVerb(verb[keptHello]{
		use: "show DEVICE", short: "The last hello of a device in words",
		json: func(h keptHello) any { return h.decoded },
		show: func(h keptHello) { p.sayHello(h.decoded) },
	}, true)
}

func (p *program) helloExport() *cobra.Command {
	file := ""
	return p.helloVerb(verb[keptHello]{
		use: "export DEVICE --out FILE", short: "Write the last hello of a device to a file, as its bytes",
		flags: func(f *pflag.FlagSet) { f.StringVar(&file, "out", "", "the new `FILE`") },
		check: func([]string) error {
			if file == "" {
				return usage("--out: which file is to hold the hello?")
			}
			return nil
		},
		out: &file, bytes: func(h keptHello) []byte { return h.raw },
		json: func(h keptHello) any { return h.KeptHello },
		show: func(h keptHello) {
			p.say("hello %d of %s, %d bytes, written to %s\n", h.ID, when(&h.At), len(h.raw), file)
		},
	}, false)
}
