package desk_test

import (
	"context"
	"testing"
	"time"

	"github.com/provisiond/provisiond/server/desk"
)

// TestImportsByTheClock: what has ended is kept and not put into use, asked for
// or not; what begins later is, and calls the devices that wait when it begins.
func TestImportsByTheClock(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, l *lab) {
		f, o := l.leaf("Dated", "prov.corp.example.com")
		l.now = f.Cert.NotAfter.AddDate(0, 0, 7)
		o.Activate = true
		if got := l.imports(o); got.State != desk.Standby || got.Activated || len(l.inUse) != 0 {
			t.Errorf("a week after its end: %s, in use %v", got.State, l.inUse)
		}

		l.now = f.Cert.NotBefore.Add(-2 * time.Hour)
		called := make(chan struct{}, 8)
		l.desk.Reconsider = func(context.Context) (int, error) { called <- struct{}{}; return 0, nil }
		if got := l.imports(o); got.State != desk.Active || len(l.inUse) != 1 {
			t.Fatalf("two hours before its beginning: %s, in use %v", got.State, l.inUse)
		}
		<-called // the import itself
		if err := l.desk.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-called:
			t.Error("nobody is called before it begins")
		default:
		}
		l.now = f.Cert.NotBefore
		if err := l.desk.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-called
	})
}
