package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
)

func (p *program) consoleCertificateCommand() *cobra.Command {
	all := false
	cmd := group("console-certificate", "Client certificates with which other consoles come through the mutual TLS of devices",
		p.consoleIssue(),
		verb[api.ConsoleCertificateList]{
			use: "list", short: "Client certificates that other consoles got: who has them, and until when",
			flags: func(f *pflag.FlagSet) { f.BoolVar(&all, "all", false, "those that have ended too") },
			ask: func(ctx context.Context, c *api.Client, _ []string) (api.ConsoleCertificateList, error) {
				return c.ConsoleCertificates(ctx, all)
			},
			show: func(l api.ConsoleCertificateList) {
				rows(p, "ID|NAME|FOR|MADE BY|CREATED|UNTIL|REVOKED|BY", l.Certificates, func(r api.ConsoleCertificate) []any {
					return []any{r.ID, r.Name, r.IssuedTo, r.CreatedBy, r.CreatedAt, r.NotAfter, r.RevokedAt, r.RevokedBy}
				})
			},
		}.command(p),
		p.consoleRevoke())
	cmd.Aliases = []string{"console-certificates"}
	return cmd
}

func (p *program) consoleIssue() *cobra.Command {
	var csr, cert, key string
	var made *outFile // of --key
	n := api.NewConsoleCertificate{}
	return verb[api.ConsoleCertificateIssued]{
		use: "issue --name NAME (--key FILE | --csr FILE) --out FILE", short: "Issue a client certificate for another console",
		long: "Issue a client certificate of the device CA for another console. Its key is made on this machine, in a new file, or " +
			"stays\n" +
			"where it is when a certificate request is given; the server never has it. A device with mutual TLS lets it in when the\n" +
			"name, or an end of it, is in its profile's trusted_cn, or when that is empty; it wants a password as well.\n" +
			fmt.Sprintf("It is good for %d days at most: devices hear of no revocation.", api.MostConsoleDays),
		example: "  provctl console-certificate issue --name console.corp.example.com --for \"the help desk\" --key console.key --out " +
			"console.pem\n" +
			"  openssl s_client -connect 10.20.3.7:16993 -cert console.pem -cert_chain console.pem -key console.key",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&n.Name, "name", "", "the DNS `NAME` of the console")
			f.StringVar(&csr, "csr", "", "a certificate request (PEM) in a `FILE`")
			f.StringVar(&key, "key", "", "make a key here and write it to a new `FILE`")
			outFlag(f, &cert, "the certificate and the device CA behind it")
			f.IntVar(&n.Days, "days", 90, "how long it is good for")
			f.StringVar(&n.IssuedTo, "for", "", "`WORDS` for who has it, kept in the list")
		},
		check: func([]string) error {
			switch {
			case n.Name == "":
				return usage("--name is needed: the DNS name of the console, such as console.corp.example.com")
			case cert == "":
				return usage("--out is needed: the new file for the certificate")
			case (csr == "") == (key == ""):
				return usage("give --key, a new file for a key that is made here, or --csr, a request whose key is elsewhere")
			}
			request, file, err := p.consoleRequest(csr, key)
			n.CSR, made = string(request), file
			return err
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.ConsoleCertificateIssued, error) {
			return c.IssueConsoleCertificate(ctx, n)
		},
		out:   &cert,
		undo:  func() { _ = made.drop(nil) },
		bytes: func(r api.ConsoleCertificateIssued) []byte { return []byte(r.PEM) },
		show: func(r api.ConsoleCertificateIssued) {
			p.say("console certificate %d, %s: written to %s\n%s\n", r.ID, r.Name, cert, r.Said)
		},
	}.command(p)
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

func (p *program) consoleRevoke() *cobra.Command {
	why := ""
	return verb[api.ConsoleCertificateRevoked]{
		use: "revoke ID", short: "Note that a console's certificate is not to be used any more, and say what it still opens",
		args: number("the id of a console certificate; provctl console-certificate list has them"),
		long: "Note that a console's certificate is not to be used any more. Devices hear nothing of it: firmware gets no list of " +
			"revoked\n" +
			"certificates from this server, so that the certificate opens their TLS until it ends. The answer says which devices that\n" +
			"are, and what shuts it out sooner.",
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&why, "reason", "", "`WORDS` for why, kept in the list and the audit")
		},
		ask: func(ctx context.Context, c *api.Client, args []string) (api.ConsoleCertificateRevoked, error) {
			return c.RevokeConsoleCertificate(ctx, idOf(args[0]), why)
		},
		show: func(r api.ConsoleCertificateRevoked) {
			p.say("console certificate %d, %s: revoked; %s\n", r.ID, r.Name, r.Said)
		},
	}.command(p)
}

func (p *program) deviceCACommand() *cobra.Command {
	var file string
	var data []byte // of the file
	der := false
	return group("device-ca", "The authority that signs the devices' own certificates", verb[api.DeviceCA]{
		use: "export [--out FILE] [--der]", short: "Its certificate, PEM or DER, and the fingerprint: what other tools check devices with",
		flags: func(f *pflag.FlagSet) {
			outFlag(f, &file, "the certificate")
			f.BoolVar(&der, "der", false, "write DER instead of PEM")
		},
		check: func([]string) error {
			if der && file == "" {
				return usage("--der needs --out: the bytes are not for a terminal")
			}
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.DeviceCA, error) {
			ca, err := c.DeviceCA(ctx)
			data = []byte(ca.PEM)
			if err == nil && der {
				block, _ := pem.Decode(data)
				if block == nil {
					return ca, failed("the server's answer holds no certificate")
				}
				data = block.Bytes
			}
			return ca, err
		},
		out: &file, bytes: func(api.DeviceCA) []byte { return data },
		show: func(ca api.DeviceCA) {
			if file == "" {
				p.say("%s", ca.PEM)
			}
			p.say("%s, until %s\nsha256 %s\nthis server logs in at devices as %s\n", ca.Name, day(ca.NotAfter), ca.SHA256, ca.Server)
		},
	}.command(p))
}
