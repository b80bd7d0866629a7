package doctor

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

const (
	clockOdd   = 2 * time.Second
	clockWrong = 30 * time.Second
	// A program cannot run before it was written.
	notBefore = 1767225600 // 2026-01-01
)

// clock compares this machine's clock with NTP, and where no server is
// configured with whatever else knows the time. Devices are given this clock,
// and a wrong one makes good certificates look bad.
func (v *visit) clock(ctx context.Context) []Check {
	const name = "clock"
	const keep = "let something keep the clock: timedatectl set-ntp true, or chronyd"
	status, said := Pass, []string{}
	hint := ""
	note := func(s Status, text string) {
		status = worse(status, s)
		said = append(said, text)
		if s != Pass {
			hint = keep
		}
	}
	if v.now.Unix() < notBefore {
		note(Fail, "the clock says "+v.now.UTC().Format(time.DateOnly)+", which is before this program was made")
	}
	synced, known := kernelSynced()
	if v.c.NTP != "" {
		offset, err := askNTP(ctx, v.c.NTP)
		if err != nil {
			status, hint = worse(status, Warn), "is UDP 123 open from here to "+v.c.NTP+"?"
			said = append(said, fmt.Sprintf("the clock could not be compared: %v", err))
		} else {
			v.measure(func(m *Measures) { m.Offset = offset })
			note(judgeOffset(offset), fmt.Sprintf("%s by %s", offsetWords(offset), v.c.NTP))
		}
	} else if known && !synced {
		status = worse(status, Warn)
		said = append(said, "nothing keeps this clock right as far as the kernel knows, and doctor.ntp names no server to compare with")
		hint = keep + "; doctor.ntp: pool.ntp.org lets the doctor compare"
	} else if known {
		said = append(said, "the kernel says that the clock is kept right; doctor.ntp names no server to compare with")
	} else {
		said = append(said, "doctor.ntp names no server to compare with")
	}
	if s, _ := v.survey(); s.Problem == nil {
		if !s.Clock.IsZero() {
			if d := s.Clock.Sub(v.now); d.Abs() > clockWrong {
				note(Fail, offsetWords(d)+" by the database's clock")
			}
		}
		if !s.Newest.IsZero() && s.Newest.Sub(v.now) > clockWrong {
			note(Fail, fmt.Sprintf("the newest event is of %s, which lies in the future: this clock went back",
				s.Newest.UTC().Format(time.RFC3339)))
		}
	}
	return one(name, status, hint, "%s", strings.Join(said, "; "))
}

func judgeOffset(d time.Duration) Status {
	switch {
	case d.Abs() > clockWrong:
		return Fail
	case d.Abs() > clockOdd:
		return Warn
	}
	return Pass
}

func offsetWords(d time.Duration) string {
	switch {
	case d.Abs() < time.Second:
		return fmt.Sprintf("the clock is right to %d ms", max(d.Abs().Milliseconds(), 1))
	case d > 0:
		return "the clock is " + d.Round(time.Second).String() + " slow"
	}
	return "the clock is " + (-d).Round(time.Second).String() + " fast"
}

// askNTP asks one server once (RFC 4330). The offset is what has to be added to
// our clock.
func askNTP(ctx context.Context, server string) (time.Duration, error) {
	if _, _, err := net.SplitHostPort(server); err != nil {
		server = net.JoinHostPort(strings.Trim(server, "[]"), "123")
	}
	var last error
	for range 2 {
		tctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		d, err := sntp(tctx, server)
		cancel()
		if err == nil {
			return d, nil
		}
		last = err
	}
	return 0, fmt.Errorf("%s: %w", server, short(last))
}

func sntp(ctx context.Context, server string) (time.Duration, error) {
	c, err := new(net.Dialer).DialContext(ctx, "udp", server)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	_ = c.SetDeadline(end)
	q := make([]byte, 48)
	q[0] = 4<<3 | 3 // version 4, client
	// Our time of sending comes back as it was, so it may be any number that
	// nobody else knows.
	if _, err := rand.Read(q[40:48]); err != nil {
		return 0, err
	}
	sent := time.Now()
	if _, err := c.Write(q); err != nil {
		return 0, err
	}
	b := make([]byte, 512)
	for {
		n, err := c.Read(b)
		if err != nil {
			return 0, err
		}
		got := sent.Add(time.Since(sent)) // the wall clock may step meanwhile
		if n >= 48 && string(b[24:32]) == string(q[40:48]) {
			return readNTP(b[:n], sent, got)
		}
	}
}

var errNTP = errors.New("the server does not know the time itself")

func readNTP(b []byte, sent, got time.Time) (time.Duration, error) {
	leap, mode, stratum := b[0]>>6, b[0]&7, b[1]
	switch {
	case mode != 4 && mode != 5:
		return 0, errors.New("the answer is not NTP")
	case stratum == 0:
		return 0, fmt.Errorf("the server wants to be left alone (%q)", strings.TrimRight(string(b[12:16]), "\x00"))
	case leap == 3 || stratum > 15:
		return 0, errNTP
	}
	received, answered := ntpTime(b[32:40], got), ntpTime(b[40:48], got)
	return (received.Sub(sent) + answered.Sub(got)) / 2, nil
}

// ntpTime reads seconds since 1900 and their fraction, of the era nearest to
// near: the count starts again in 2036.
func ntpTime(b []byte, near time.Time) time.Time {
	const to1970 = 2208988800
	seconds := int64(binary.BigEndian.Uint32(b)) - to1970
	nanos := int64(binary.BigEndian.Uint32(b[4:])) * 1e9 >> 32
	for near.Unix()-seconds > 1<<31 {
		seconds += 1 << 32
	}
	return time.Unix(seconds, nanos)
}
