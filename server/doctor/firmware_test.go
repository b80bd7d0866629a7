package doctor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
)

const deviceUUID = "7f0c1d2e-3344-4556-8778-99aabbccddee"

// TestADeviceFindsTheServerAndIsManaged is the whole road with real parts but
// for the silicon: a machine without an address asks a real DHCP server, looks
// up ProvisionServer with the suffix of option 15 at the DNS server of option 6,
// leaves its hello on port 9971, and the real daemon connects back to 16993.
func TestADeviceFindsTheServerAndIsManaged(t *testing.T) {
	t.Parallel()
	l := newNetLab(t)
	l.zoneServer(ourRecord)
	l.resolver("--dhcp-range=10.77.0.100,10.77.0.150,1h", "--dhcp-option=15,"+labZone)
	config := l.configure("")
	l.start("server", "server.ready", program(t, "provisiond"), nil, "serve", "--config", config)
	l.join("device", "")

	said := l.boot("device")
	if !strings.Contains(said, "operational") || !strings.Contains(said, "ProvisionServer."+labZone+" is "+labServer) {
		t.Fatalf("the device said:\n%s", said)
	}
	out, err := l.command("server", program(t, "provctl"), "--token-file", l.dir+"/data/admin.token", "--json", "device", "show",
		deviceUUID).Output()
	if err != nil {
		t.Fatalf("provctl device show: %v %s", err, out)
	}
	// The device is operational before the daemon has read it back.
	var shown struct{ Lifecycle, Suffix string }
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if err := json.Unmarshal(out, &shown); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if shown.Lifecycle == "provisioned" || time.Now().After(deadline) {
			break
		}
		if out, err = l.command("server", program(t, "provctl"), "--token-file", l.dir+"/data/admin.token", "--json", "device", "show",
			deviceUUID).Output(); err != nil {
			t.Fatal(err)
		}
	}
	if shown.Lifecycle != "provisioned" || shown.Suffix != labZone {
		t.Errorf("the daemon says %+v: %s", shown, out)
	}

	// The doctor beside the running daemon sees the same, the device's report too.
	r, exit := l.doctor(config, "--device", addressOf(t, said))
	want(t, checkOf(t, r, "listener"), Pass, []string{"hellos can be left at 10.77.0.10:9971"}, nil)
	want(t, checkOf(t, r, "database"), Pass, []string{"in use by process", "read beside it"}, nil)
	want(t, checkOf(t, r, "suffixes"), Pass, []string{"1 device", labZone, "suffix"}, nil)
	want(t, checkOf(t, r, "dhcp:eth0"), Pass, nil, nil)
	want(t, checkOf(t, r, "device:"+addressOf(t, said)), Pass, []string{"TCP and TLS"}, nil)
	if exit == 2 {
		t.Errorf("the doctor fails on a site where all is well: %+v", r)
	}
}

// TestADeviceWithTheWrongSuffixFindsNobody is the same machine on a network
// whose option 15 names another domain.
func TestADeviceWithTheWrongSuffixFindsNobody(t *testing.T) {
	t.Parallel()
	l := newNetLab(t)
	l.zoneServer(ourRecord)
	l.resolver("--dhcp-range=10.77.0.100,10.77.0.150,1h", "--dhcp-option=15,other.example.net")
	l.join("device", "")
	if said := l.boot("device"); !strings.Contains(said, "nobody at ProvisionServer.other.example.net") {
		t.Errorf("the device said:\n%s", said)
	}
}

// boot runs this test binary as the device's firmware inside its machine, until
// the device is operational or gives up; it stays there until the test ends.
func (l *netLab) boot(role string) string {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	roots, err := json.Marshal(labRoots())
	if err != nil {
		l.t.Fatal(err)
	}
	c := l.command(role, self)
	c.Env = append(os.Environ(), "DOCTOR_TEST_DEVICE="+string(roots))
	out, err := c.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	// The device ends by itself in time, so this does too.
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if lines.Text() == "operational" {
			break
		}
	}
	return said.String()
}

func addressOf(t *testing.T, said string) string {
	t.Helper()
	for line := range strings.Lines(said) {
		if a, ok := strings.CutPrefix(strings.TrimSpace(line), "address "); ok {
			return a
		}
	}
	t.Fatalf("the device has no address:\n%s", said)
	return ""
}

// bootDevice is the life of one device in setup mode, as firmware lives it.
func bootDevice() int {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if err := firmware(ctx); err != nil {
		fmt.Println("stopped:", err)
		return 1
	}
	return 0
}

func firmware(ctx context.Context) error {
	var roots []amt.TrustHash
	if err := json.Unmarshal([]byte(os.Getenv("DOCTOR_TEST_DEVICE")), &roots); err != nil {
		return err
	}
	addr, o, err := lease(ctx, "eth0")
	if err != nil {
		return fmt.Errorf("DHCP: %w", err)
	}
	fmt.Println("address", addr)
	if out, err := exec.Command("ip", "addr", "add", addr.String()+"/24", "dev", "eth0").CombinedOutput(); err != nil {
		return fmt.Errorf("take the address: %w: %s", err, out)
	}
	if len(o.DNS) == 0 || len(o.Domains) == 0 {
		return errors.New("no DNS server or no option 15: firmware has nowhere to look")
	}
	// As the firmware spells it; the bytes of option 15 are taken as they are.
	suffix := string(o.Domains[0])
	name := "ProvisionServer." + suffix
	a, err := askDNS(ctx, netip.AddrPortFrom(o.DNS[0], 53), name, dnsmessage.TypeA)
	if err != nil {
		return fmt.Errorf("look up %s: %w", name, err)
	}
	found, _, _, _ := addressesIn(a, name)
	if len(found) == 0 {
		return fmt.Errorf("nobody at %s", name)
	}
	fmt.Println(name, "is", found[0])
	uuid, err := amt.ParseUUID(deviceUUID)
	if err != nil {
		return err
	}
	d, err := sim.New(sim.Config{UUID: uuid, Personality: "11", Addr: addr, Suffix: suffix, Roots: roots})
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Start(); err != nil {
		return err
	}
	if err := d.Run(ctx, net.JoinHostPort(found[0].String(), "9971"), 0.05); err != nil {
		return err
	}
	fmt.Println("operational")
	<-ctx.Done() // it stays, to be read back and looked at
	return nil
}

// lease takes an address: DISCOVER, OFFER, REQUEST, ACK.
func lease(ctx context.Context, iface string) (netip.Addr, offer, error) {
	nic, err := net.InterfaceByName(iface)
	if err != nil {
		return netip.Addr{}, offer{}, err
	}
	c, err := listenDHCP(ctx, iface)
	if err != nil {
		return netip.Addr{}, offer{}, err
	}
	defer c.Close()
	base := []dhcpOption{{optionClientID, append([]byte{1}, nic.HardwareAddr...)},
		{optionParameters, []byte{optionMask, optionRouter, optionDNS, optionDomain}}}
	m := dhcpMessage{ID: 0x414d5431, Broadcast: true, Hardware: nic.HardwareAddr}
	m.Options = append([]dhcpOption{{optionType, []byte{dhcpDiscover}}}, base...)
	got, err := exchangeDHCP(ctx, c, m, dhcpOffer)
	if err != nil {
		return netip.Addr{}, offer{}, fmt.Errorf("discover: %w", err)
	}
	server, _ := got.get(optionServer)
	m.Options = append([]dhcpOption{{optionType, []byte{dhcpRequest}}, {optionServer, server}, {optionAddress, got.Your.AsSlice()}},
		base...)
	if got, err = exchangeDHCP(ctx, c, m, dhcpAck); err != nil {
		return netip.Addr{}, offer{}, fmt.Errorf("request: %w", err)
	}
	return got.Your, offerOf(got, netip.Addr{}), nil
}

func exchangeDHCP(ctx context.Context, c net.PacketConn, m dhcpMessage, kind byte) (dhcpMessage, error) {
	b := make([]byte, 4096)
	for ctx.Err() == nil {
		if _, err := c.WriteTo(m.encode(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return m, err
		}
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		for {
			n, _, err := c.ReadFrom(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return m, err
			}
			if got, err := parseDHCP(b[:n]); err == nil && got.ID == m.ID && got.kind() == kind {
				return got, nil
			}
		}
	}
	return m, ctx.Err()
}
