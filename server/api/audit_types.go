package api

import (
	"encoding/hex"
	"io"
	"time"

	"github.com/provisiond/provisiond/store/chain"
)

// AuditQuery asks for a page of the audit.
type AuditQuery struct {
	After   int64  `query:"after" minimum:"0"`
	Limit   int    `query:"limit" minimum:"0" maximum:"1000" doc:"0 means 100"`
	Newest  bool   `query:"newest" doc:"newest first, with before instead of after"`
	Before  int64  `query:"before" minimum:"0"`
	Actor   string `query:"actor" maxLength:"100" doc:"with newest: a part of who did it"`
	Action  string `query:"action" maxLength:"100" doc:"with newest: a part of what was done"`
	Subject string `query:"subject" maxLength:"100" doc:"with newest: a part of what it was done to"`
	Since   string `query:"since" maxLength:"40" doc:"with newest: a time such as 2026-11-01T22:00:00Z, a day of UTC such as 2026-11-01, or an age such as 24h or 7d"`
	Until   string `query:"until" maxLength:"40" doc:"with newest: the same; a day is meant to its end"`
}

// AuditCheckpoint is the chain as it was, signed.
type AuditCheckpoint struct {
	Seq       int64      `json:"seq" doc:"the last record it holds for"`
	At        *time.Time `json:"at"`
	Hash      string     `json:"hash"`
	Signature string     `json:"signature" doc:"Ed25519"`
	Key       string     `json:"key,omitempty" doc:"the public key, in hexadecimal digits"`
}

// AuditExportQuery asks for lines of an export.
type AuditExportQuery struct {
	After   int64 `query:"after" minimum:"0" doc:"the last record of the page before; 0 begins the file"`
	Through int64 `query:"through" minimum:"1" doc:"the record of the checkpoint that ends the file"`
}

// AuditLines is a page of an export.
type AuditLines struct {
	Lines []string `json:"lines"`
	Next  int64    `json:"next" doc:"give it as after; 0 on the last page"`
}

// AuditMark is what was kept elsewhere of a checkpoint.
type AuditMark = chain.Mark

// AuditFileChecked is what an exported file was found to hold.
type AuditFileChecked struct {
	Records     int64     `json:"records"`
	Checkpoints int       `json:"checkpoints"`
	Key         string    `json:"key"`
	SignedAt    time.Time `json:"signed_at"`
	Hash        string    `json:"hash" doc:"of the last record"`
}

// CheckAuditFile checks an exported audit without a server: the chain, the
// signatures, and that each line is as it was written. Whether the key is the
// server's is for the caller to compare.
func CheckAuditFile(r io.Reader, marks ...AuditMark) (AuditFileChecked, error) {
	f, err := chain.CheckFile(r, marks...)
	return AuditFileChecked{f.Records, f.Checkpoints, hex.EncodeToString(f.Key), f.Last.At, hex.EncodeToString(f.Last.Hash)}, err
}
