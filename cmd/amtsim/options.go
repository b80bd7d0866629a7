package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs"
)

// mix is one of each generation, so that a fleet of any size is as varied as
// the field.
var mix = []string{"3.2", "5", "6", "7", "9", "11", "12", "15", "16", "18"}

// deviceOptions are the flags every command that makes devices shares.
type deviceOptions struct {
	server, base, personality, suffix, mebxSuffix string
	trust, hashes                                 []string
	faults                                        string
	faultRate                                     float64
	seed                                          uint64
	port                                          uint16
	latency, restart                              time.Duration
	scale                                         float64
	lenient, split                                bool
	neverAsk                                      bool
}

func (o *deviceOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.server, "server", "127.0.0.1:9971", "host:port that takes hellos")
	f.StringVar(&o.base, "base", "127.20.0.1", "address of the first device; the others count up from it")
	f.StringVar(&o.personality, "personality", "mix", "generations, divided by commas; mix: one of each in turn; all: the variants too")
	f.StringVar(&o.suffix, "suffix", "lab.example", "domain the devices got from DHCP option 15")
	f.StringVar(&o.mebxSuffix, "mebx-suffix", "", "domain typed in MEBx; goes before DHCP's")
	f.StringArrayVar(&o.trust, "trust", nil, "a `FILE` of root certificates the devices trust, in any form that an import takes (repeat)")
	f.StringArrayVar(&o.trust, "pfx-root", nil, "the same as --trust")
	f.StringArrayVar(&o.hashes, "root-hash", nil, "hash of a root the devices trust, such as sha256:c3846b… (repeat)")
	f.StringVar(&o.faults, "faults", "", "faults by name, such as drop_reply:CommitChanges,cut_before:SetMEBxPassword#2,refuse:AddCertificate=2058")
	f.Float64Var(&o.faultRate, "fault-rate", 0.05,
		"chance at each request of what firmware does on a good day too: a stale nonce, a connection closed after the answer, an answer "+
			"in odd pieces or a slow one; 0: none. What loses a call is asked for by name: --faults rate=0.05")
	f.Uint64Var(&o.seed, "seed", 1, "makes the UUIDs and the random faults; the same seed makes the same fleet")
	f.Uint16Var(&o.port, "port", sim.DefaultPort, "TLS port of the devices")
	f.DurationVar(&o.latency, "latency", 0, "before every answer of a device")
	f.DurationVar(&o.restart, "restart", 200*time.Millisecond, "how long a device's network is gone after a commit")
	f.Float64Var(&o.scale, "scale", 0.05, "multiplies the pauses between hellos; firmware's first pause is a minute")
	f.BoolVar(&o.lenient, "lenient", false, "take what third parties send: hexadecimal DigestPassword, and a host name already known")
	f.BoolVar(&o.split, "split-hello", false, "send each hello one byte a segment")
	_ = f.MarkHidden("pfx-root")
}

// personalities resolves --personality to a list to go round.
func (o *deviceOptions) personalities() ([]string, error) {
	switch o.personality {
	case "mix", "":
		return mix, nil
	case "all":
		return sim.Personalities(), nil
	}
	names := strings.Split(o.personality, ",")
	for i, n := range names {
		names[i] = strings.TrimSpace(n)
		if _, err := sim.LookupPersonality(names[i]); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// devices builds n devices; none is started.
func (o *deviceOptions) devices(ctx context.Context, n int) ([]*sim.Device, error) {
	names, err := o.personalities()
	if err != nil {
		return nil, err
	}
	roots, err := o.roots(ctx)
	if err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddr(o.base)
	if err != nil || !addr.Is4() {
		return nil, fmt.Errorf("--base %q: want an IPv4 address such as 127.20.0.1", o.base)
	}
	faults, err := o.misbehaviour()
	if err != nil {
		return nil, err
	}
	list := make([]*sim.Device, 0, n)
	for i := range n {
		cfg := sim.Config{
			UUID: o.uuid(i), Personality: names[i%len(names)], Addr: addr, Port: o.port, Suffix: o.suffix, MEBxSuffix: o.mebxSuffix,
			Roots: roots, Latency: o.latency, Restart: o.restart, Faults: faults, LenientDigest: o.lenient, SplitHello: o.split,
		}
		if o.neverAsk {
			cfg.Tune = func(p *sim.Personality) { p.AsksDigest = false }
		}
		if o.lenient {
			cfg.HostName = fmt.Sprintf("amt-%04d", i+1)
		}
		d, err := sim.New(cfg)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
		addr = nextAddress(addr)
	}
	return list, nil
}

// misbehaviour is what --faults, --fault-rate and --seed make of the devices.
func (o *deviceOptions) misbehaviour() (sim.Faults, error) {
	f, err := sim.ParseFaults(o.faults)
	if err != nil {
		return f, err
	}
	if o.faultRate < 0 || o.faultRate > 1 {
		return f, fmt.Errorf("--fault-rate %v: want a rate between 0 and 1", o.faultRate)
	}
	if f.Seed == 0 {
		f.Seed = o.seed
	}
	f.Nuisance = o.faultRate
	return f, nil
}

// behave makes quiet devices the default, where handshakes and requests count.
func (o *deviceOptions) behave(f *pflag.FlagSet) {
	o.faultRate = 0
	f.Lookup("fault-rate").DefValue = "0"
}

// mischief says what to expect of the devices, and how to have it again.
func (o *deviceOptions) mischief() string {
	if o.faultRate == 0 {
		return fmt.Sprintf("the devices behave (--fault-rate 0), seed %d", o.seed)
	}
	return fmt.Sprintf("the devices are a nuisance at %g %% of the requests, seed %d: --fault-rate 0 makes them behave, --seed %d these "+
		"again", 100*o.faultRate, o.seed, o.seed)
}

// uuid is the same for the same seed, base address and number.
func (o *deviceOptions) uuid(i int) amt.UUID {
	sum := sha256.Sum256(fmt.Appendf(nil, "amtsim %d %s %d", o.seed, o.base, i))
	u := amt.UUID(sum[:16])
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return u
}

// nextAddress skips .0 and .255, which some programs take for networks.
func nextAddress(a netip.Addr) netip.Addr {
	for {
		a = a.Next()
		if last := a.As4()[3]; last != 0 && last != 255 {
			return a
		}
	}
}

// roots collects the hashes of every certificate trusted, all three ways; of a
// file with self-signed ones these alone. Each generation keeps those it understands.
func (o *deviceOptions) roots(ctx context.Context) ([]amt.TrustHash, error) {
	var all []amt.TrustHash
	for _, file := range o.trust {
		f, err := certs.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--trust: %w", err)
		}
		list, err := certs.Authorities(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("--trust: %w", err)
		}
		roots := slices.DeleteFunc(slices.Clone(list), func(c *x509.Certificate) bool { return !bytes.Equal(c.RawIssuer, c.RawSubject) })
		if len(roots) == 0 {
			roots = list
		}
		for _, c := range roots {
			all = append(all, amt.HashesOf(c.Raw)...)
		}
	}
	for _, s := range o.hashes {
		var h amt.TrustHash
		if err := h.UnmarshalText([]byte(s)); err != nil {
			return nil, fmt.Errorf("--root-hash: %w", err)
		}
		if len(h.Sum) != h.Algorithm.Size() {
			return nil, fmt.Errorf("--root-hash %s: want %d hexadecimal digits", s, 2*h.Algorithm.Size())
		}
		all = append(all, h)
	}
	return all, nil
}

func personalitiesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "personalities", Short: "List the generations and their variants", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range sim.Personalities() {
				p, err := sim.LookupPersonality(name)
				if err != nil {
					return err
				}
				in := ""
				if slices.Contains(mix, name) {
					in = "  in mix"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%-14s AMT %-16s TLS %s to %s, %d hashes%s\n", name, p.Version, tlsName(p.MinTLS),
					tlsName(p.MaxTLS), len(p.Hashes), in)
			}
			return nil
		},
	}
}

func tlsName(v uint16) string { return fmt.Sprintf("1.%d", v-0x0301) }
