//go:build soak

package endtoend

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A Go program reads the clock by the vDSO, past libc and whatever is preloaded
// there, and the kernel has one wall clock for all. So the daemon under test is
// built with two files of the standard library overlaid: its time.Now, and with
// it everything in the process, the libraries too, shows the wall clock of the
// machine plus the seconds that stand in a shared file. The monotonic clock runs
// on, as when somebody sets a machine's date.
const steppedNow = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var step *int64

func init() {
	name, ok := syscall.Getenv("TIME_STEP_FILE")
	if !ok {
		return
	}
	f, err := syscall.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		panic("open " + name + ": " + err.Error())
	}
	m, err := syscall.Mmap(f, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map " + name + ": " + err.Error())
	}
	step = (*int64)(unsafe.Pointer(&m[0]))
}

func stepped() int64 {
	if step == nil {
		return 0
	}
	return atomic.LoadInt64(step)
}
`

// steppable builds the daemon whose clock can be set.
func steppable(dir string) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	std := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	text, err := os.ReadFile(filepath.Join(std, "time.go"))
	if err != nil {
		return "", err
	}
	const ask = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(text), ask) != 1 {
		return "", fmt.Errorf("the time package of %s asks for the time in another way", runtime.Version())
	}
	now := filepath.Join(dir, "time.go.txt")
	step := filepath.Join(dir, "step.go.txt")
	overlay := filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(std, "time.go"): now, filepath.Join(std, "step.go"): step,
	}})
	if err != nil {
		return "", err
	}
	for name, data := range map[string]string{
		now: strings.Replace(string(text), ask, ask+"\tsec += stepped()\n", 1), step: steppedNow, overlay: string(list),
	} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			return "", err
		}
	}
	out := filepath.Join(dir, "provisiond-steppable")
	if text, err := exec.Command("go", "build", "-overlay", overlay, "-o", out, "..").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build with a clock that can be set: %w: %s", err, text)
	}
	return out, nil
}

// wallClock is what a site's daemons take for the time of day.
type wallClock struct {
	t    *testing.T
	path string
}

func newWallClock(t *testing.T, dir string) *wallClock {
	t.Helper()
	c := &wallClock{t, filepath.Join(dir, "clock")}
	if err := os.WriteFile(c.path, make([]byte, 8), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// set moves the clock to that far from the true time, at once.
func (c *wallClock) set(off time.Duration) {
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(off/time.Second)), 0)
		_ = f.Close()
	}
	if err != nil {
		c.t.Errorf("set the clock: %v", err)
	}
}

func (c *wallClock) env() []string { return []string{"TIME_STEP_FILE=" + c.path} }
