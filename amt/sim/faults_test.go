package sim

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/hello/receive"
)

func TestFaultsAreReadFromText(t *testing.T) {
	t.Parallel()
	got, err := ParseFaults("drop_reply:CommitChanges, cut_before:SetMEBxPassword#2,refuse:AddCertificate#all=2058,delay:Put:AMT_TLSSettingData=2s,one_byte_records,rate=0.05,seed=7")
	want := Faults{Rate: 0.05, Seed: 7, List: []Fault{
		{Kind: DropReply, Call: "CommitChanges"}, {Kind: CutBefore, Call: "SetMEBxPassword", Nth: 2},
		{Kind: Refuse, Call: "AddCertificate", All: true, Arg: "2058"}, {Kind: Delay, Call: "Put:AMT_TLSSettingData", Arg: "2s"}, {Kind: OneByte},
	}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, bad := range []string{"explode", "refuse:X", "delay:X=soon", "cut_before#x", "rate=2", "power_cycle=maybe", "nonce_storm=many"} {
		if _, err := ParseFaults(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestEachFaultDoesWhatItsNameSays(t *testing.T) {
	t.Parallel()
	const setMEBx = "SetMEBxPassword"
	for _, row := range []struct {
		fault    string
		applied  bool
		answered bool // with HTTP 200 and a ReturnValue
		status   int  // of HTTP, where there is one
		value    int
	}{
		{"cut_before:" + setMEBx, false, false, 0, 0},
		{"drop_reply:" + setMEBx, true, false, 0, 0},
		{"cut_reply:" + setMEBx, true, false, 200, 0},
		{"garble:" + setMEBx, true, false, 200, 0},
		{"nested_xml:" + setMEBx, true, false, 200, 0},
		{"refuse:" + setMEBx + "=16", false, true, 200, 16},
		{"http_503:" + setMEBx, false, false, 503, 0},
		{"ask_401:" + setMEBx, false, false, 401, 0},
		{"delay:" + setMEBx + "=30ms", true, true, 200, 0},
		{"power_cycle:" + setMEBx + "=keep", true, false, 0, 0},
		{"power_cycle:" + setMEBx, false, false, 0, 0},
		{"late:" + setMEBx + "=1ms", true, false, 0, 0},
		{"one_byte_records", true, true, 200, 0},
		{"cut_before:" + setMEBx + "#2", true, true, 200, 0},
		{"", true, true, 200, 0},
	} {
		t.Run(row.fault, func(t *testing.T) {
			t.Parallel()
			faults, err := ParseFaults(row.fault)
			if err != nil {
				t.Fatal(err)
			}
			d := startDevice(t, Config{Personality: "11", Faults: faults})
			c := newClient(t, d, sharedLab().tls())
			uri := uriOf("AMT_SetupAndConfigurationService")
			status, body, err := c.post(c.envelope("AMT_SetupAndConfigurationService", uri+"/"+setMEBx, "",
				`<r:SetMEBxPassword_INPUT xmlns:r="`+uri+`"><r:Password>`+mebxPassword+`</r:Password></r:SetMEBxPassword_INPUT>`))
			if status != row.status {
				t.Errorf("HTTP %d (%v), want %d", status, err, row.status)
			}
			rv := field1(body, "ReturnValue")
			if got := err == nil && rv != ""; got != row.answered {
				t.Errorf("answered: %t (%v), want %t", got, err, row.answered)
			}
			if row.answered && rv != num(row.value) {
				t.Errorf("ReturnValue %s, want %d", rv, row.value)
			}
			deadline := time.Now().Add(patience)
			for d.AcceptsMEBx(mebxPassword) != row.applied && time.Now().Before(deadline) {
				<-time.After(time.Millisecond)
			}
			s := d.Snapshot()
			if d.AcceptsMEBx(mebxPassword) != row.applied {
				t.Errorf("applied: %t, want %t; changes %v", !row.applied, row.applied, s.Changes)
			}
			if strings.HasPrefix(row.fault, "power_cycle") && s.PowerCycles != 1 {
				t.Errorf("%d power cycles", s.PowerCycles)
			}
		})
	}
}

func TestAWrongRelatesToIsWrong(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Faults: With(Fault{Kind: WrongRelate, Call: "Get"})})
	c := newClient(t, d, sharedLab().tls())
	if got := field1(c.get("AMT_GeneralSettings", ""), "RelatesTo"); got == "1" {
		t.Error("the answer relates to the question")
	}
	if got := field1(c.get("AMT_GeneralSettings", ""), "RelatesTo"); got != "2" {
		t.Errorf("the next answer relates to %s", got)
	}
}

func TestAHangEndsWithTheDevice(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Faults: With(Fault{Kind: Hang, Call: "Get"})})
	c := newClient(t, d, sharedLab().tls())
	done := make(chan error, 1)
	go func() {
		_, _, err := c.post(c.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", ""))
		done <- err
	}()
	for d.Snapshot().Requests == 0 {
		<-time.After(time.Millisecond)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("a hanging device answered")
	}
}

func TestAHugeBodyEndsWhenThePeerHasEnough(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Faults: With(Fault{Kind: HugeBody, Call: "Get"})})
	c := newClient(t, d, sharedLab().tls())
	resp, err := c.http.Post(c.url, "", strings.NewReader(c.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", "")))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	if n, err := resp.Body.Read(buf); n == 0 {
		t.Errorf("nothing came: %v", err)
	}
	_ = resp.Body.Close()
}

func TestCommitThatDoesNothing(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*client, *Device){
		"told so": func(*client, *Device) {},
		"the LMS instance was touched": func(c *client, d *Device) {
			c.put("AMT_TLSSettingData", "InstanceID="+localTLS, "<r:Enabled>true</r:Enabled><r:InstanceID>"+localTLS+"</r:InstanceID>")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Personality: "16", HostName: "pc1"}
			if name == "told so" {
				cfg.Faults = With(Fault{Kind: CommitNoop})
			}
			d := startDevice(t, cfg)
			c := newClient(t, d, sharedLab().tls())
			spoil(c, d)
			c.must("AMT_SetupAndConfigurationService", "CommitChanges", "")
			if state, _ := d.State(); state != amt.StateIn {
				t.Errorf("state %s, want setup", state)
			}
		})
	}
}

func TestNoncesGoStale(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Personality: "9-401", Faults: With(Fault{Kind: NonceStorm, Arg: "2"})})
	c := newClient(t, d, sharedLab().tls())
	c.user, c.password = "admin", "admin"
	for range 12 {
		c.get("AMT_GeneralSettings", "")
	}
	s := d.Snapshot()
	if s.LoginsFailed != 0 || s.Challenges < 4 {
		t.Errorf("%d failed logins and %d challenges, want 0 and 4 or more", s.LoginsFailed, s.Challenges)
	}
}

func TestRandomFaultsEndAfterAWhile(t *testing.T) {
	t.Parallel()
	d := startDevice(t, Config{Faults: Faults{Rate: 1, Seed: 3, Most: 2}})
	c := newClient(t, d, sharedLab().tls())
	for try := range 20 {
		c.challenge = nil
		if status, _, err := c.post(c.envelope("AMT_GeneralSettings", nsXfer+"/Get", "", "")); err == nil && status == 200 && try > 1 {
			if got := len(d.Snapshot().FaultsFired); got != 2 {
				t.Errorf("%d faults fired, want 2", got)
			}
			return
		}
		<-time.After(30 * time.Millisecond)
	}
	t.Error("the device never came right")
}

func TestHelloAsTheParserReadsIt(t *testing.T) {
	t.Parallel()
	for _, split := range []bool{false, true} {
		d := startDevice(t, Config{Personality: "11", SplitHello: split, Roots: []amt.TrustHash{}})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		said := make(chan error, 1)
		go func() { said <- d.SayHello(context.Background(), l.Addr().String()) }()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		m, err := receive.Read(c, 16<<10)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-said; err != nil {
			t.Fatal(err)
		}
		if m.UUID != d.UUID() || m.Version != 3 || m.RetryCount != 0 || !m.AdminCredentialsSet || len(m.Hashes) != len(sha2Roots) {
			t.Errorf("split %t: %+v", split, m)
		}
		if from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); from != d.Addr().Addr() {
			t.Errorf("the hello came from %s, want %s", from, d.Addr().Addr())
		}
	}
}

func TestHellosStopWhenOperational(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	d := startDevice(t, Config{Personality: "12"})
	done := make(chan error, 1)
	go func() { done <- d.Run(context.Background(), l.Addr().String(), 0.0001) }()
	for d.Snapshot().Hellos < 3 {
		<-time.After(time.Millisecond)
	}
	setUp(t, d, sharedLab())
	if err := <-done; err != nil {
		t.Errorf("Run: %v, want nil once operational", err)
	}

	silent := startDevice(t, Config{Personality: "12"})
	if err := silent.Run(context.Background(), l.Addr().String(), 0); err != ErrWindowClosed {
		t.Errorf("Run: %v, want %v", err, ErrWindowClosed)
	}
	if s := silent.Snapshot(); s.State != amt.StatePre || s.Hellos > 41 {
		t.Errorf("state %s after %d hellos", s.State, s.Hellos)
	}
}
