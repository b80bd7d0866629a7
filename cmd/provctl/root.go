package main

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
)

func (p *program) rootCommand() *cobra.Command {
	return group("root", "A root of one's own, for fleets that can use no public CA", p.rootCreate(), p.rootExport(), p.rootIssue(), p.rootSetupBin())
}

func (p *program) rootCreate() *cobra.Command {
	var n api.NewRoot
	cmd := &cobra.Command{
		Use: "create [--name NAME]", Short: "Make the root; its key never leaves the server", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			r, err := c.CreateRoot(cmd.Context(), n)
			if err != nil {
				return err
			}
			return p.printRoot(r)
		},
	}
	cmd.Flags().StringVar(&n.Name, "name", "", "its common `NAME`, which MEBx shows")
	return cmd
}

func (p *program) printRoot(r api.OwnRoot) error {
	if p.json {
		return p.printJSON(r)
	}
	p.say("%s, until %s\n", r.Name, r.NotAfter.Format("2006-01-02"))
	for _, h := range r.Words {
		p.say("  %s\n", h)
	}
	p.say("bring its hash into the devices: provctl root setup-bin; issue a certificate: provctl root issue --cn NAME\n")
	return nil
}

func (p *program) rootExport() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "export [--out FILE]", Short: "The root's certificate (PEM) and its hashes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, out, err := p.clientAndFile(file)
			if err != nil {
				return err
			}
			r, err := c.Root(cmd.Context())
			if err != nil {
				return out.drop(err)
			}
			if err := out.write([]byte(r.PEM)); err != nil {
				return &exitError{exitFailed, err}
			}
			if out == nil && !p.json {
				p.say("%s", r.PEM)
			}
			return p.printRoot(r)
		},
	}
	cmd.Flags().StringVar(&file, "out", "", "write the certificate to a new `FILE`")
	return cmd
}

func (p *program) rootIssue() *cobra.Command {
	var cn string
	var san []string
	var n api.NewIssued
	cmd := &cobra.Command{
		Use: "issue --cn NAME [--san NAME]...", Short: "Issue a provisioning certificate under the root and import it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cn == "" {
				return usage("--cn is needed, such as provisionserver.corp.local")
			}
			n.Names = append([]string{cn}, san...)
			c, err := p.client()
			if err != nil {
				return err
			}
			r, err := c.IssueCertificate(cmd.Context(), n)
			if err != nil {
				return p.withFindings(err)
			}
			return p.printImport(r)
		},
	}
	cmd.Flags().StringVar(&cn, "cn", "", "the common `NAME`")
	cmd.Flags().StringArrayVar(&san, "san", nil, "a further DNS `NAME`; may be repeated")
	cmd.Flags().IntVar(&n.Days, "days", 1095, "how long it is good for")
	return cmd
}

func (p *program) rootSetupBin() *cobra.Command {
	var file, suffix, server, current, next, hash, name string
	f := certs.SetupFile{Activate: true}
	cmd := &cobra.Command{
		Use: "setup-bin --out FILE", Short: "Write a setup.bin for a USB key: the root's hash, DNS suffix, server and MEBx password", Args: cobra.NoArgs,
		Long: "Write a setup.bin for a USB key, which MEBx reads while the machine starts: the root's hash, PKI DNS suffix,\n" +
			"server and MEBx password. It is made on this machine; the passwords are sent to nobody. They stand readable in the file:\n" +
			"treat the key like a password. What is written is read back and compared. It has not been tried on hardware here.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usage("--out is needed; MEBx looks for the name setup.bin")
			}
			f.DNSSuffix = suffix
			if a, err := netip.ParseAddr(server); err == nil {
				f.ServerAddress = a
			} else {
				f.ServerFQDN = server
			}
			h, err := p.setupHash(cmd, hash, name)
			if err != nil {
				return err
			}
			f.Hashes = []certs.SetupHash{h}
			was, err := p.onePassword(current, "PROVISIOND_MEBX_CURRENT", "MEBx password now (admin on a new machine)")
			if err != nil {
				return err
			}
			if was == "" {
				was = "admin"
			}
			to, err := p.onePassword(next, "PROVISIOND_MEBX_NEW", "MEBx password to set (empty: leave it)")
			if err != nil {
				return err
			}
			f.CurrentPassword = amt.NewSecret(was)
			if to != "" {
				f.NewPassword = amt.NewSecret(to)
			}
			data, err := f.Encode()
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
				return p.printJSON(map[string]any{"file": file, "bytes": len(data), "hash": h.Hash.String(), "name": h.Name, "suffix": suffix, "server": server})
			}
			p.say("%s: %d bytes, read back and compared\n  %s (%s)\n", file, len(data), h.Hash, h.Name)
			p.say("copy it as setup.bin to the top folder of a USB key formatted FAT16 or FAT32, and start the machine from power off\n")
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&file, "out", "", "write it to a new `FILE`")
	fl.StringVar(&suffix, "suffix", "", "the PKI DNS `SUFFIX`, which replaces DHCP option 15 in the certificate check")
	fl.StringVar(&server, "server", "", "`NAME` or address of this server, which replaces the name ProvisionServer")
	fl.Uint16Var(&f.ServerPort, "port", 0, "the hello `PORT`; 0 leaves it at 9971")
	fl.StringVar(&hash, "hash", "", "another root's `HASH`, such as sha256:45140b…, instead of the own root's")
	fl.StringVar(&name, "hash-name", "", "what MEBx shows for it")
	fl.StringVar(&current, "current-password-file", "", "a `FILE` with the MEBx password now (else PROVISIOND_MEBX_CURRENT, or asked for)")
	fl.StringVar(&next, "new-password-file", "", "a `FILE` with the MEBx password to set (else PROVISIOND_MEBX_NEW, or asked for)")
	fl.BoolVar(&f.Consume, "consume", false, "the first machine marks the record as used")
	fl.BoolVar(&f.Scramble, "scramble", false, "hide the record from the casual eye; it is no encryption")
	fl.IntVar(&f.Version, "file-version", 0, "version of the file, 1 to 4; 0 for the newest")
	return cmd
}

// setupHash is the own root's SHA-256, or the one that was typed.
func (p *program) setupHash(cmd *cobra.Command, text, name string) (certs.SetupHash, error) {
	if text == "" {
		c, err := p.client()
		if err != nil {
			return certs.SetupHash{}, err
		}
		r, err := c.Root(cmd.Context())
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
	if len(h.Name) > 32 {
		h.Name = h.Name[:32]
	}
	return h, nil
}
