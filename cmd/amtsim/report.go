package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
)

// fleetReport is what a run leaves behind. Digests stand where secrets would.
type fleetReport struct {
	Devices       int            `json:"devices"`
	Operational   int            `json:"operational"`
	Managed       int            `json:"managed"` // operational, and an admin has logged in since
	ElapsedMS     int64          `json:"elapsed_ms"`
	LastManagedMS int64          `json:"last_managed_ms"`
	PerSecond     float64        `json:"managed_per_second"` // from the first hello to the last device managed
	P50MS         int64          `json:"managed_after_p50_ms"`
	P99MS         int64          `json:"managed_after_p99_ms"`
	MaxConcurrent int            `json:"max_concurrent"` // over one device
	FaultRate     float64        `json:"fault_rate"`
	Seed          uint64         `json:"seed"`
	FaultsFired   map[string]int `json:"faults_fired"`
	List          []deviceReport `json:"list"`
}

type deviceReport struct {
	UUID               amt.UUID `json:"uuid"`
	Address            string   `json:"address"`
	Personality        string   `json:"personality"`
	Version            string   `json:"version"`
	State              string   `json:"state"`
	OperationalAfterMS int64    `json:"operational_after_ms"` // from its first hello; -1: never
	ManagedAfterMS     int64    `json:"managed_after_ms"`
	Hellos             int      `json:"hellos"`
	Commits            int      `json:"commits"`
	Connections        int      `json:"connections"`
	Handshakes         int      `json:"handshakes"`
	BadHandshakes      int      `json:"bad_handshakes"`
	Requests           int      `json:"requests"`
	MaxConcurrent      int      `json:"max_concurrent"`
	MaxInFlight        int      `json:"max_in_flight"`
	LoginsOK           int      `json:"logins_ok"`
	LoginsFailed       int      `json:"logins_failed"`
	PowerCycles        int      `json:"power_cycles"`
	TLS                bool     `json:"tls"`
	HostName           string   `json:"host_name"`
	AdminDefault       bool     `json:"admin_default"`
	MEBxDefault        bool     `json:"mebx_default"`
	AdminSHA256        string   `json:"admin_ha1_sha256"`      // SHA-256 of the hex HA1 in force
	MEBxSHA256         string   `json:"mebx_sha256"`           // SHA-256 of the MEBx password in force
	AdminSeenSHA256    []string `json:"admin_ha1_seen_sha256"` // of every one ever received
	MEBxSeenSHA256     []string `json:"mebx_seen_sha256"`
	Refusals           []string `json:"refusals,omitempty"`
	Faults             []string `json:"faults,omitempty"`
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func digests(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = digest(s)
	}
	return out
}

func since(from, to time.Time) int64 {
	if from.IsZero() || to.IsZero() {
		return -1
	}
	return to.Sub(from).Milliseconds()
}

func reportOf(d *sim.Device) deviceReport {
	s, secret := d.Snapshot(), d.Secrets()
	return deviceReport{
		UUID: s.UUID, Address: d.Addr().String(), Personality: s.Personality, Version: s.Version.String(), State: s.State.String(),
		OperationalAfterMS: since(s.FirstHello, s.Operational), ManagedAfterMS: since(s.FirstHello, s.Managed),
		Hellos: s.Hellos, Commits: s.Commits, Connections: s.Connections, Handshakes: s.Handshakes, BadHandshakes: s.BadHandshakes,
		Requests: s.Requests, MaxConcurrent: s.MaxConcurrent, MaxInFlight: s.MaxInFlight, LoginsOK: s.LoginsOK,
		LoginsFailed: s.LoginsFailed,
		PowerCycles:  s.PowerCycles, TLS: s.TLSEnabled, HostName: s.HostName, AdminDefault: s.AdminDefault, MEBxDefault: s.MEBxDefault,
		AdminSHA256: digest(secret.AdminHA1), MEBxSHA256: digest(secret.MEBx),
		AdminSeenSHA256: digests(secret.AdminSeen), MEBxSeenSHA256: digests(secret.MEBxSeen),
		Refusals: s.Refusals, Faults: s.FaultsFired,
	}
}

func (f *fleet) report() *fleetReport {
	r := &fleetReport{Devices: len(f.devices), ElapsedMS: time.Since(f.began).Milliseconds(), FaultsFired: map[string]int{}}
	var after []int64
	var first, last time.Time
	for _, d := range f.devices {
		one := reportOf(d)
		r.List = append(r.List, one)
		r.MaxConcurrent = max(r.MaxConcurrent, one.MaxConcurrent)
		for _, f := range one.Faults {
			kind, _, _ := strings.Cut(f, " at ")
			r.FaultsFired[kind]++
		}
		b := d.Brief()
		if first.IsZero() || !b.FirstHello.IsZero() && b.FirstHello.Before(first) {
			first = b.FirstHello
		}
		if b.State != amt.StatePost {
			continue
		}
		r.Operational++
		if one.ManagedAfterMS >= 0 {
			r.Managed++
			after = append(after, one.ManagedAfterMS)
			if b.Managed.After(last) {
				last = b.Managed
			}
		}
	}
	if len(after) > 0 {
		slices.Sort(after)
		r.P50MS, r.P99MS = after[len(after)/2], after[len(after)*99/100]
		r.LastManagedMS = last.Sub(first).Milliseconds()
		r.PerSecond = float64(len(after)) / max(last.Sub(first).Seconds(), 0.001)
	}
	return r
}

func (r *fleetReport) write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r *fleetReport) writeFile(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := r.write(f); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// table shows each device of a small fleet, and of a large one those that
// failed; then the sums.
func (r *fleetReport) table(w io.Writer) {
	const small = 60
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "DEVICE\tADDRESS\tAMT\tSTATE\tMANAGED AFTER\tCOMMITS\tHANDSHAKES\tAT ONCE\tNOTE")
	for _, d := range r.List {
		if len(r.List) > small && d.ManagedAfterMS >= 0 && d.State == amt.StatePost.String() {
			continue
		}
		took := "-"
		if d.ManagedAfterMS >= 0 {
			took = fmt.Sprintf("%d ms", d.ManagedAfterMS)
		}
		note := ""
		if n := len(d.Refusals); n > 0 {
			note = d.Refusals[n-1]
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", d.UUID, strings.TrimSuffix(d.Address, ":16993"), d.Personality, d.State,
			took, d.Commits, d.Handshakes, d.MaxConcurrent, note)
	}
	_ = tw.Flush()
	if len(r.FaultsFired) > 0 {
		fmt.Fprintf(w, "\nfaults, seed %d:", r.Seed)
		for _, kind := range slices.Sorted(maps.Keys(r.FaultsFired)) {
			fmt.Fprintf(w, " %s %d", kind, r.FaultsFired[kind])
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\n%d of %d operational, %d managed; %.1f devices/s, hello to managed p50 %d ms, p99 %d ms\n",
		r.Operational, r.Devices, r.Managed, r.PerSecond, r.P50MS, r.P99MS)
}

func (f *fleet) writeSecrets(name string) error {
	list := make([]sim.Secrets, len(f.devices))
	for i, d := range f.devices {
		list[i] = d.Secrets()
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(list); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
