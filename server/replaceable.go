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

// lookAgain is how often at most the files of a Replaceable are looked at.
const lookAgain = 2 * time.Second

// A Replaceable is what some files hold, taken up anew when somebody puts others
// in their place. Nothing watches them: whoever asks for it looks, and a node
// asks itself every half minute (selftest.go). Files are compared by content, so
// it does not matter how they were written, renamed or linked. Files that make
// no sense change nothing: what was good stays in use.
type Replaceable[T any] struct {
	key   string // of the configuration, for whoever reads the log
	files []string
	parse func(texts [][]byte) (T, error)
	took  func(T)
	log   *zap.Logger

	now   atomic.Pointer[T]
	wrong atomic.Pointer[error]

	mu     sync.Mutex // held by the one who looks; guards what follows
	looked time.Time
	texts  [][]byte // what now was made of
	failed string   // what was wrong at the last look
}

// NewReplaceable reads the files for the first time. parse makes a value of
// their texts, in their order, and took, which may be nil, is told of each value
// that comes into use.
func NewReplaceable[T any](key string, files []string, parse func(texts [][]byte) (T, error), took func(T), log *zap.Logger) (*Replaceable[T], error) {
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

// Get gives what is in use, after a look at the files if the last one is some
// seconds old. It does not wait for another's look.
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

// Wrong is why what the files hold now is not in use, nil when it is.
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

// doubt complains, once, at the second look that finds the same: what lies
// between the writing of one file and of the next is no fault.
func (r *Replaceable[T]) doubt(err error) {
	again := err.Error() == r.failed
	r.failed = err.Error()
	if said := r.Wrong(); !again || said != nil && said.Error() == err.Error() {
		return
	}
	r.wrong.Store(&err)
	r.log.Warn("files.unusable", zap.String("key", r.key), zap.Strings("files", r.files), zap.Error(err),
		zap.String("fix", "put files there that are good and belong together; what was read before stays in use until then, but a restart would fail"))
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
