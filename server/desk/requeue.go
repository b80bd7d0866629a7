package desk

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/store"
)

// Devices that failed for want of a certificate are asked about again after
// every change. That it has to be done is written in the change's transaction,
// so that another node does it when this one dies on the way.
const wantedKey = "certificates.reconsider"

const (
	// answerWithin is how long a caller waits for the count.
	answerWithin = 10 * time.Second
	// takeOverAfter is when another node takes it up.
	takeOverAfter = 2 * time.Minute
)

func (d *Desk) want(ctx context.Context, tx *store.Tx) error {
	return tx.PutSetting(ctx, wantedKey, strconv.FormatInt(tx.Now().UnixMilli(), 10)+" "+rand.Text())
}

// requeue does what want wrote down, and counts.
func (d *Desk) requeue(ctx context.Context) Requeued {
	if d.Reconsider == nil {
		return Requeued{}
	}
	counted := make(chan int, 1)
	d.work.Go(func() {
		n, err := d.reconsider(d.life)
		if err != nil && d.life.Err() == nil {
			d.Log.Error("cert.reconsider", zap.Error(err))
		}
		counted <- n
	})
	t := time.NewTimer(answerWithin)
	defer t.Stop()
	select {
	case n := <-counted:
		return Requeued{Devices: n}
	case <-t.C:
		return Requeued{Running: true}
	case <-ctx.Done():
		return Requeued{Running: true}
	}
}

func (d *Desk) reconsider(ctx context.Context) (int, error) {
	d.again.Lock()
	defer d.again.Unlock()
	wanted, err := d.stored(ctx, wantedKey)
	if err != nil {
		return 0, err
	}
	n, err := d.Reconsider(ctx)
	if err != nil {
		return n, fmt.Errorf("queue devices again: %w", err)
	}
	if n > 0 {
		d.Log.Info("cert.requeued", zap.Int("devices", n))
	}
	return n, d.DB.Write(ctx, func(tx *store.Tx) error {
		now, err := setting(ctx, tx, wantedKey)
		if err != nil || now != wanted {
			return err // wanted again meanwhile
		}
		return tx.PutSetting(ctx, wantedKey, "")
	})
}

// takeOver finishes what a node left behind.
func (d *Desk) takeOver(ctx context.Context) error {
	if d.Reconsider == nil {
		return nil
	}
	mine := false
	err := d.DB.Write(ctx, func(tx *store.Tx) error {
		mine = false
		wanted, err := setting(ctx, tx, wantedKey)
		if err != nil || wanted == "" {
			return err
		}
		ms, _, _ := strings.Cut(wanted, " ")
		since, err := strconv.ParseInt(ms, 10, 64)
		if err == nil && tx.Now().Sub(time.UnixMilli(since)) < takeOverAfter {
			return nil
		}
		mine = true
		return d.want(ctx, tx)
	})
	if err != nil || !mine {
		return err
	}
	_, err = d.reconsider(ctx)
	return err
}
