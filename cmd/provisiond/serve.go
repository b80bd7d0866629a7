package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server"
	"github.com/provisiond/provisiond/store"
	"github.com/provisiond/provisiond/store/seal"
)

func newServe() *cobra.Command {
	cmd := &cobra.Command{Use: "serve", Short: "Take hellos and set devices up", Args: cobra.NoArgs,
		Long: "Takes hellos on hello.listen, connects back to each device and sets it up.\nIt runs until SIGINT or SIGTERM; a second one " +
			"ends at once, and nothing is lost by that."}
	given := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		collectSeldom()
		path, flags := given()
		cfg, _, err := loadConfig(cmd.Context(), cmd.ErrOrStderr(), path, flags)
		if err != nil {
			return err
		}
		log, err := newLogger(cfg.Log, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		defer func() { _ = log.Sync() }()
		o, err := options(cmd.Context(), cfg, log)
		if err != nil {
			return err
		}
		if err := activated(&o); err != nil {
			return err
		}
		s, err := server.New(o)
		if err != nil {
			return err
		}
		return supervised(cmd.Context(), s, log)
	}
	return cmd
}

// newLogger writes one line per fact to w.
func newLogger(cfg Log, w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(cfg.Level)
	if err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey, enc.EncodeTime, enc.EncodeDuration = "time", zapcore.RFC3339NanoTimeEncoder, zapcore.StringDurationEncoder
	var e zapcore.Encoder
	if cfg.Format == "console" {
		enc.EncodeTime, enc.EncodeLevel = zapcore.TimeEncoderOfLayout("2006-01-02 15:04:05.000"), zapcore.CapitalLevelEncoder
		e = zapcore.NewConsoleEncoder(enc)
	} else {
		e = zapcore.NewJSONEncoder(enc)
	}
	core := zapcore.NewCore(e, zapcore.Lock(zapcore.AddSync(w)), level)
	// Equal lines are thinned out, but never a warning or an error.
	calm := zapcore.NewSamplerWithOptions(core, time.Second, 100, 100)
	return zap.New(quiet{Core: core, calm: calm}, zap.AddStacktrace(zapcore.DPanicLevel)), nil
}

// quiet samples what is below warning.
type quiet struct {
	zapcore.Core
	calm zapcore.Core
}

func (q quiet) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.Level < zapcore.WarnLevel {
		return q.calm.Check(e, ce)
	}
	return q.Core.Check(e, ce)
}

func (q quiet) With(f []zapcore.Field) zapcore.Core {
	return quiet{Core: q.Core.With(f), calm: q.calm.With(f)}
}

// options turns the configuration into what the server needs: files read, keys
// opened, certificates checked.
func options(ctx context.Context, cfg Config, log *zap.Logger) (server.Options, error) {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return server.Options{}, fmt.Errorf("data_dir: %w", err)
	}
	keys, err := keyring(ctx, cfg)
	if err != nil {
		return server.Options{}, err
	}
	files := certs.WithBudget(ctx)
	list, force, err := provisioningCertificates(files, cfg, log)
	if err != nil {
		return server.Options{}, err
	}
	o := server.Options{
		Version: buildVersion(), Revision: revision(), Node: cfg.Node.Name,
		DataDir: cfg.DataDir, DatabaseURL: string(cfg.Database.URL), MaxConns: cfg.Database.MaxConnections,
		SlowQuery: cfg.Database.SlowQuery, Keys: keys,
		HelloListen: string(cfg.Hello.Listen), PlainOff: !cfg.Hello.Plain, ProxyFrom: cfg.Hello.ProxyFrom, Relays: cfg.Hello.Relays,
		ReadTimeout: cfg.Hello.ReadTimeout,
		Limits:      cfg.Hello.Limits.limits(),
		APIListen:   string(cfg.API.Listen), APIConnections: cfg.API.Connections, APIPerSource: cfg.API.ConnectionsPerSource,
		Console: cfg.API.Console, RevealsHour: cfg.API.RevealsPerHour, Sessions: cfg.API.SessionLifetime,
		Certificates: list, Force: force, CheckCertificate: checkCertificate,
		IssuerNetworks: cfg.Provisioning.IssuerNetworks,
		Networks:       cfg.Provisioning.Networks, Admission: admission(cfg), Reprovision: reprovision(cfg),
		Profile: cfg.Provisioning.Profile.profile(),
		Workers: cfg.Provisioning.Workers, AttemptTimeout: cfg.Provisioning.AttemptTimeout, CallTimeout: cfg.Provisioning.CallTimeout,
		MinTLS: tlsVersion(cfg.Provisioning.MinTLS), Retry: cfg.Provisioning.Retry.schedule(), Attempts: cfg.Provisioning.Retry.Attempts,
		Drain:             cfg.Node.Drain,
		MaintainPerMinute: orNone(cfg.Maintenance.PerMinute), MaintainAtOnce: cfg.Maintenance.AtOnce,
		MaintainCanary: orNone(cfg.Maintenance.Canary), MaintainContact: orNone(cfg.Maintenance.Contact),
		SecondApprover: cfg.Jobs.SecondApprover, SecondApproverAbove: cfg.Jobs.SecondApproverAbove,
		KeepHellos: cfg.Retention.Hellos, KeepEvents: cfg.Retention.Events, KeepRuns: cfg.Retention.Runs,
		Zones: cfg.Zones, OtherDomains: cfg.Provisioning.OtherDomains, ConstrainCA: cfg.Provisioning.ConstrainCA,
		Registry: prometheus.NewRegistry(), NativeHistograms: cfg.Metrics.NativeHistograms, OTLPEndpoint: cfg.Tracing.OTLPEndpoint,
		Log:    log,
		Doctor: doctorConfig(cfg, force), DoctorInterval: cfg.Doctor.Interval,
	}
	admissionOptions(cfg.Provisioning, &o)
	if err := odca(files, cfg.Provisioning.ODCA, log, &o); err != nil {
		return o, err
	}
	if o.Lookup, err = lookup(files, cfg.Provisioning.Names, cfg.Provisioning.Resolvers); err != nil {
		return o, err
	}
	if err := tlsFiles(ctx, cfg, log, &o); err != nil {
		return o, err
	}
	return o, nil
}

// keyring opens the master key; without any setting it lives in data_dir.
func keyring(ctx context.Context, cfg Config) (*seal.Keyring, error) {
	master, err := seal.Load(ctx, masterKeySource(cfg))
	if err != nil {
		return nil, err
	}
	return seal.New(master)
}

func masterKeySource(cfg Config) seal.Source {
	src := seal.Source{File: string(cfg.MasterKey.File), Env: cfg.MasterKey.Env, Credential: cfg.MasterKey.Credential,
		Command: cfg.MasterKey.Exec}
	if src.File == "" && src.Env == "" && src.Credential == "" && len(src.Command) == 0 {
		src.File, src.Create = filepath.Join(cfg.DataDir, "master.key"), true
	}
	return src
}

// provisioningCertificates loads every PFX. One that no device could accept is
// an error at once, with its sentence; what is merely odd is said and used.
func provisioningCertificates(ctx context.Context, cfg Config, log *zap.Logger) (list []*certs.Provisioning, force map[string]bool,
	err error) {
	force = map[string]bool{}
	var errs []error
	for _, c := range cfg.Provisioning.Certificates {
		p, err := certs.LoadFile(ctx, string(c.PFX), string(c.PasswordFile), time.Now())
		if err != nil {
			errs = append(errs, certificateError(string(c.PFX), err))
			continue
		}
		if c.Force {
			force[p.ID] = true
		}
		for _, f := range p.Findings {
			field := []zap.Field{zap.String("file", string(c.PFX)), zap.String("certificate", p.Name), zap.String("reason", string(f.Code)),
				zap.String("detail", f.Detail)}
			switch f.Severity {
			case certs.SeverityError:
				errs = append(errs, certificateError(string(c.PFX), reason.Because(f.Code, "%s", f.Detail)))
			case certs.SeverityWarn:
				log.Warn("cert.finding", field...)
			default:
				log.Info("cert.finding", field...)
			}
		}
		if p.Usable() {
			list = append(list, p)
			log.Info("cert.loaded", zap.String("certificate", p.Name), zap.String("id", p.ID), zap.Int("paths", len(p.Paths)),
				zap.Time("not_after", p.Leaf.NotAfter))
		}
	}
	return list, force, errors.Join(errs...)
}

func certificateError(file string, err error) error {
	code := reason.CertInputInvalid
	var re *reason.Error
	if errors.As(err, &re) {
		code = re.Code
	}
	e := reason.Of(code)
	text := fmt.Sprintf("provisioning.certificates: %s: %s: %v", file, code, err)
	if len(e.Fix) > 0 {
		text += "; " + e.Fix[0]
	}
	return errors.New(text)
}

func newMigrate() *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Bring the database's schema up to date and end", Args: cobra.NoArgs}
	given := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, flags := given()
		cfg, _, err := loadConfig(cmd.Context(), cmd.ErrOrStderr(), path, flags)
		if err != nil {
			return err
		}
		log, err := newLogger(cfg.Log, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
			return fmt.Errorf("data_dir: %w", err)
		}
		keys, err := keyring(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		db, err := store.Open(cmd.Context(), store.Options{URL: string(cfg.Database.URL), Dir: cfg.DataDir, Keys: keys, Log: log})
		if err != nil {
			return err
		}
		defer db.Close()
		fmt.Fprintf(cmd.OutOrStdout(), "%s: schema %d\n", db.Engine(), db.SchemaVersion())
		return nil
	}
	return cmd
}

func newHealth() *cobra.Command {
	cmd := &cobra.Command{Use: "health", Short: "Ask the daemon on this machine whether it is ready; exit 1 when not", Args: cobra.NoArgs}
	given := configFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, flags := given()
		cfg, _, problems := Load(cmd.Context(), path, os.Environ(), flags)
		if err := refuse(cmd.ErrOrStderr(), withoutTLSFiles(problems)); err != nil {
			return err
		}
		base, client, err := ownDaemon(cmd.Context(), cfg, 5*time.Second)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, base+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("no answer: is the daemon running? %w", err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(res.Body, 16<<10))
		if res.StatusCode != http.StatusOK {
			fmt.Fprint(cmd.ErrOrStderr(), string(body))
			return errSilent
		}
		fmt.Fprint(cmd.OutOrStdout(), string(body))
		return nil
	}
	return cmd
}

// orNone tells a 0 of the configuration, which means none, from one that nobody
// wrote.
func orNone[T int | time.Duration](v T) T {
	if v == 0 {
		return -1
	}
	return v
}
