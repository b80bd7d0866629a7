package server

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/certs"
)

// lookAgain is the least time between two looks at the files of a Replaceable.
const lookAgain = 2 * time.Second

// A Replaceable is a value made from files, and made anew when somebody
// replaces them. Nothing watches the files: a caller of Get looks, and a node
// calls it every half minute (selftest.go). It compares contents, so that it
// does not matter how the files were written, renamed or linked. Invalid files
// change nothing: the last good value stays in use.
type Replaceable[T any] struct {
	key   string // of the configuration, for the log
	files []string
	parse func(texts [][]byte) (T, error)
	took  func(T)
	log   *zap.Logger

	now   atomic.Pointer[T]
	wrong atomic.Pointer[error]

	mu     sync.Mutex // held by the goroutine that looks; guards what follows
	looked time.Time
	texts  [][]byte // the texts from which now was made
	failed string   // the fault at the last look
}

// NewReplaceable reads the files for the first time. parse makes a value of
// their texts, in their order, and took, which may be nil, gets each value that
// comes into use.
func NewReplaceable[T any](key string, files []string, parse func(texts [][]byte) (T, error), took func(T),
	log *zap.Logger) (*Replaceable[T], error) {
	r := &Replaceable[T]{key: key, files: files, parse: parse, took: took, log: log}
	if r.took == nil {
		r.took = func(T) {}
	}
	texts, v, err := r.read()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	r.looked = time.Now()
	r.use(texts, v)
	return r, nil
}

// Get returns the value in use. It looks at the files first if the last look is
// some seconds old, and does not wait for another caller's look.
func (r *Replaceable[T]) Get() T {
	if r.mu.TryLock() {
		if time.Since(r.looked) >= lookAgain {
			r.look()
			r.looked = time.Now()
		}
		r.mu.Unlock()
	}
	return *r.now.Load()
}

// Wrong says why the files' present content is not in use, nil if it is.
func (r *Replaceable[T]) Wrong() error {
	if err := r.wrong.Load(); err != nil {
		return *err
	}
	return nil
}

func (r *Replaceable[T]) look() {
	texts, v, err := r.read()
	if err != nil {
		r.doubt(err)
		return
	}
	changed := !slices.EqualFunc(texts, r.texts, bytes.Equal)
	if changed || r.Wrong() != nil {
		r.log.Info("files.read_again", zap.String("key", r.key), zap.Strings("files", r.files), zap.Bool("changed", changed))
	}
	r.failed = ""
	r.wrong.Store(nil)
	if changed {
		r.use(texts, v)
	}
}

// doubt complains, once, at the second look with the same fault: files may not
// match between the writing of one and the next.
func (r *Replaceable[T]) doubt(err error) {
	again := err.Error() == r.failed
	r.failed = err.Error()
	if said := r.Wrong(); !again || said != nil && said.Error() == err.Error() {
		return
	}
	r.wrong.Store(&err)
	r.log.Warn("files.unusable", zap.String("key", r.key), zap.Strings("files", r.files), zap.Error(err),
		zap.String("fix", "put files there that are good and belong together; what was read before stays in use until then, but a restart "+
			"would fail"))
}

func (r *Replaceable[T]) use(texts [][]byte, v T) {
	r.texts = texts
	r.now.Store(&v)
	r.took(v)
}

func (r *Replaceable[T]) read() (texts [][]byte, v T, err error) {
	for _, name := range r.files {
		f, err := certs.ReadFile(name)
		if err != nil {
			return nil, v, err
		}
		texts = append(texts, f.Data)
	}
	v, err = r.parse(texts)
	return texts, v, err
}
