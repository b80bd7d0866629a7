package endtoend

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/sim"
	"github.com/provisiond/provisiond/store/pgtest"
)

// TestBoxARestoredQueueGoesOn: the queue's own table is not in a backup, since it
// says only who should work when; what has to be done is in the runs, which are.
// So a device that waited for its turn when the backup was made is managed after
// the restore, on the other engine, without saying hello again.
func TestBoxARestoredQueueGoesOn(t *testing.T) {
	t.Parallel()
	lite := newSite(t, "")
	bin := program(t, box.daemon)
	phrase := lite.file("phrase", []byte("correct horse battery staple\n"))
	first := lite.serve(nil)
	h := lite.herd()
	var u amt.UUID
	_, _ = rand.Read(u[:])
	dev, err := sim.New(sim.Config{UUID: u, Personality: "11", Addr: h.next, Suffix: "corp.example.com", Roots: lite.roots(),
		Restart: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	// It says hello and answers nobody: its run waits for the next attempt.
	if err := dev.SayHello(t.Context(), first.hello); err != nil {
		t.Fatal(err)
	}
	poll(t, "an attempt that reached nobody", time.Minute, func() bool {
		return first.metric(`provisiond_sessions_finished_total{blame="network",outcome="deferred",reason="device_unreachable"}`) > 0
	})
	file := lite.path("waiting.backup")
	if _, errs, status := command(t, bin, nil, "backup", "create", "--config", lite.cfg, "--out", file, "--passphrase-file",
		phrase); status != 0 {
		t.Fatal(errs)
	}
	first.stop()

	pg := lite.moved(t, "data-pg", pgtest.URL(t))
	if out, errs, status := command(t, bin, nil, "backup", "restore", file, "--config", pg.cfg, "--passphrase-file", phrase); status != 0 {
		t.Fatal(out, errs)
	}
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	h.devices = append(h.devices, dev)
	second := pg.serve(nil)
	second.managed(1, 4*time.Minute)
	h.settled(second)
}
