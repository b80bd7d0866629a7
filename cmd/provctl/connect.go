package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt/typed"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
)

// client is the way to the daemon, with a token.
func (p *program) client() (*api.Client, error) {
	token, err := p.token()
	if err != nil {
		return nil, err
	}
	c, err := p.open()
	if err != nil {
		return nil, err
	}
	c.Token = token
	return c, nil
}

// open is the way to the daemon without a token.
func (p *program) open() (*api.Client, error) {
	u, err := url.Parse(p.address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, unusable("--address %q: want a URL such as http://127.0.0.1:8080", p.address)
	}
	t := &http.Transport{ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	if p.ca != "" {
		f, err := certs.ReadFile(p.ca)
		if err != nil {
			return nil, unusable("--ca: %w", err)
		}
		list, err := certs.Authorities(p.ctx, f)
		if err != nil {
			return nil, unusable("--ca: %w", err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		for _, c := range list {
			t.TLSClientConfig.RootCAs.AddCert(c)
		}
	}
	return &api.Client{Base: strings.TrimRight(p.address, "/"), HTTP: &http.Client{Transport: t}}, nil
}

// token finds the token: never in an argument, which every user of the machine sees.
func (p *program) token() (string, error) {
	if p.tokenFile == "" {
		if t := os.Getenv("PROVISIOND_TOKEN"); t != "" {
			p.tokenFrom = "the variable PROVISIOND_TOKEN"
			return strings.TrimSpace(t), nil
		}
	}
	candidates := []string{p.tokenFile}
	if p.tokenFile == "" {
		candidates = defaultTokenFiles()
	}
	for _, name := range candidates {
		text, err := os.ReadFile(name)
		text, _ = typed.Text(text)
		switch {
		case err == nil && strings.TrimSpace(string(text)) == "":
			return "", &exitError{exitAuth, fmt.Errorf("the token file %s is empty", name)}
		case err == nil:
			p.tokenFrom = name
			return strings.TrimSpace(string(text)), nil
		case errors.Is(err, fs.ErrPermission):
			return "", &exitError{exitAuth, fmt.Errorf("the token file %s may not be read by this user; run as the daemon's user or "+
				"root, or use a token of your own with --token-file", name)}
		case p.tokenFile != "":
			return "", &exitError{exitAuth, fmt.Errorf("--token-file: %w", err)}
		}
	}
	return "", &exitError{exitAuth, fmt.Errorf("no token: looked for %s; the daemon writes it to admin.token in its data_dir, name it "+
		"with --token-file", strings.Join(candidates, " and "))}
}

// defaultTokenFiles is where the local daemon writes its first token.
func defaultTokenFiles() []string {
	if dir := os.Getenv("PROVISIOND_DATA_DIR"); dir != "" {
		return []string{filepath.Join(dir, "admin.token")}
	}
	files := []string{filepath.Join(api.DefaultDataDir(), "admin.token")}
	for _, dir := range []string{"data", "/var/lib/provisiond"} {
		if name := filepath.Join(dir, "admin.token"); name != files[0] {
			files = append(files, name)
		}
	}
	return files
}

func (p *program) tokenHint() string {
	if p.tokenFrom == "" {
		return "name the file of a token with --token-file"
	}
	return "the token came from " + p.tokenFrom + "; is it of the daemon at " + p.address + "? Name another with --token-file"
}
