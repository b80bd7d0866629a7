package store

import "context"

// Exec runs a statement behind the store's back.
func (db *DB) Exec(ctx context.Context, q string) error {
	return db.Write(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, q)
		return err
	})
}
