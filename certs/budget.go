package certs

import (
	"context"

	"github.com/provisiond/provisiond/amt/reason"
)

// maxRounds bounds the key derivation of a whole import, whatever its files say
// or turn out to hold: some ten seconds of one core. Windows writes 2,000 rounds
// a part, OpenSSL 2,048, Java 10,000, NSS and the most careful up to 2,000,000.
const maxRounds = 20_000_000

// interval is how many rounds are done before anybody asks whether the one who
// wants the answer is still there.
const interval = 2048

// A budget is what one import may still cost. It is one for all its files,
// passwords and parts, those that only decryption reveals included.
type budget struct {
	rounds int64 // of key derivation
	bytes  int64 // that zip files may still unpack to
}

func newBudget() *budget { return &budget{rounds: maxRounds, bytes: MaxBundle} }

type budgetKey struct{}

// WithBudget makes everything that is read with the context cost together at most
// what one import may: a program that reads several files of one configuration
// calls it once. Without it each call has a budget of its own.
func WithBudget(ctx context.Context) context.Context {
	return context.WithValue(ctx, budgetKey{}, newBudget())
}

func budgetOf(ctx context.Context) *budget {
	if b, ok := ctx.Value(budgetKey{}).(*budget); ok {
		return b
	}
	return newBudget()
}

// spend takes rounds before they are done. An error ends the import: that of
// ctx, or a *reason.Error.
func (b *budget) spend(ctx context.Context, rounds, times int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if rounds < 1 || times < 1 {
		return reason.Because(reason.PFXCorrupt, "the file asks for %d rounds of key derivation, which no program writes: export it again",
			rounds)
	}
	if rounds > b.rounds/times {
		return reason.Because(reason.PFXUnsupportedAlgorithm,
			"the file asks for %d rounds of key derivation; %d are left of the %d that one import may cost: export it again with fewer, "+
				"or import fewer files at a time", rounds, b.rounds/times, int64(maxRounds))
	}
	b.rounds -= rounds * times
	return nil
}
