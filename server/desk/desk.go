// Package desk is where provisioning certificates are handled: asked for,
// imported, proven, put into use, replaced and taken away.
//
// The road of a certificate here:
//
//  1. Request makes the key in this process and seals it before anybody hears
//     of the request. The CA gets the PKCS#10.
//  2. Import joins what the CA sent with the pending request by public key,
//     completes the chain and says everything that is to be said of it. What no
//     device could accept is refused, and the store is as before.
//  3. An encrypted backup is written and opened again before the certificate is
//     stored; its passphrase is in the answer and nowhere else.
//  4. One transaction stores certificate, key, what is noted about them, event
//     and audit record, and changes the desk's version. Every node looks at the
//     version and puts the new list into use; sessions under way keep the chain
//     they have.
//  5. Devices that failed for want of this certificate are queued again.
//
// Renewal by ACME: see Renewer. No CA is known that issues the AMT usage by
// ACME, so that nothing here pretends to do it.
package desk

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/store"
)

// State is where a certificate stands.
type State string

const (
	Active  State = "active"  // in use
	Standby State = "standby" // kept, not in use
	Removed State = "removed" // in the trash, for 30 days
)

// UndoFor is how long a removed certificate can be restored.
const UndoFor = 30 * 24 * time.Hour

// Config is what a Desk stands on. Fetch, Check, Reconsider and InUse may be nil.
type Config struct {
	DB      *store.DB
	Backups string   // folder for encrypted backups, made when needed
	Node    string   // named where a backup was written
	Zones   []string // DNS zones of the configuration, whose devices are to be served
	// Files are the certificates that the configuration names.
	Files []*certs.Provisioning
	// InUse is told the whole list whenever it may have changed.
	InUse func([]*certs.Provisioning)
	// Reconsider queues the devices again that a new certificate may serve.
	Reconsider func(ctx context.Context) (int, error)
	// Fetch reads AIA addresses for imports that allow it; nil: the configuration
	// allows none.
	Fetch certs.Fetch
	// Check plays a device of a generation for Prove.
	Check CheckCertificate
	Now   func() time.Time
	Log   *zap.Logger
}

// Desk handles provisioning certificates. Safe for concurrent use.
type Desk struct {
	Config
	slots chan struct{} // held while files are opened: one after another, since each may cost seconds of a core
	work  sync.WaitGroup
	life  context.Context // of what goes on in the background
	end   context.CancelFunc

	mu      sync.Mutex
	version string // what is in use
	all     []Entry
	inUse   []*certs.Provisioning
	begins  time.Time // when the next of them becomes valid; zero: none waits for that

	again sync.Mutex // held while devices are reconsidered

	counted fleetCount
}

// New makes a Desk; call Reload to fill it.
func New(c Config) *Desk {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.InUse == nil {
		c.InUse = func([]*certs.Provisioning) {}
	}
	d := &Desk{Config: c, slots: make(chan struct{}, 1)}
	d.life, d.end = context.WithCancel(context.Background())
	return d
}

// Close ends what goes on in the background; another node takes it up. It may
// be called twice.
func (d *Desk) Close() {
	d.end()
	d.work.Wait()
}

// Note is what the desk remembers of a certificate beside the certificate. It
// is kept for those of the configuration too.
type Note struct {
	Request    string    `json:"request,omitempty"` // id of the request it answered
	ImportedBy string    `json:"imported_by,omitempty"`
	Key        string    `json:"key,omitempty"` // certs.KeyFingerprint
	Backup     Backup    `json:"backup,omitzero"`
	RemovedAt  time.Time `json:"removed_at,omitzero"`
	RemovedBy  string    `json:"removed_by,omitempty"`
	WasActive  bool      `json:"was_active,omitempty"`
	Reminded   *int      `json:"reminded,omitempty"` // the last of certs.Reminders that was spoken of
	Renewal    Renewal   `json:"renewal,omitzero"`
	Follows    string    `json:"follows,omitempty"` // the certificate that it was made to follow
}

// Entry is one certificate and everything noted about it.
type Entry struct {
	*certs.Provisioning
	State      State
	Desk       bool // imported here
	File       bool // named by the configuration
	ImportedAt time.Time
	Note       Note
}

// Source says in words where a certificate comes from.
func (e Entry) Source() string {
	switch {
	case e.Desk && e.File:
		return "desk and file"
	case e.File:
		return "file"
	}
	return "desk"
}

// UndoUntil is when a removed certificate is gone for good; zero for others.
func (e Entry) UndoUntil() time.Time {
	if e.State != Removed {
		return time.Time{}
	}
	return e.Note.RemovedAt.Add(UndoFor)
}

const versionKey = "certificates.version"

func noteKey(id string) string { return "certificate." + id }

func (d *Desk) note(ctx context.Context, tx *store.Tx, id string) (Note, error) {
	var n Note
	text, err := tx.Setting(ctx, noteKey(id))
	if errors.Is(err, store.ErrNotFound) || err == nil && text == "" {
		return n, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &n)
	}
	if err != nil {
		return n, fmt.Errorf("what is noted of certificate %s: %w", id, err)
	}
	return n, nil
}

func (d *Desk) putNote(ctx context.Context, tx *store.Tx, id string, n Note) error {
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return tx.PutSetting(ctx, noteKey(id), string(text))
}

// entries reads everything. A row that cannot be read any more is an error in
// the log, not the end of all others.
func (d *Desk) entries(ctx context.Context, tx *store.Tx) ([]Entry, error) {
	rows, err := tx.Certificates(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	var out []Entry
	for _, r := range rows {
		p, err := certs.FromStore(r.Chain, r.Key, d.Now())
		if err != nil {
			d.Log.Error("cert.unreadable", zap.String("certificate", r.Name), zap.String("id", r.ID), zap.Error(err))
			continue
		}
		e := Entry{Provisioning: p, State: State(r.State), Desk: true, ImportedAt: r.CreatedAt}
		if r.State == "retired" { // the word of earlier releases
			e.State = Removed
		}
		out = append(out, e)
	}
	for _, p := range d.Files {
		if i := slices.IndexFunc(out, func(e Entry) bool { return e.ID == p.ID }); i >= 0 {
			out[i].File, out[i].State = true, Active
			continue
		}
		out = append(out, Entry{Provisioning: p, State: Active, File: true})
	}
	for i := range out {
		if out[i].Note, err = d.note(ctx, tx, out[i].ID); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// List is every certificate: those in use first, then by name and end.
func (d *Desk) List(ctx context.Context) (out []Entry, err error) {
	err = d.DB.Read(ctx, func(tx *store.Tx) (err error) {
		out, err = d.entries(ctx, tx)
		return err
	})
	order := []State{Active, Standby, Removed}
	slices.SortStableFunc(out, func(a, b Entry) int {
		if n := slices.Index(order, a.State) - slices.Index(order, b.State); n != 0 {
			return n
		}
		if n := strings.Compare(a.Name, b.Name); n != 0 {
			return n
		}
		return b.Leaf.NotAfter.Compare(a.Leaf.NotAfter)
	})
	return out, err
}

// UnknownError says that there is no such certificate or request.
type UnknownError struct{ What, ID string }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("there is no %s %s", e.What, amt.Clip(e.ID))
}

// RefusedError says that something is not possible as things stand.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

func refused(format string, args ...any) error { return &RefusedError{fmt.Sprintf(format, args...)} }

// find takes a whole id or a beginning of at least four digits that only one has.
func find(all []Entry, id string) (Entry, error) {
	id = strings.ToLower(strings.TrimSpace(id))
	var hits []Entry
	for _, e := range all {
		if e.ID == id {
			return e, nil
		}
		if len(id) >= 4 && strings.HasPrefix(e.ID, id) {
			hits = append(hits, e)
		}
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return Entry{}, &UnknownError{"certificate", id}
	}
	return Entry{}, refused("%d certificates begin with %s; give more of the id", len(hits), amt.Clip(id))
}

// Show is one certificate with its report.
func (d *Desk) Show(ctx context.Context, id string) (Entry, *certs.Report, error) {
	all, err := d.List(ctx)
	if err != nil {
		return Entry{}, nil, err
	}
	e, err := find(all, id)
	if err != nil {
		return e, nil, err
	}
	r := certs.NewReport(e.Provisioning, d.Now())
	r.Request = e.Note.Request
	return e, r, nil
}

// change runs fn in one transaction with an audit record and a new version, and
// puts what follows into use here. The audit's head is locked first, so that
// changes of several nodes happen one after another.
func (d *Desk) change(ctx context.Context, a store.AuditRecord, fn func(tx *store.Tx) error) error {
	err := d.DB.Write(ctx, func(tx *store.Tx) error {
		if err := tx.Audit(ctx, a); err != nil {
			return err
		}
		if err := fn(tx); err != nil {
			return err
		}
		return tx.PutSetting(ctx, versionKey, rand.Text())
	})
	if err != nil {
		return err
	}
	return d.Reload(ctx)
}

// Poll puts the list into use that another node may have changed.
func (d *Desk) Poll(ctx context.Context) error {
	version, err := d.stored(ctx, versionKey)
	if err != nil {
		return err
	}
	d.mu.Lock()
	same := version == d.version
	begun := !d.begins.IsZero() && !d.Now().Before(d.begins)
	if begun {
		d.begins = begins(d.inUse, d.Now())
	}
	d.mu.Unlock()
	if begun { // devices wait for this moment
		d.work.Go(func() { d.requeue(d.life) })
	}
	if same {
		return nil
	}
	return d.Reload(ctx)
}

func (d *Desk) stored(ctx context.Context, key string) (value string, err error) {
	err = d.DB.Read(ctx, func(tx *store.Tx) (err error) {
		value, err = setting(ctx, tx, key)
		return err
	})
	return value, err
}

// setting is empty when it was never put.
func setting(ctx context.Context, tx *store.Tx, key string) (string, error) {
	value, err := tx.Setting(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return value, err
}

// Reload reads what is active and puts it into use.
func (d *Desk) Reload(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock() // held throughout, so that an older list never replaces a newer one
	var all []Entry
	var version string
	err := d.DB.Read(ctx, func(tx *store.Tx) (err error) {
		if version, err = setting(ctx, tx, versionKey); err != nil {
			return err
		}
		all, err = d.entries(ctx, tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("load the certificates in use: %w", err)
	}
	list := inUse(all)
	if d.version != version {
		d.Log.Info("cert.in_use", zap.Int("certificates", len(list)))
	}
	d.version, d.all, d.inUse, d.begins = version, all, list, begins(list, d.Now())
	d.InUse(list)
	return nil
}

// begins is when the next certificate becomes valid.
func begins(list []*certs.Provisioning, now time.Time) (next time.Time) {
	for _, p := range list {
		if t := p.Leaf.NotBefore; t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

func inUse(all []Entry) []*certs.Provisioning {
	list := []*certs.Provisioning{}
	for _, e := range all {
		if e.State == Active {
			list = append(list, e.Provisioning)
		}
	}
	return list
}

// reasoned is err as a reason with a code.
func reasoned(err error) (*reason.Error, bool) {
	var r *reason.Error
	ok := errors.As(err, &r)
	return r, ok
}
