package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/provisiond/provisiond/store"
)

func setting(tb testing.TB, db *store.DB, key string) (v string, err error) {
	tb.Helper()
	err = db.Read(tb.Context(), func(tx *store.Tx) (err error) {
		v, err = tx.Setting(tb.Context(), key)
		return err
	})
	return v, err
}

// TestALongClosure takes longer than a commit may, which has all of its own time
// afterwards. SQLite's commits have no limit.
func TestALongClosure(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.Postgres))
	db.CommitFor(5 * time.Second)
	for name, more := range map[string]func(tx *store.Tx) error{
		"plain": func(*store.Tx) error { return nil },
		"audited": func(tx *store.Tx) error {
			return tx.Audit(t.Context(), store.AuditRecord{Actor: "user:a", Action: "long"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			write(t, db, func(ctx context.Context, tx *store.Tx) error {
				if err := tx.PutSetting(ctx, name, "v"); err != nil {
					return err
				}
				if err := more(tx); err != nil {
					return err
				}
				return tx.Exec(ctx, "SELECT pg_sleep(5.1)")
			})
			if v, err := setting(t, db, name); v != "v" {
				t.Errorf("what was written is not there: %q, %v", v, err)
			}
		})
	}
}

// Many callers share commits; each keeps its own fate.
func TestOneBadClosureSpoilsNoOther(t *testing.T) {
	t.Parallel()
	forEachEngine(t, func(t *testing.T, db *store.DB) {
		no := errors.New("no")
		const callers = 64
		var wg sync.WaitGroup
		for n := range callers {
			wg.Go(func() {
				key := fmt.Sprint("k", n)
				err := db.Write(t.Context(), func(tx *store.Tx) error {
					if err := tx.PutSetting(t.Context(), key, "v"); err != nil {
						return err
					}
					switch n % 4 {
					case 1:
						return no
					case 2:
						panic("boom")
					case 3: // a statement the database refuses
						return tx.Transition(t.Context(), store.Transition{UUID: uuid(1), Event: "x"})
					}
					return nil
				})
				var panicked *store.PanicError
				ok := map[int]bool{0: err == nil, 1: errors.Is(err, no), 2: errors.As(err, &panicked),
					3: errors.Is(err, store.ErrNotFound)}[n%4]
				if !ok {
					t.Errorf("caller %d: %v", n, err)
				}
				v, err := setting(t, db, key)
				if n%4 == 0 && v != "v" {
					t.Errorf("caller %d: its answered write is not there: %v", n, err)
				}
				if n%4 != 0 && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("caller %d: its refused write is there: %q %v", n, v, err)
				}
			})
		}
		wg.Wait()
	})
}

// TestAPanicLeavesItsStack: the caller gets an error, the log where it was.
func TestAPanicLeavesItsStack(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{store.SQLite, store.Postgres} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			core, seen := observer.New(zapcore.ErrorLevel)
			o := place(t, engine)
			o.Log = zap.New(core)
			err := open(t, o).Write(t.Context(), func(*store.Tx) error { return slip() })
			var panicked *store.PanicError
			if !errors.As(err, &panicked) || panicked.Value != "a slip" {
				t.Errorf("the caller got %v", err)
			}
			lines := seen.FilterMessage("store.closure_panicked").All()
			if len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0].ContextMap()["stack"]), "store_test.slip") {
				t.Errorf("the log has %v", lines)
			}
		})
	}
}

//go:noinline
func slip() error { panic("a slip") }

func TestAWriteWhoseCallerLeftBeforeItBegan(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.SQLite))
	began, goOn := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = db.Write(t.Context(), func(*store.Tx) error { close(began); <-goOn; return nil })
	})
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error)
	go func() {
		waiting <- db.Write(ctx, func(tx *store.Tx) error { return tx.PutSetting(ctx, "late", "v") })
	}()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(goOn)
	wg.Wait()
	write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.PutSetting(ctx, "next", "v") })
	if _, err := setting(t, db, "late"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the abandoned write: %v", err)
	}
	// And one that ends in the middle of its closure rolls back by itself.
	ctx, cancel = context.WithCancel(t.Context())
	err := db.Write(ctx, func(tx *store.Tx) error {
		if err := tx.PutSetting(ctx, "half", "v"); err != nil {
			return err
		}
		cancel()
		return tx.PutSetting(ctx, "other", "v")
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := setting(t, db, "half"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("half a write: %v", err)
	}
}

// When the shared commit fails nobody of the batch is told yes, and the store
// works on.
func TestAFailedCommitIsAnUnknownOutcomeForAll(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.SQLite))
	// A batch is short: on a busy machine the two writes may miss each other,
	// and then they are tried again.
	key, shared := "", false
	for n := range 200 {
		key = fmt.Sprintf("a%d", n)
		if shared = failTogether(t, db, key); shared {
			break
		}
	}
	if !shared {
		t.Fatal("the two writes never shared a commit")
	}
	if _, err := setting(t, db, key); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after the failed commit: %v", err)
	}
	write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.PutSetting(ctx, "b", "v") })
	if v, err := setting(t, db, "b"); v != "v" {
		t.Errorf("the next write: %v", err)
	}
}

// failTogether writes key beside a write whose commit must fail, and reports
// whether they shared that commit.
func failTogether(t *testing.T, db *store.DB, key string) (shared bool) {
	t.Helper()
	began, goOn := make(chan struct{}), make(chan struct{})
	good, bad := make(chan error, 1), make(chan error, 1)
	go func() {
		good <- db.Write(t.Context(), func(tx *store.Tx) error {
			close(began)
			<-goOn
			return tx.PutSetting(t.Context(), key, "v")
		})
	}()
	<-began
	go func() {
		bad <- db.Write(t.Context(), func(tx *store.Tx) error {
			// A reference that is checked at the commit and does not hold.
			return errors.Join(tx.Exec(t.Context(), "PRAGMA defer_foreign_keys = ON"),
				tx.Exec(t.Context(), "INSERT INTO run_steps (run_id, attempt, seq, name, state) VALUES (99, 1, 1, 'x', 'done')"))
		})
	}()
	for db.Waiting() == 0 {
		runtime.Gosched()
	}
	close(goOn)
	if err := <-bad; !errors.Is(err, store.ErrUnknownOutcome) {
		t.Fatalf("the write whose commit fails was answered: %v", err)
	}
	err := <-good
	if err != nil && !errors.Is(err, store.ErrUnknownOutcome) {
		t.Fatalf("the write beside it was answered: %v", err)
	}
	return err != nil
}

func TestAClosureThatEndsTheWriterHurtsNobodyAfter(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.SQLite))
	var sub testing.T // a FailNow that fails nobody: it only ends the goroutine
	err := db.Write(t.Context(), func(*store.Tx) error { sub.FailNow(); return nil })
	if err == nil {
		t.Error("it was answered as done")
	}
	write(t, db, func(ctx context.Context, tx *store.Tx) error { return tx.PutSetting(ctx, "k", "v") })
}

func TestAClosedStoreSaysSo(t *testing.T) {
	t.Parallel()
	db := open(t, place(t, store.SQLite))
	var wg sync.WaitGroup
	for n := range 32 {
		wg.Go(func() {
			err := db.Write(t.Context(), func(tx *store.Tx) error { return tx.PutSetting(t.Context(), fmt.Sprint(n), "v") })
			if err != nil && !errors.Is(err, store.ErrClosed) {
				t.Error(err)
			}
		})
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := db.Write(t.Context(), func(*store.Tx) error { return nil }); !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
}

// What was answered is there after the process is killed.
func TestAnAnsweredWriteOutlivesAKill(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("STORE_TEST_VICTIM"); dir != "" {
		victim(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestAnAnsweredWriteOutlivesAKill$", "-test.count=1")
	cmd.Env = append(os.Environ(), "STORE_TEST_VICTIM="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var told []string
	buf := make([]byte, 4096)
	text := ""
	for len(told) < 200 {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("the victim ended by itself: %v: %s", err, text)
		}
		text += string(buf[:n])
		lines := strings.Split(text, "\n")
		text, told = lines[len(lines)-1], append(told, lines[:len(lines)-1]...)
	}
	if _, err := store.Open(t.Context(), store.Options{Dir: dir}); err == nil ||
		!strings.Contains(err.Error(), fmt.Sprint("process ", cmd.Process.Pid)) {
		t.Errorf("a second daemon on the directory: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	db := open(t, store.Options{Dir: dir})
	for _, key := range told {
		if v, err := setting(t, db, key); v != "v" {
			t.Errorf("%s was answered and is lost: %v", key, err)
		}
	}
}

func victim(t *testing.T, dir string) {
	db := open(t, store.Options{Dir: dir})
	var mu sync.Mutex
	for w := range 8 {
		go func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("w%d-%d", w, n)
				if err := db.Write(t.Context(), func(tx *store.Tx) error { return tx.PutSetting(t.Context(), key, "v") }); err != nil {
					panic(err)
				}
				mu.Lock()
				fmt.Println(key)
				mu.Unlock()
			}
		}()
	}
	select {}
}
