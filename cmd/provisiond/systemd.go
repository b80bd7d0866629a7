package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/server"
)

// activated takes over the sockets systemd opened for us (sd_listen_fds):
// named hello and api, or in that order.
func activated(o *server.Options) error {
	pid, n := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if n == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return nil
	}
	count, err := strconv.Atoi(n)
	if err != nil || count < 1 || count > 16 {
		return fmt.Errorf("LISTEN_FDS is %q, not a number of sockets", n)
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, v := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(v)
	}
	for i := range count {
		const first = 3
		syscall.CloseOnExec(first + i)
		f := os.NewFile(uintptr(first+i), "socket")
		l, err := net.FileListener(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("socket %d from systemd: %w", i, err)
		}
		name := ""
		if i < len(names) {
			name = names[i]
		}
		switch {
		case name == "hello" || name != "api" && i == 0:
			o.HelloListener = l
		case name == "api" || i == 1:
			o.APIListener = l
		default:
			return errors.Join(fmt.Errorf("systemd gave a socket named %q; hello and api are known", name), l.Close())
		}
	}
	return nil
}

// supervised runs the server and tells systemd: ready, alive, stopping. Outside
// systemd these messages go nowhere.
func supervised(ctx context.Context, s *server.Server, log *zap.Logger) error {
	done := make(chan struct{})
	defer close(done)
	go func() {
		ready := time.NewTicker(100 * time.Millisecond)
		defer ready.Stop()
		for !s.Ready() {
			select {
			case <-done:
				return
			case <-ready.C:
			}
		}
		notify(log, "READY=1")
		watch := watchdog()
		if watch == 0 {
			return
		}
		alive := time.NewTicker(watch / 2)
		defer alive.Stop()
		for {
			select {
			case <-done:
				return
			case <-alive.C:
				notify(log, "WATCHDOG=1")
			}
		}
	}()
	go func() {
		select {
		case <-ctx.Done():
			notify(log, "STOPPING=1")
		case <-done:
		}
	}()
	return s.Run(ctx)
}

// notify sends one datagram to systemd's socket (sd_notify).
func notify(log *zap.Logger, state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	if strings.HasPrefix(name, "@") {
		name = "\x00" + name[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err == nil {
		_, err = c.Write([]byte(state))
		_ = c.Close()
	}
	if err != nil {
		log.Warn("systemd.notify", zap.String("state", state), zap.Error(err))
	}
}

// watchdog is how often systemd wants to hear from us, 0 never.
func watchdog() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || us <= 0 {
		return 0
	}
	return time.Duration(us) * time.Microsecond
}
