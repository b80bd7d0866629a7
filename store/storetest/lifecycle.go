package storetest

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/provisiond/provisiond/store"
)

// A Road leads a device from one state to another.
type Road struct {
	From  []store.Lifecycle // "" is a device that nobody has met
	Words []string          // the same as the table has it: states, and sets with a +
	To    store.Lifecycle
	Event string // the word on the device's timeline
	By    string // hello, run, timer or person
}

// roads is every way there is. Words with a + are sets of states.
const roads = `
hello   +open                                    pending_approval     hello_received
hello   +open +managed                           pending_identity     identity_missing
hello   +open +managed                           pending_certificate  certificate_unmatched
hello   +open                                    queued               certificate_matched
hello   +open                                    failed               rejected
hello   +managed verifying                       pending_approval     reappeared_unprovisioned
hello   +managed verifying                       queued               reappeared_unprovisioned
hello   +open +managed +work +leaving            quarantined          duplicate_detected
hello   +open +managed +work +leaving            quarantined          quarantined
hello   +leaving                                 unprovisioned        rejected
run     +open +work                              provisioning         attempt_started
run     provisioning                             verifying            commit_sent
run     +work                                    provisioned          verified
run     +work                                    failed               attempt_failed
run     +work                                    pending_certificate  attempt_failed
run     +work                                    quarantined          attempt_failed
run     +work                                    credentials_unknown  attempt_failed
run     +managed credentials_unknown             maintaining          attempt_started
run     maintaining                              provisioned          maintained
run     maintaining                              drifted              maintained
run     maintaining                              drifted              drift_found
run     maintaining                              provisioned          credential_rotated
run     maintaining                              drifted              credential_rotated
run     maintaining unprovisioning               provisioned          attempt_failed
run     maintaining unprovisioning               drifted              attempt_failed
run     maintaining unprovisioning               credentials_unknown  attempt_failed
run     +managed +leaving credentials_unknown    unprovisioning       attempt_started
run     unprovisioning                           unprovisioning       attempt_failed
run     unprovisioning                           unprovisioned        unprovision_confirmed
run     unprovisioning                           retired              unprovision_confirmed
run     +open quarantined queued                 provisioned          answered
timer   +open queued                             dormant              window_expired
timer   +managed                                 drifted              drift_found
person  new                                      discovered           imported
person  pending_approval quarantined unprovisioned queued             approved
person  +open +work                              queued               retry_requested
person  +open +work unprovisioned                queued               adopted
person  +open +work unprovisioned                queued               trusted
person  +open                                    quarantined          rejected
person  +open +managed +work +leaving            quarantined          quarantined
person  quarantined                              discovered           released
person  quarantined                              queued               released
person  quarantined retired                      discovered           restored
person  +managed unprovisioning                  unprovisioning       unprovision_requested
person  +open +managed +work +leaving quarantined retired             retired
`

// Sets of states that the table names.
var Sets = map[string][]store.Lifecycle{
	"new": {""},
	"+open": {"", store.Discovered, store.PendingApproval, store.PendingIdentity, store.PendingCertificate, store.Failed,
		store.Dormant, store.External, store.CredentialsUnknown},
	"+work":    {store.Queued, store.Provisioning, store.Verifying},
	"+managed": {store.Provisioned, store.Drifted, store.Maintaining},
	"+leaving": {store.Unprovisioning, store.Unprovisioned},
}

// Roads reads the table.
func Roads() (list []Road) {
	for line := range strings.Lines(roads) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		r := Road{By: f[0], Words: f[1 : len(f)-2], To: store.Lifecycle(f[len(f)-2]), Event: f[len(f)-1]}
		for _, word := range r.Words {
			if set, ok := Sets[word]; ok {
				r.From = append(r.From, set...)
			} else {
				r.From = append(r.From, store.Lifecycle(word))
			}
		}
		list = append(list, r)
	}
	return list
}

// HoldRoads looks, when the test ends and before db is closed, at how its devices
// went from state to state: by a road of the table, or the test fails. Where a
// history begins, what has no event of the table or was done by "test", the test
// itself has done.
func HoldRoads(tb testing.TB, db *store.DB) {
	tb.Helper()
	table, words := Roads(), map[string]bool{}
	for _, r := range table {
		words[r.Event] = true
	}
	tb.Cleanup(func() {
		if err := db.Read(context.Background(), func(tx *store.Tx) error {
			at := map[string]store.Lifecycle{}
			for after := int64(0); ; {
				list, err := tx.Events(context.Background(), store.EventFilter{After: after, Limit: 1000})
				if err != nil || len(list) == 0 {
					return err
				}
				for _, e := range list {
					after = e.ID
					to, _ := e.Data["lifecycle"].(string)
					if to == "" {
						continue
					}
					from, uuid := at[e.UUID.String()], e.UUID.String()
					at[uuid] = store.Lifecycle(to)
					if from == "" || from == store.Lifecycle(to) || e.Actor == "test" || !words[e.Name] {
						continue
					}
					if !slices.ContainsFunc(table, func(r Road) bool {
						return r.To == store.Lifecycle(to) && r.Event == e.Name && slices.Contains(r.From, from)
					}) {
						tb.Errorf("device %s went from %q to %q by %q: no such road (store/storetest/lifecycle.go)", uuid, from, to, e.Name)
					}
				}
			}
		}); err != nil {
			tb.Logf("the devices' roads were not looked at: %v", err)
		}
	})
}
