package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
)

// helloSchedule is a hello a minute for five minutes, every five minutes for an
// hour, and every hour for a day (ConfigMgr's account of it); then the window
// is over.
func helloSchedule(n int) (time.Duration, bool) {
	switch {
	case n < 5:
		return time.Minute, true
	case n < 17:
		return 5 * time.Minute, true
	case n < 40:
		return time.Hour, true
	}
	return 0, false
}

// ErrWindowClosed says that the schedule ended before anybody set the device
// up.
var ErrWindowClosed = errors.New("the setup window is over")

// helloBytes is the PKI hello: all integers little-endian, the UUID in SMBIOS
// order, every active hash.
func (d *Device) helloBytes() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := make([]byte, 0, 1024)
	b = binary.LittleEndian.AppendUint16(b, 1)
	b = binary.LittleEndian.AppendUint16(b, 3)
	b = binary.LittleEndian.AppendUint32(b, d.retries)
	u := d.cfg.UUID.SMBIOS()
	b = append(b, u[:]...)
	count := len(b)
	b = append(b, 0)
	for _, h := range d.now.hashes {
		if h.enabled && b[count] < 255 {
			b[count]++
			b = append(append(b, byte(h.hash.Algorithm), byte(len(h.hash.Sum))), h.hash.Sum...)
		}
	}
	d.retries++
	if d.seen.hellos++; d.seen.hellos == 1 {
		d.seen.firstHello = time.Now()
	}
	return b
}

// SayHello writes one hello to server (host:port) from the device's own
// address, and closes without reading.
func (d *Device) SayHello(ctx context.Context, server string) error {
	dialer := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.cfg.Addr, 0))}
	c, err := dialer.DialContext(ctx, "tcp", server)
	if err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	defer c.Close()
	_ = c.SetWriteDeadline(time.Now().Add(30 * time.Second))
	msg := d.helloBytes()
	step := len(msg)
	if d.cfg.SplitHello {
		step = 1
	}
	for len(msg) > 0 {
		n, err := c.Write(msg[:min(step, len(msg))])
		if err != nil {
			return fmt.Errorf("say hello: %w", err)
		}
		msg = msg[n:]
	}
	return nil
}

// Run says hello on the firmware's schedule, with its pauses multiplied by
// scale, until the device is operational. It returns ErrWindowClosed if the
// schedule ends first; the device is then in factory mode.
func (d *Device) Run(ctx context.Context, server string, scale float64) error {
	for n := 0; ; {
		state, changed := d.State()
		if state == amt.StatePost {
			return nil
		}
		var due <-chan time.Time
		if state == amt.StateIn {
			if err := d.SayHello(ctx, server); err != nil && ctx.Err() == nil {
				d.log.Debug("hello", zap.Error(err)) // the next one may succeed
			}
			pause, more := helloSchedule(n)
			if n++; !more {
				d.closeWindow()
				return ErrWindowClosed
			}
			t := time.NewTimer(time.Duration(float64(pause) * scale))
			defer t.Stop()
			due = t.C
		} else {
			n = 0
		}
		select {
		case <-due:
		case <-changed:
		case <-d.closing:
			return net.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Live says hello whenever the device is in setup mode, after a later
// unprovision too, until ctx ends or somebody closes the device.
func (d *Device) Live(ctx context.Context, server string, scale float64) error {
	for {
		err := d.Run(ctx, server, scale)
		if err != nil && !errors.Is(err, ErrWindowClosed) {
			return err
		}
		_, changed := d.State()
		if state, _ := d.State(); state == amt.StateIn {
			continue
		}
		select {
		case <-changed:
		case <-d.closing:
			return net.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Device) closeWindow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == amt.StateIn {
		d.setState(amt.StatePre)
		d.restart(d.cfg.Restart)
	}
}
