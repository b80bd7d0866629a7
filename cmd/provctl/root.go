package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
)

func (p *program) rootCommand() *cobra.Command {
	var n api.NewRoot
	var file string
	return group("root", "A root of one's own, for fleets that can use no public CA",
		verb[api.OwnRoot]{
			use: "create [--name NAME]", short: "Make the root; its key never leaves the server", show: p.sayRoot,
			flags: func(f *pflag.FlagSet) { f.StringVar(&n.Name, "name", "", "its common `NAME`, which MEBx shows") },
			ask:   func(ctx context.Context, c *api.Client, _ []string) (api.OwnRoot, error) { return c.CreateRoot(ctx, n) },
		}.command(p),
		verb[api.OwnRoot]{
			use: "export [--out FILE]", short: "The root's certificate (PEM) and its hashes",
			flags: func(f *pflag.FlagSet) { outFlag(f, &file, "the certificate") },
			ask:   none((*api.Client).Root), out: &file,
			bytes: func(r api.OwnRoot) []byte { return []byte(r.PEM) },
			show: func(r api.OwnRoot) {
				if file == "" {
					p.say("%s", r.PEM)
				}
				p.sayRoot(r)
			},
		}.command(p),
		p.rootIssue(), p.rootSetupBin())
}

func (p *program) sayRoot(r api.OwnRoot) {
	p.say("%s, until %s\n", r.Name, day(r.NotAfter))
	p.lines("  %s\n", r.Words)
	p.say("bring its hash into the devices: provctl root setup-bin; issue a certificate: provctl root issue --cn NAME\n")
}

func (p *program) rootIssue() *cobra.Command {
	var cn string
	var san []string
	var n api.NewIssued
	return verb[api.ImportResult]{
		use: "issue --cn NAME [--san NAME]...", short: "Issue a provisioning certificate under the root and import it",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&cn, "cn", "", "the common `NAME`")
			f.StringArrayVar(&san, "san", nil, "a further DNS `NAME`; may be repeated")
			f.IntVar(&n.Days, "days", 1095, "how long it is good for")
		},
		check: func([]string) error {
			if cn == "" {
				return usage("--cn is needed, such as provisionserver.corp.local")
			}
			n.Names = append([]string{cn}, san...)
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.ImportResult, error) {
			return c.IssueCertificate(ctx, n)
		},
		findings: true, show: p.sayImport, status: wouldBeRefused,
	}.command(p)
}

func (p *program) rootSetupBin() *cobra.Command {
	var file, server, current, next, hash, name string
	s := certs.SetupFile{Activate: true}
	cmd := &cobra.Command{
		Use: "setup-bin --out FILE", Short: "Write a setup.bin for a USB key: the root's hash, DNS suffix, server and MEBx password",
		Args: cobra.NoArgs,
		Long: "Write a setup.bin for a USB key, which MEBx reads while the machine starts: the root's hash, PKI DNS suffix,\n" +
			"server and MEBx password. It is made on this machine; the passwords are sent to nobody. They stand readable in the file:\n" +
			"treat the key like a password. What is written is read back and compared. It has not been tried on hardware here.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usage("--out is needed; MEBx looks for the name setup.bin")
			}
			if a, err := netip.ParseAddr(server); err == nil {
				s.ServerAddress = a
			} else {
				s.ServerFQDN = server
			}
			h, err := p.setupHash(cmd.Context(), hash, name)
			if err != nil {
				return err
			}
			s.Hashes = []certs.SetupHash{h}
			was, err := p.onePassword(current, "PROVISIOND_MEBX_CURRENT", "MEBx password now (admin on a new machine)")
			if err != nil {
				return err
			}
			if was == "" {
				was = "admin"
			}
			s.CurrentPassword = amt.NewSecret(was)
			to, err := p.onePassword(next, "PROVISIOND_MEBX_NEW", "MEBx password to set (empty: leave it)")
			if err != nil {
				return err
			}
			if to != "" {
				s.NewPassword = amt.NewSecret(to)
			}
			data, err := s.Encode()
			if err != nil {
				return &exitError{exitFailed, err}
			}
			out, err := newFile("--out", file)
			if err != nil {
				return err
			}
			if err := out.write(data); err != nil {
				return &exitError{exitFailed, err}
			}
			if p.json {
				return p.printJSON(map[string]any{"file": file, "bytes": len(data), "hash": h.Hash.String(), "name": h.Name,
					"suffix": s.DNSSuffix,
					"server": server})
			}
			p.say("%s: %d bytes, read back and compared\n  %s (%s)\n", file, len(data), h.Hash, h.Name)
			p.say("copy it as setup.bin to the top folder of a USB key formatted FAT16 or FAT32, and start the machine from power off\n")
			return nil
		},
	}
	f := cmd.Flags()
	outFlag(f, &file, "it")
	f.StringVar(&s.DNSSuffix, "suffix", "", "the PKI DNS `SUFFIX`, which replaces DHCP option 15 in the certificate check")
	f.StringVar(&server, "server", "", "`NAME` or address of this server, which replaces the name ProvisionServer")
	f.Uint16Var(&s.ServerPort, "port", 0, "the hello `PORT`; 0 leaves it at 9971")
	f.StringVar(&hash, "hash", "", "another root's `HASH`, such as sha256:45140b…, instead of the own root's")
	f.StringVar(&name, "hash-name", "", "what MEBx shows for it")
	f.StringVar(&current, "current-password-file", "", "a `FILE` with the MEBx password now (else PROVISIOND_MEBX_CURRENT, or asked for)")
	f.StringVar(&next, "new-password-file", "", "a `FILE` with the MEBx password to set (else PROVISIOND_MEBX_NEW, or asked for)")
	f.BoolVar(&s.Consume, "consume", false, "the first machine marks the record as used")
	f.BoolVar(&s.Scramble, "scramble", false, "hide the record from the casual eye; it is no encryption")
	f.IntVar(&s.Version, "file-version", 0, "version of the file, 1 to 4; 0 for the newest")
	return cmd
}

// setupHash is the own root's SHA-256, or the one that was typed.
func (p *program) setupHash(ctx context.Context, text, name string) (certs.SetupHash, error) {
	if text == "" {
		c, err := p.client()
		if err != nil {
			return certs.SetupHash{}, err
		}
		r, err := c.Root(ctx)
		if err != nil {
			return certs.SetupHash{}, err
		}
		for _, w := range r.Words {
			if strings.HasPrefix(w, "sha256:") {
				text = w
			}
		}
		if name == "" {
			name = r.Name
		}
	}
	alg, sum, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(sum)
	h := certs.SetupHash{Hash: amt.TrustHash{Sum: raw}, Name: name}
	for _, a := range []amt.HashAlgorithm{amt.SHA1, amt.SHA256, amt.SHA384} {
		if a.String() == strings.ToLower(alg) {
			h.Hash.Algorithm = a
		}
	}
	if err != nil || h.Hash.Algorithm.Size() != len(raw) || len(raw) == 0 {
		return h, usage("--hash %q: want sha256: and 64 hexadecimal digits", text)
	}
	if h.Name == "" {
		h.Name, _ = certs.RootName(h.Hash)
	}
	if h.Name == "" {
		h.Name = fmt.Sprintf("root %x", raw[:4])
	}
	h.Name = h.Name[:min(len(h.Name), 32)]
	return h, nil
}
