package store

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/store/seal"
)

var errStub = errors.New("not written yet")

// Options say where the truth lives.
type Options struct {
	URL       string        // postgres://…; "" is SQLite in Dir
	Dir       string        // data directory, SQLite only
	Keys      *seal.Keyring // nil: nothing can be sealed or opened
	Log       *zap.Logger
	Metrics   *Metrics
	NoMigrate bool // refuse to start when the schema is older instead of migrating it
}

type Metrics struct{}

func NewMetrics(reg prometheus.Registerer) *Metrics { return &Metrics{} }

type DB struct{}
type Tx struct{}

func Open(ctx context.Context, o Options) (*DB, error)                { return nil, errStub }
func (db *DB) Engine() string                                         { return "" }
func (db *DB) Close() error                                           { return errStub }
func (db *DB) Ping(ctx context.Context) error                         { return errStub }
func (db *DB) Write(ctx context.Context, fn func(tx *Tx) error) error { return errStub }
func (db *DB) Read(ctx context.Context, fn func(tx *Tx) error) error  { return errStub }
func (tx *Tx) Now() time.Time                                         { return time.Time{} }
func (tx *Tx) Handle() any                                            { return nil }

func (tx *Tx) SeeHello(ctx context.Context, h SeenHello) (Device, SeenBefore, error) {
	return Device{}, SeenBefore{}, errStub
}
func (tx *Tx) Hellos(ctx context.Context, uuid amt.UUID, limit int) ([]HelloRecord, error) {
	return nil, errStub
}
func (tx *Tx) Device(ctx context.Context, uuid amt.UUID) (Device, error)     { return Device{}, errStub }
func (tx *Tx) Devices(ctx context.Context, f DeviceFilter) ([]Device, error) { return nil, errStub }
func (tx *Tx) CountDevices(ctx context.Context) (map[Lifecycle]int, error)   { return nil, errStub }
func (tx *Tx) TrustHashes(ctx context.Context, table int64) ([]amt.TrustHash, error) {
	return nil, errStub
}
func (tx *Tx) Transition(ctx context.Context, t Transition) error                   { return errStub }
func (tx *Tx) UpdateDevice(ctx context.Context, uuid amt.UUID, f DeviceFacts) error { return errStub }
func (tx *Tx) AddEvent(ctx context.Context, e Event) (int64, error)                 { return 0, errStub }
func (tx *Tx) Events(ctx context.Context, f EventFilter) ([]Event, error)           { return nil, errStub }

func (tx *Tx) CreateRun(ctx context.Context, n NewRun) (Run, error)               { return Run{}, errStub }
func (tx *Tx) LiveRun(ctx context.Context, uuid amt.UUID) (Run, error)            { return Run{}, errStub }
func (tx *Tx) Run(ctx context.Context, id int64) (Run, error)                     { return Run{}, errStub }
func (tx *Tx) Runs(ctx context.Context, uuid amt.UUID, limit int) ([]Run, error)  { return nil, errStub }
func (tx *Tx) HastenRun(ctx context.Context, id int64, notBefore time.Time) error { return errStub }
func (tx *Tx) FinishRun(ctx context.Context, id int64, state string, code reason.Code, detail, blame string) error {
	return errStub
}
func (tx *Tx) Claim(ctx context.Context, runID int64, node string, lease time.Duration) (Claim, error) {
	return Claim{}, errStub
}
func (tx *Tx) Renew(ctx context.Context, uuid amt.UUID, fence int64, lease time.Duration) error {
	return errStub
}
func (tx *Tx) Release(ctx context.Context, uuid amt.UUID, fence int64, notBefore time.Time) error {
	return errStub
}
func (tx *Tx) CheckFence(ctx context.Context, uuid amt.UUID, fence int64) error    { return errStub }
func (tx *Tx) PutSteps(ctx context.Context, runID int64, steps []StepRecord) error { return errStub }
func (tx *Tx) Steps(ctx context.Context, runID int64) ([]StepRecord, error)        { return nil, errStub }

func (tx *Tx) StageCredentials(ctx context.Context, uuid amt.UUID, runID int64, admin, mebx amt.Secret) (int, error) {
	return 0, errStub
}
func (tx *Tx) Credentials(ctx context.Context, uuid amt.UUID, kind string) ([]Credential, error) {
	return nil, errStub
}
func (tx *Tx) MarkSent(ctx context.Context, ids []int64, realm string, peer []byte, address netip.Addr) error {
	return errStub
}
func (tx *Tx) Activate(ctx context.Context, id int64) error         { return errStub }
func (tx *Tx) RetireCredential(ctx context.Context, id int64) error { return errStub }

func (tx *Tx) PutSetting(ctx context.Context, key, value string) error { return errStub }
func (tx *Tx) Setting(ctx context.Context, key string) (string, error) { return "", errStub }
func (tx *Tx) PutSealedSetting(ctx context.Context, key string, value amt.Secret) error {
	return errStub
}
func (tx *Tx) SealedSetting(ctx context.Context, key string) (amt.Secret, error) {
	return amt.Secret{}, errStub
}
func (tx *Tx) Audit(ctx context.Context, r AuditRecord) error { return errStub }
func (tx *Tx) VerifyAudit(ctx context.Context) (int64, error) { return 0, errStub }
func (tx *Tx) AuditRecords(ctx context.Context, after int64, limit int) ([]AuditRecord, error) {
	return nil, errStub
}
func (tx *Tx) Heartbeat(ctx context.Context, n Node) error { return errStub }
func (tx *Tx) SilentNodes(ctx context.Context, age time.Duration) ([]Node, error) {
	return nil, errStub
}
func (tx *Tx) Nodes(ctx context.Context) ([]Node, error)                   { return nil, errStub }
func (tx *Tx) CreateToken(ctx context.Context, t Token) (int64, error)     { return 0, errStub }
func (tx *Tx) TokenByHash(ctx context.Context, hash []byte) (Token, error) { return Token{}, errStub }
