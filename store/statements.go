package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"modernc.org/sqlite"
)

// SQLite compiles a statement anew each time, which costs more than running
// most of this program's. So each connection keeps the statements that it runs
// often: the store's, and those of the queue, which writes to the same
// connection and prepares nothing.

// prepareAfter keeps the endless variants of a filtered list out: only frequent
// statements are worth some kilobytes each.
const (
	prepareAfter  = 4
	maxStatements = 300
	maxStrangers  = 1000 // most texts whose uses a connection counts
)

// openPool opens a pool of connections that keep their statements.
func openPool(dsn string) (*sql.DB, error) {
	c, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(keeper{c}), nil
}

type keeper struct{ driver.Connector }

func (k keeper) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := k.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	whole, ok := c.(liteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("open a connection: %T lacks what a connection to SQLite needs", c), c.Close())
	}
	return &keptConn{liteConn: whole, kept: map[string]*kept{}, uses: map[string]int{}}, nil
}

// liteConn is what database/sql uses of a connection to SQLite.
type liteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// liteStmt is what it uses of a prepared statement.
type liteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// A keptConn serves one goroutine at a time, as database/sql promises.
type keptConn struct {
	liteConn
	kept map[string]*kept
	uses map[string]int // of texts that are not prepared
	tick uint64
}

type kept struct {
	liteStmt
	busy bool   // somebody reads its rows
	last uint64 // tick of its last use
}

// statement returns the prepared statement, or nil if the text should run as it
// is: it is rare, or a caller further up still reads rows of the same
// statement.
func (c *keptConn) statement(ctx context.Context, query string) (*kept, error) {
	c.tick++
	if k := c.kept[query]; k != nil {
		if k.busy {
			return nil, nil
		}
		k.last = c.tick
		return k, nil
	}
	if c.uses[query]++; c.uses[query] < prepareAfter {
		if len(c.uses) > maxStrangers {
			clear(c.uses)
		}
		return nil, nil
	}
	s, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	whole, ok := s.(liteStmt)
	if !ok {
		return nil, s.Close()
	}
	delete(c.uses, query)
	if len(c.kept) >= maxStatements {
		if err := c.dropOldest(); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	k := &kept{liteStmt: whole, last: c.tick}
	c.kept[query] = k
	return k, nil
}

func (c *keptConn) dropOldest() error {
	var text string
	var oldest *kept
	for q, k := range c.kept {
		if !k.busy && (oldest == nil || k.last < oldest.last) {
			text, oldest = q, k
		}
	}
	if oldest == nil {
		return nil
	}
	delete(c.kept, text)
	return oldest.Close()
}

func (c *keptConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	k, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return c.liteConn.ExecContext(ctx, query, args)
	}
	return k.ExecContext(ctx, args)
}

func (c *keptConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	k, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if k == nil {
		return c.liteConn.QueryContext(ctx, query, args)
	}
	rows, err := k.QueryContext(ctx, args)
	if err != nil {
		return nil, err
	}
	k.busy = true
	return &keptRows{rows, k}, nil
}

func (c *keptConn) Close() error {
	var errs []error
	for _, k := range c.kept {
		errs = append(errs, k.Close())
	}
	clear(c.kept)
	return errors.Join(append(errs, c.liteConn.Close())...)
}

// keptRows gives the statement back after the last row.
type keptRows struct {
	driver.Rows
	of *kept
}

func (r *keptRows) Close() error {
	r.of.busy = false
	return r.Rows.Close()
}
