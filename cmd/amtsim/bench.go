package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/certs/certtest"
)

func benchCommand() *cobra.Command {
	c := &cobra.Command{Use: "bench", Short: "Measure a server, or what the least of servers would reach"}
	c.AddCommand(benchHello(), benchProvision(), benchFloor())
	return c
}

func benchHello() *cobra.Command {
	var server, base string
	var count, connections, hashes int
	var seed uint64
	var floor, asJSON, repeat bool
	c := &cobra.Command{
		Use:   "hello",
		Short: "Send many hellos, each from a device of its own; latency is from dialling until the server closes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := deviceOptions{seed: seed, base: base}
			b := helloBench{server: server, count: count, connections: connections, hashes: hashes, one: repeat, uuid: o.uuid}
			var err error
			if b.base, err = netip.ParseAddr(base); err != nil {
				return fmt.Errorf("--base: %w", err)
			}
			var results []helloResult
			if floor {
				r, err := b.floor(cmd.Context())
				if err != nil {
					return err
				}
				results = append(results, r)
			}
			r, err := b.run(cmd.Context(), "server")
			if err != nil {
				return err
			}
			results = append(results, r)
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(results)
			}
			for _, r := range results {
				fmt.Fprintf(cmd.OutOrStdout(), "%-7s %d hellos, %d failed, %.0f/s, p50 %s, p99 %s\n", r.What, r.Hellos, r.Failed,
					r.PerSecond,
					time.Duration(r.P50US)*time.Microsecond, time.Duration(r.P99US)*time.Microsecond)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&server, "server", "127.0.0.1:9971", "host:port that takes hellos")
	f.StringVar(&base, "base", "127.60.0.1", "first source address")
	f.IntVar(&count, "hellos", 10000, "how many")
	f.IntVar(&connections, "connections", 64, "how many at once")
	f.IntVar(&hashes, "hashes", 23, "hashes in each, all unknown to anybody")
	f.Uint64Var(&seed, "seed", 1, "makes the UUIDs")
	f.BoolVar(&repeat, "one-device", false, "all from one device, as duplicates")
	f.BoolVar(&floor, "floor", true, "measure a bare accept, read and close first")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

type helloBench struct {
	server                     string
	base                       netip.Addr
	count, connections, hashes int
	one                        bool
	uuid                       func(int) amt.UUID
}

type helloResult struct {
	What      string  `json:"what"` // floor or server
	Hellos    int     `json:"hellos"`
	Failed    int     `json:"failed"`
	PerSecond float64 `json:"per_second"`
	P50US     int64   `json:"p50_us"`
	P99US     int64   `json:"p99_us"`
}

// run sends the hellos. A hello has failed when it could not be written whole,
// or when the server did not close within ten seconds.
func (b *helloBench) run(ctx context.Context, what string) (helloResult, error) {
	var list []amt.TrustHash
	for i := range b.hashes {
		sum := make([]byte, 32)
		sum[0], sum[31] = byte(i), 0xA5
		list = append(list, amt.TrustHash{Algorithm: amt.SHA256, Sum: sum})
	}
	var sources []netip.Addr
	for a := b.base; len(sources) < 1000; a = nextAddress(a) {
		sources = append(sources, a)
	}
	var next, failed atomic.Int64
	took := make([]time.Duration, b.count)
	var wg sync.WaitGroup
	begin := time.Now()
	for range b.connections {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= b.count {
					return
				}
				m := hello.Message{AdminCredentialsSet: true, Version: hello.VersionPKI, UUID: b.uuid(i), Hashes: list}
				from := sources[i%len(sources)]
				if b.one {
					m.UUID, from, m.RetryCount = b.uuid(0), sources[0], uint32(i)
				}
				t := time.Now()
				if err := oneHello(ctx, b.server, from, m.Encode()); err != nil {
					failed.Add(1)
				}
				took[i] = time.Since(t)
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(begin)
	if err := ctx.Err(); err != nil {
		return helloResult{}, err
	}
	slices.Sort(took)
	return helloResult{
		What: what, Hellos: b.count, Failed: int(failed.Load()), PerSecond: float64(b.count) / elapsed.Seconds(),
		P50US: took[len(took)/2].Microseconds(), P99US: took[len(took)*99/100].Microseconds(),
	}, nil
}

func oneHello(ctx context.Context, server string, from netip.Addr, b []byte) error {
	dialer := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	c, err := dialer.DialContext(ctx, "tcp", server)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(b); err != nil {
		return err
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.CloseWrite()
		_ = t.SetLinger(0) // so that thousands of ports are not left waiting
	}
	_, err = io.Copy(io.Discard, c)
	return err
}

// floor is the same load on a listener that accepts, reads and closes.
func (b *helloBench) floor(ctx context.Context) (helloResult, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return helloResult{}, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			})
		}
	})
	bare := *b
	bare.server = l.Addr().String()
	r, err := bare.run(ctx, "floor")
	_ = l.Close()
	wg.Wait()
	return r, err
}

func benchProvision() *cobra.Command {
	o := &fleetOptions{}
	c := &cobra.Command{
		Use:   "provision",
		Short: "Measure how many devices a server sets up a second, from first hello to first login with the new password",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.quiet = true
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := c.Flags()
	o.flags(f)
	o.behave(f)
	f.IntVar(&o.devices, "devices", 200, "how many")
	f.Float64Var(&o.rate, "rate", 0, "devices that wake up a second; 0: all at once")
	f.DurationVar(&o.timeout, "timeout", 5*time.Minute, "give up after this long")
	f.DurationVar(&o.settle, "settle", time.Second, "stay this long after the last request")
	f.StringVar(&o.report, "report", "", "write a JSON report here")
	f.BoolVar(&o.json, "json", false, "print the report")
	return c
}

func benchFloor() *cobra.Command {
	o := &deviceOptions{}
	var devices, workers, handshakes, trips int
	var asJSON bool
	c := &cobra.Command{
		Use:   "floor",
		Short: "Measure a bare Go client that makes the same handshakes and round trips against the same simulator",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			leaf := certtest.NewLab(time.Now()).Plain("Floor", "provisionserver."+o.suffix)
			o.hashes, o.neverAsk = nil, true // no answer shall end a connection early
			list, err := o.withRoot(cmd.Context(), leaf.Chain()[len(leaf.Chain())-1].Raw, devices)
			if err != nil {
				return err
			}
			defer func() {
				for _, d := range list {
					_ = d.Close()
				}
			}()
			for _, d := range list {
				if err := d.Start(); err != nil {
					return err
				}
			}
			r, err := sim.Floor(cmd.Context(), sim.FloorConfig{Devices: list, Client: leaf.TLS(), Workers: workers, Handshakes: handshakes,
				RoundTrips: trips})
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"what": "floor", "devices": r.Devices,
					"per_second": r.PerSecond,
					"p50_ms":     r.P50.Milliseconds(), "p99_ms": r.P99.Milliseconds(), "handshakes": handshakes, "round_trips": trips})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "floor: %d devices, %d handshakes and %d round trips each: %.1f devices/s, p50 %s, p99 %s\n",
				r.Devices, handshakes, trips, r.PerSecond, r.P50.Round(time.Millisecond), r.P99.Round(time.Millisecond))
			return nil
		},
	}
	f := c.Flags()
	o.flags(f)
	o.behave(f)
	f.IntVar(&devices, "devices", 200, "how many")
	f.IntVar(&workers, "workers", 100, "how many at once")
	f.IntVar(&handshakes, "handshakes", 2, "TLS handshakes a device")
	f.IntVar(&trips, "round-trips", 30, "HTTP round trips a device")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// withRoot builds devices that trust one root besides the factory's.
func (o *deviceOptions) withRoot(ctx context.Context, der []byte, n int) ([]*sim.Device, error) {
	for _, h := range amt.HashesOf(der) {
		o.hashes = append(o.hashes, h.String())
	}
	return o.devices(ctx, n)
}
