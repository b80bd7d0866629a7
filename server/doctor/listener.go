package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// ownAddresses are this machine's, but for loopback and link-local ones, which
// no device could use.
func ownAddresses() []netip.Addr {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range list {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// listening says on which of our addresses the configuration takes hellos.
func (v *visit) listening() (addrs []netip.Addr, port string, err error) {
	host, port, err := net.SplitHostPort(v.c.HelloListen)
	if err != nil {
		return nil, "", err
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	if host == "" {
		return v.own, port, nil
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return nil, port, err
	}
	if a.IsUnspecified() { // Go takes both families on 0.0.0.0 too
		return v.own, port, nil
	}
	return []netip.Addr{a.Unmap()}, port, nil
}

// isOurs reports whether devices that call a reach us.
func (v *visit) isOurs(a netip.Addr) bool {
	addrs, _, _ := v.listening()
	return slices.Contains(addrs, a) || slices.ContainsFunc(v.c.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
}

// announced are the addresses to put into DNS: the configured ones where there
// are any, else where we listen.
func (v *visit) announced() []netip.Addr {
	var out []netip.Addr
	for _, p := range v.c.Addresses {
		if p.IsSingleIP() {
			out = append(out, p.Addr())
		}
	}
	if len(out) == 0 {
		out, _, _ = v.listening()
		out = slices.DeleteFunc(slices.Clone(out), netip.Addr.IsLoopback)
	}
	if len(out) == 0 {
		out = v.own
	}
	if len(out) == 0 {
		out = []netip.Addr{netip.MustParseAddr("192.0.2.10")}
	}
	return out
}

// listener connects to our own hello port as a device would, without leaving
// anything there.
func (v *visit) listener(ctx context.Context) []Check {
	const name = "listener"
	addrs, port, err := v.listening()
	if err != nil {
		return one(name, Fail, "hello: {listen: \"0.0.0.0:9971\"}", "hello.listen %q is not an address and a port", v.c.HelloListen)
	}
	if len(addrs) == 0 {
		return one(name, Warn, "give it an address that devices reach: ip address shows those it has",
			"this machine has no address but loopback")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var open, closed, other []string
	var refused bool
	failures := make([]error, len(addrs))
	var g errgroup.Group
	for i, a := range addrs {
		g.Go(func() error {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(a.String(), port))
			if err == nil {
				err = c.Close()
			}
			failures[i] = err
			return nil
		})
	}
	_ = g.Wait()
	for i, a := range addrs {
		at := net.JoinHostPort(a.String(), port)
		switch err := failures[i]; {
		case err == nil:
			open = append(open, at)
		case errors.Is(err, syscall.ECONNREFUSED):
			refused = true
			closed = append(closed, at)
		default:
			other = append(other, fmt.Sprintf("%s (%v)", at, short(err)))
		}
	}
	hint, status := "", Pass
	var said []string
	if len(open) > 0 {
		said = append(said, "hellos can be left at "+strings.Join(open, ", "))
	}
	switch {
	case len(other) > 0:
		status, hint = Fail, "a packet filter on this machine? TCP "+port+" has to be open for the device networks"
		said = append(said, "no connection to "+strings.Join(other, ", "))
	case refused && len(open) == 0:
		s, d, h := v.couldListen(port)
		return one(name, s, h, "%s", d)
	case refused:
		status, hint = Warn, "hello.listen names one address; devices that are sent to another do not get in"
		said = append(said, "nobody listens on "+strings.Join(closed, ", "))
	}
	if len(addrs) == 1 && addrs[0].IsLoopback() {
		status, hint = worse(status, Warn), "hello: {listen: \"0.0.0.0:9971\"}"
		said = append(said, "that is loopback, which no device can reach")
	}
	if port != "9971" {
		status = worse(status, Warn)
		said = append(said, "firmware knows no other port than 9971; somebody has to translate "+port)
	}
	return one(name, status, hint, "%s", strings.Join(said, "; "))
}

// couldListen says, while no daemon has the port, whether one could.
func (v *visit) couldListen(port string) (Status, string, string) {
	l, err := net.Listen("tcp", v.c.HelloListen)
	if err == nil {
		_ = l.Close()
		return Warn, "nobody listens on " + v.c.HelloListen + "; the port is free and may be opened",
			"provisiond serve, or systemctl start provisiond"
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return Fail, fmt.Sprintf("this user has no right to open %s", v.c.HelloListen),
			"run as the user of the service; a port below 1024 needs AmbientCapabilities=CAP_NET_BIND_SERVICE"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return Fail, fmt.Sprintf("%s is no address of this machine", v.c.HelloListen),
			"hello.listen: 0.0.0.0:" + port + " takes every address"
	}
	return Fail, fmt.Sprintf("%s cannot be opened: %v", v.c.HelloListen, short(err)), "ss -ltnp shows who has the port"
}

// short is the last, plainest part of a network error.
func short(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err
	}
	return err
}
