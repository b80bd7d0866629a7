package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
)

func (p *program) consoleCertificateCommand() *cobra.Command {
	cmd := group("console-certificate", "Client certificates with which other consoles come through the mutual TLS of devices", p.consoleIssue(), p.consoleList(), p.consoleRevoke())
	cmd.Aliases = []string{"console-certificates"}
	return cmd
}

func (p *program) consoleIssue() *cobra.Command {
	var csr, cert, key string
	n := api.NewConsoleCertificate{}
	cmd := &cobra.Command{
		Use: "issue --name NAME (--key FILE | --csr FILE) --out FILE", Short: "Issue a client certificate for another console", Args: cobra.NoArgs,
		Long: "Issue a client certificate of the device CA for another console. Its key is made on this machine, in a new file, or stays\n" +
			"where it is when a certificate request is given; the server never has it. A device with mutual TLS lets it in when the\n" +
			"name, or an end of it, is in its profile's trusted_cn, or when that is empty; it wants a password as well.\n" +
			fmt.Sprintf("It is good for %d days at most: devices hear of no revocation.", api.MostConsoleDays),
		Example: "  provctl console-certificate issue --name console.corp.example.com --for \"the help desk\" --key console.key --out console.pem\n" +
			"  openssl s_client -connect 10.20.3.7:16993 -cert console.pem -cert_chain console.pem -key console.key",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case n.Name == "":
				return usage("--name is needed: the DNS name of the console, such as console.corp.example.com")
			case cert == "":
				return usage("--out is needed: the new file for the certificate")
			case (csr == "") == (key == ""):
				return usage("give --key, a new file for a key that is made here, or --csr, a request whose key is elsewhere")
			}
			request, keyFile, err := p.consoleRequest(csr, key)
			if err != nil {
				return err
			}
			n.CSR = string(request)
			c, out, err := p.clientAndFile(cert)
			if err != nil {
				return keyFile.drop(err)
			}
			r, err := c.IssueConsoleCertificate(cmd.Context(), n)
			if err != nil {
				return keyFile.drop(out.drop(err))
			}
			if err := out.write([]byte(r.PEM)); err != nil {
				return &exitError{exitFailed, err}
			}
			if p.json {
				return p.printJSON(r)
			}
			p.say("console certificate %d, %s: written to %s\n%s\n", r.ID, r.Name, cert, r.Said)
			return nil
		},
	}
	cmd.Flags().StringVar(&n.Name, "name", "", "the DNS `NAME` of the console")
	cmd.Flags().StringVar(&csr, "csr", "", "a certificate request (PEM) in a `FILE`")
	cmd.Flags().StringVar(&key, "key", "", "make a key here and write it to a new `FILE`")
	cmd.Flags().StringVar(&cert, "out", "", "write the certificate and the device CA behind it to a new `FILE`")
	cmd.Flags().IntVar(&n.Days, "days", 90, "how long it is good for")
	cmd.Flags().StringVar(&n.IssuedTo, "for", "", "`WORDS` for who has it, kept in the list")
	return cmd
}

// consoleRequest reads a request, or makes a key and one for it. A key's file is
// written before anything is asked for, so that no certificate lacks its key.
func (p *program) consoleRequest(csr, key string) ([]byte, *outFile, error) {
	if csr != "" {
		f, err := certs.ReadFile(csr)
		if err != nil {
			return nil, nil, unusable("--csr: %w", err)
		}
		request, err := certs.ConsoleRequest(p.ctx, f)
		if err != nil {
			return nil, nil, unusable("--csr: %w", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request.Raw}), nil, nil
	}
	made, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(made)
	if err != nil {
		return nil, nil, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "console"}}, made)
	if err != nil {
		return nil, nil, err
	}
	file, err := newFile("--key", key)
	if err != nil {
		return nil, nil, err
	}
	if err := file.write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, nil, &exitError{exitFailed, file.drop(err)}
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}), file, nil
}

func (p *program) consoleList() *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use: "list", Short: "Client certificates that other consoles got: who has them, and until when", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.client()
			if err != nil {
				return err
			}
			l, err := c.ConsoleCertificates(cmd.Context(), all)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(l)
			}
			var t table
			t.row("ID", "NAME", "FOR", "MADE BY", "CREATED", "UNTIL", "REVOKED", "BY")
			for _, r := range l.Certificates {
				t.row(strconv.FormatInt(r.ID, 10), r.Name, dash(r.IssuedTo), r.CreatedBy, when(r.CreatedAt), when(r.NotAfter), when(r.RevokedAt), dash(r.RevokedBy))
			}
			t.print(p.out)
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "those that have ended too")
	return cmd
}

func (p *program) consoleRevoke() *cobra.Command {
	why := ""
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "Note that a console's certificate is not to be used any more, and say what it still opens", Args: cobra.ExactArgs(1),
		Long: "Note that a console's certificate is not to be used any more. Devices hear nothing of it: firmware gets no list of revoked\n" +
			"certificates from this server, so that the certificate opens their TLS until it ends. The answer says which devices that\n" +
			"are, and what shuts it out sooner.",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil || id < 1 {
				return usage("%q is not the id of a console certificate; provctl console-certificate list has them", args[0])
			}
			c, err := p.client()
			if err != nil {
				return err
			}
			r, err := c.RevokeConsoleCertificate(cmd.Context(), id, why)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(r)
			}
			p.say("console certificate %d, %s: revoked; %s\n", r.ID, r.Name, r.Said)
			return nil
		},
	}
	cmd.Flags().StringVar(&why, "reason", "", "`WORDS` for why, kept in the list and the audit")
	return cmd
}

func (p *program) deviceCACommand() *cobra.Command {
	return group("device-ca", "The authority that signs the devices' own certificates", p.deviceCAExport())
}

func (p *program) deviceCAExport() *cobra.Command {
	var file string
	der := false
	cmd := &cobra.Command{
		Use: "export [--out FILE] [--der]", Short: "Its certificate, PEM or DER, and the fingerprint: what other tools check devices with", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if der && file == "" {
				return usage("--der needs --out: the bytes are not for a terminal")
			}
			c, out, err := p.clientAndFile(file)
			if err != nil {
				return err
			}
			ca, err := c.DeviceCA(cmd.Context())
			if err != nil {
				return out.drop(err)
			}
			data := []byte(ca.PEM)
			if der {
				block, _ := pem.Decode(data)
				if block == nil {
					return out.drop(&exitError{exitFailed, fmt.Errorf("the server's answer holds no certificate")})
				}
				data = block.Bytes
			}
			if err := out.write(data); err != nil {
				return &exitError{exitFailed, err}
			}
			if p.json {
				return p.printJSON(ca)
			}
			if out == nil {
				p.say("%s", ca.PEM)
			}
			p.say("%s, until %s\nsha256 %s\nthis server logs in at devices as %s\n", ca.Name, ca.NotAfter.Format("2006-01-02"), ca.SHA256, ca.Server)
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "out", "", "write the certificate to a new `FILE`")
	cmd.Flags().BoolVar(&der, "der", false, "write DER instead of PEM")
	return cmd
}
