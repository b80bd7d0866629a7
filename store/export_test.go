package store

import "context"

// Exec runs a statement behind the store's back.
func (db *DB) Exec(ctx context.Context, q string) error {
	return db.Write(ctx, func(tx *Tx) error {
		_, err := tx.exec(ctx, q)
		return err
	})
}

// Count asks for one number.
func (db *DB) Count(ctx context.Context, q string) (n int, err error) {
	err = db.Read(ctx, func(tx *Tx) error { return tx.one(ctx, q, nil, &n) })
	return n, err
}

// Exec runs a statement inside a transaction.
func (tx *Tx) Exec(ctx context.Context, q string) error {
	_, err := tx.exec(ctx, q)
	return err
}

// Waiting counts closures that the writer has not begun.
func (db *DB) Waiting() int { return len(db.writer.queue) }
