package store

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
)

// MemoryFile is the file in a node's data folder that holds what the node
// remembers of the database, so that no writer of the database can take it
// back.
const MemoryFile = "store.seen"

// remembered is the content of MemoryFile.
type remembered struct {
	Lineage    string          `json:"lineage"`     // of which database
	RowsSigned bool            `json:"rows_signed"` // somebody signed its rows
	Head       *rememberedHead `json:"head,omitempty"`

	Checkpoint     int64  `json:"checkpoint,omitempty"` // the newest checkpoint's record
	CheckpointHash string `json:"checkpoint_hash,omitempty"`
}

// rememberedHead is where the audit ended when this node last looked.
type rememberedHead struct {
	Seq  int64     `json:"seq"`
	Hash string    `json:"hash"`
	Seen time.Time `json:"seen"`
}

// A memory reads and writes MemoryFile. It logs what it cannot write, since a
// full disk must keep nobody from a password.
type memory struct {
	file string // "": remembers nothing
	only bool   // never writes: a daemon may use the file
	log  *zap.Logger
	mu   sync.Mutex
}

func newMemory(o Options, log *zap.Logger) *memory {
	m := &memory{only: o.Beside, log: log}
	if o.Dir != "" {
		m.file = filepath.Join(o.Dir, MemoryFile)
	}
	return m
}

// of returns what the node remembers of a database: nothing if the file is of
// another database.
func (m *memory) of(lineage string) remembered {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read(lineage)
}

func (m *memory) read(lineage string) remembered {
	var r remembered
	if m.file == "" {
		return remembered{Lineage: lineage}
	}
	text, err := os.ReadFile(m.file)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("store.memory_unreadable", zap.String("file", m.file), zap.Error(err))
	}
	if err != nil || r.Lineage != lineage {
		return remembered{Lineage: lineage}
	}
	return r
}

// forget is for a restored database: the memory is of another time.
func (m *memory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file == "" || m.only {
		return
	}
	if err := os.Remove(m.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("store.memory_not_written", zap.String("file", m.file), zap.Error(err))
	}
}

// keep changes what the node remembers of a database.
func (m *memory) keep(lineage string, change func(r *remembered)) {
	if m.file == "" || m.only || lineage == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.read(lineage)
	after := before
	change(&after)
	if after == before {
		return
	}
	if err := m.write(after); err != nil {
		m.log.Warn("store.memory_not_written", zap.String("file", m.file), zap.Error(err))
	}
}

func (m *memory) write(r remembered) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(m.file), "."+MemoryFile+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), m.file)
}
