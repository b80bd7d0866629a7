package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server"
	"github.com/provisiond/provisiond/server/doctor"
)

// shownFile, in data_dir, holds the certificate that the daemon shows at this
// moment. While the files of api.tls are being replaced, or hold no pair, it is
// how the commands of this machine still know their own daemon.
const shownFile = "api.crt"

// tlsFiles loads the certificate of the API and the authorities of relays, both
// so that they are taken up again when their files are replaced.
func tlsFiles(ctx context.Context, cfg Config, log *zap.Logger, o *server.Options) error {
	var shown []func() doctor.Shown
	if cfg.API.TLS.Cert != "" {
		pair, err := server.NewReplaceable("api.tls", pairFiles(cfg), pairOf(ctx, cfg),
			func(c *tls.Certificate) { leaveShown(cfg, c, log) }, log)
		if err != nil {
			return err
		}
		o.APITLS = pair.Get
		shown = append(shown, func() doctor.Shown { return apiShown(pair.Get(), pair.Wrong()) })
	}
	if file := string(cfg.Hello.ClientCA); file != "" {
		type authorities struct {
			list []*x509.Certificate
			pool *x509.CertPool
		}
		r, err := server.NewReplaceable("hello.client_ca", []string{file}, func(texts [][]byte) (a authorities, err error) {
			a.list, err = certificatesIn(ctx, file, texts[0])
			a.pool = x509.NewCertPool()
			for _, c := range a.list {
				a.pool.AddCert(c)
			}
			return a, err
		}, nil, log)
		if err != nil {
			return err
		}
		o.ClientCAs = func() *x509.CertPool { return r.Get().pool }
		shown = append(shown, func() doctor.Shown { return relaysShown(r.Get().list, r.Wrong()) })
	}
	o.Doctor.TLS = all(shown)
	return nil
}

// tlsFilesNow is what the files hold, for a doctor beside the daemon.
func tlsFilesNow(ctx context.Context, cfg Config) func() []doctor.Shown {
	var shown []func() doctor.Shown
	if cfg.API.TLS.Cert != "" {
		shown = append(shown, func() doctor.Shown {
			texts, err := readAll(pairFiles(cfg))
			if err != nil {
				return apiShown(nil, err)
			}
			return apiShown(pairOf(ctx, cfg)(texts))
		})
	}
	if file := string(cfg.Hello.ClientCA); file != "" {
		shown = append(shown, func() doctor.Shown {
			texts, err := readAll([]string{file})
			if err != nil {
				return relaysShown(nil, err)
			}
			return relaysShown(certificatesIn(ctx, file, texts[0]))
		})
	}
	return all(shown)
}

func all(list []func() doctor.Shown) func() []doctor.Shown {
	return func() (out []doctor.Shown) {
		for _, f := range list {
			out = append(out, f())
		}
		return out
	}
}

func apiShown(pair *tls.Certificate, wrong error) doctor.Shown {
	s := doctor.Shown{Name: "api", Key: "api.tls", Wrong: wrong}
	if pair != nil {
		s.Certificates = []*x509.Certificate{pair.Leaf}
	}
	return s
}

func relaysShown(list []*x509.Certificate, wrong error) doctor.Shown {
	return doctor.Shown{Name: "relays", Key: "hello.client_ca", Certificates: list, Wrong: wrong}
}

func pairFiles(cfg Config) []string {
	return []string{string(cfg.API.TLS.Cert), string(cfg.API.TLS.Key)}
}

func pairOf(ctx context.Context, cfg Config) func(texts [][]byte) (*tls.Certificate, error) {
	return func(texts [][]byte) (*tls.Certificate, error) {
		names := pairFiles(cfg)
		pair, err := certs.Pair(ctx, certs.File{Name: names[0], Data: texts[0]}, certs.File{Name: names[1], Data: texts[1]})
		if err != nil {
			return nil, fmt.Errorf("certificate and key are no pair: %w", err)
		}
		return pair, nil
	}
}

func certificatesIn(ctx context.Context, file string, text []byte) ([]*x509.Certificate, error) {
	return certs.Authorities(ctx, certs.File{Name: file, Data: text})
}

func readAll(files []string) (texts [][]byte, err error) {
	for _, name := range files {
		f, err := certs.ReadFile(name)
		if err != nil {
			return nil, err
		}
		texts = append(texts, f.Data)
	}
	return texts, nil
}

// leaveShown writes shownFile; without it only the commands of this machine are
// the poorer, and only while the files hold no pair.
func leaveShown(cfg Config, pair *tls.Certificate, log *zap.Logger) {
	name := filepath.Join(cfg.DataDir, shownFile)
	err := os.WriteFile(name+".new", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), 0o600)
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		log.Warn("api.shown", zap.Error(err))
	}
	log.Info("api.certificate", zap.String("subject", pair.Leaf.Subject.String()), zap.Strings("names", pair.Leaf.DNSNames),
		zap.Time("not_after", pair.Leaf.NotAfter))
}

// ownLeaves are the certificates by which our daemon is known: the one of
// api.tls, and the one it said it shows.
func ownLeaves(ctx context.Context, cfg Config) (leaves [][]byte, err error) {
	var errs []error
	for _, name := range []string{string(cfg.API.TLS.Cert), filepath.Join(cfg.DataDir, shownFile)} {
		list, err := authorities(ctx, "api.tls.cert", File(name))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		leaves = append(leaves, list[0].Raw) // leaf first, as it is served
	}
	if len(leaves) == 0 {
		return nil, errors.Join(errs...)
	}
	return leaves, nil
}

// withoutTLSFiles leaves out what is wrong with files that are taken up again
// when they are good: a running daemon does not mind, and nor must who asks it.
func withoutTLSFiles(problems []Problem) (rest []Problem) {
	for _, p := range problems {
		switch p.Key {
		case "api.tls.cert", "api.tls.key", "hello.client_ca":
		default:
			rest = append(rest, p)
		}
	}
	return rest
}
