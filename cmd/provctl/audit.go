package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/provisiond/provisiond/server/api"
)

func (p *program) auditCommand() *cobra.Command {
	return group("audit", "Who did what", p.auditList(), p.auditVerify(), p.auditExport(),
		verb[api.AuditCheckpoint]{
			use: "checkpoint", short: "Sign the audit as it stands, and show the signature and its key",
			long: "Signs the audit as it stands. It is also signed by itself, each thousand records or each hour.\n" +
				"A copy of what is printed, kept elsewhere, holds for all records up to there.",
			ask: none((*api.Client).SignAudit),
			show: func(c api.AuditCheckpoint) {
				p.fields("record", c.Seq, "signed at", c.At, "hash", c.Hash, "signature", c.Signature, "key", c.Key)
			},
		}.command(p))
}

func (p *program) auditList() *cobra.Command {
	var q api.AuditQuery
	var device string
	var f *pflag.FlagSet
	limit := 1000
	return list(p, verb[[]api.AuditRecord]{
		use: "list", short: "Who did what, when, to what: the newest records, oldest of them first",
		long: "The newest records that fit, oldest of them first. --actor, --action and --subject are parts of what is looked for, in " +
			"any case.\n" +
			"--since and --until take a time such as 2026-11-01T22:00:00Z, a day of UTC such as 2026-11-01, or an age such as 24h or " +
			"7d.\n" +
			"--after instead goes forward from a record, all of them or as many as --limit says.",
		example: "  provctl audit list --actor alice --since 7d\n" +
			"  provctl audit list --action secret.reveal --device 11223344-5566-7788-99aa-bbccddeeff03\n" +
			"  provctl audit list --since 2026-11-01 --until 2026-11-01 --limit 0",
		flags: func(set *pflag.FlagSet) {
			f = set
			f.StringVar(&q.Actor, "actor", "", "only what was done by whom this is a part of, such as alice")
			f.StringVar(&q.Action, "action", "", "only what this is a part of, such as secret.reveal")
			f.StringVar(&device, "device", "", "only what was done to this `DEVICE`")
			f.StringVar(&q.Subject, "subject", "", "only what was done to what this is a part of: a device, a user, a job")
			f.StringVar(&q.Since, "since", "", "only from this `TIME` on")
			f.StringVar(&q.Until, "until", "", "only before this `TIME`; a day is meant to its end")
			f.IntVar(&limit, "limit", limit, "at most so many; 0 for all")
			f.Int64Var(&q.After, "after", 0, "go forward from behind this record's number")
		},
		check: func([]string) error {
			switch {
			case device != "" && q.Subject != "":
				return usage("--device is a --subject: want one of them")
			case q.After != 0 && q.Actor+q.Action+q.Subject+device+q.Since+q.Until != "":
				return usage("--after goes with none of the filters")
			case limit < 0:
				return usage("--limit: want 0, for all, or more")
			}
			return nil
		},
		ask: func(ctx context.Context, c *api.Client, _ []string) ([]api.AuditRecord, error) {
			if device != "" {
				d, err := c.Device(ctx, device)
				if err != nil {
					return nil, err
				}
				q.Subject = d.UUID
			}
			if q.Newest = q.After == 0; !q.Newest && !f.Changed("limit") {
				limit = 0
			}
			all, more, err := auditRecords(ctx, c, q, limit)
			if q.Newest {
				slices.Reverse(all)
			}
			if more && q.Newest {
				p.note("provctl: only the newest %d that fit; --limit 0 shows all, --until those before\n", limit)
			}
			return all, err
		},
	}, "no record fits", "SEQ|AT|ACTOR|ACTION|SUBJECT|NAME|DETAIL", func(r api.AuditRecord) []any {
		detail, _ := json.Marshal(r.Detail)
		return []any{r.Seq, r.At, r.Actor, r.Action, r.Subject, r.FQDN, string(detail)}
	})
}

// auditRecords reads pages until limit records are there, 0: all; more reports
// that there may be others.
func auditRecords(ctx context.Context, c *api.Client, q api.AuditQuery, limit int) (all []api.AuditRecord, more bool, err error) {
	all = []api.AuditRecord{}
	for {
		q.Limit = 1000
		if limit > 0 {
			q.Limit = min(q.Limit, limit-len(all))
		}
		page, err := c.Audit(ctx, q)
		if err != nil {
			return nil, false, err
		}
		all = append(all, page.Records...)
		if page.Next == 0 || limit > 0 && len(all) >= limit {
			return all, page.Next != 0, nil
		}
		if q.Newest {
			q.Before = page.Next
		} else {
			q.After = page.Next
		}
	}
}

func (p *program) auditVerify() *cobra.Command {
	file, key, against, kept := "", "", "", ""
	var marks []api.AuditMark
	var old api.AuditFileChecked // of --against
	server := verb[api.AuditVerified]{
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.AuditVerified, error) {
			if against != "" {
				var err error
				if old, err = checkAuditFile(against, key); err != nil {
					return api.AuditVerified{}, err
				}
			}
			return verifyAudit(ctx, c, against, old, marks)
		},
		show: func(v api.AuditVerified) {
			if !v.Intact {
				return
			}
			p.say("the chain holds: %d records\n", v.Records)
			if v.Checkpoint != nil {
				p.say("signed up to record %d at %s\n", v.Checkpoint.Seq, when(v.Checkpoint.At))
			}
			if against != "" {
				p.say("it is the one that %s has, up to record %d\n", against, old.Records)
			}
		},
		status: func(v api.AuditVerified) error {
			if !v.Intact {
				return failed("the chain is broken: %s", v.Problem)
			}
			return nil
		},
	}
	cmd := &cobra.Command{
		Use:   "verify [--file FILE [--key KEY] | --against FILE] [--checkpoint RECORD:HASH]",
		Short: "Check the chain of the audit; exit 1 when it is broken", Args: cobra.NoArgs,
		Long: "Checks the chain of the server's audit and its signed checkpoints. --against also holds it against an earlier\n" +
			"export: whoever rewrote the whole chain, signatures and all, cannot have rewritten that copy.\n" +
			"--file checks an export by itself and asks no server; --key says whose signature it has to bear, as audit checkpoint shows " +
			"it.\n" +
			"--checkpoint holds either against one that was kept elsewhere: the log has each (audit.checkpoint), the metrics\n" +
			"provisiond_audit_checkpoint_record and _hash (its first 48 bits; printf %012x) and the file store.seen in each node's data " +
			"folder.",
		Example: "  provctl audit verify\n  provctl audit verify --against /mnt/elsewhere/audit-2026-10.jsonl\n" +
			"  provctl audit verify --file audit-2026-10.jsonl --key 9b1f…",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if marks, err = readMark(kept); err != nil {
				return err
			}
			switch {
			case file != "" && against != "":
				return usage("want --file, which asks no server, or --against, which does")
			case key != "" && file == "" && against == "":
				return usage("--key goes with --file or --against")
			case file == "":
				return server.run(cmd.Context(), p, args)
			}
			f, err := checkAuditFile(file, key, marks...)
			if err != nil {
				return err
			}
			if p.json {
				return p.printJSON(f)
			}
			p.say("the chain holds: %d records, signed at %s\n", f.Records, when(&f.SignedAt))
			if key == "" {
				p.say("signed by %s: is that the server's? provctl audit checkpoint shows it, and --key compares\n", f.Key)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "file", "", "check an exported `FILE` and ask no server")
	f.StringVar(&key, "key", "", "the public `KEY` that has to have signed the file")
	f.StringVar(&against, "against", "", "hold the server's audit against an earlier export in this `FILE`")
	f.StringVar(&kept, "checkpoint", "", "a checkpoint that was kept elsewhere, as `RECORD:HASH`; the first 12 digits of the hash are "+
		"enough")
	return cmd
}

// readMark reads --checkpoint.
func readMark(kept string) ([]api.AuditMark, error) {
	if kept == "" {
		return nil, nil
	}
	seq, digits, _ := strings.Cut(kept, ":")
	n, err := strconv.ParseInt(seq, 10, 64)
	hash, bad := hex.DecodeString(digits)
	if err != nil || bad != nil || n < 1 || len(hash) < 6 || len(hash) > 32 {
		return nil, usage("--checkpoint: want a record's number, a colon and at least 12 hexadecimal digits of its hash, such as " +
			"4711:9b1f00c2a7d4")
	}
	return []api.AuditMark{{Seq: n, Hash: hash}}, nil
}

func checkAuditFile(name, key string, marks ...api.AuditMark) (api.AuditFileChecked, error) {
	in, err := os.Open(name)
	if err != nil {
		return api.AuditFileChecked{}, unusable("%w", err)
	}
	defer in.Close()
	f, err := api.CheckAuditFile(in, marks...)
	if err != nil {
		return f, failed("%s was changed, or is no export of an audit: %w", name, err)
	}
	if key != "" && !strings.EqualFold(key, f.Key) {
		return f, failed("%s was signed with another key: %s", name, f.Key)
	}
	return f, nil
}

// verifyAudit asks the server whether its chain is whole, and whether it is the one
// of an earlier export and of checkpoints that were kept elsewhere.
func verifyAudit(ctx context.Context, c *api.Client, against string, old api.AuditFileChecked, marks []api.AuditMark) (api.AuditVerified,
	error) {
	v, err := c.VerifyAudit(ctx)
	if err != nil {
		return v, err
	}
	record := func(seq int64) (hash string, err error) {
		page, err := c.Audit(ctx, api.AuditQuery{After: seq - 1, Limit: 1})
		if err == nil && len(page.Records) > 0 && page.Records[0].Seq == seq {
			hash = page.Records[0].Hash
		}
		return hash, err
	}
	if against != "" && v.Intact {
		hash, err := record(old.Records)
		if err != nil {
			return v, err
		}
		if hash != old.Hash {
			v.Intact, v.Problem = false, fmt.Sprintf("record %d is not the one that %s has: the chain was made anew", old.Records, against)
		}
	}
	for _, m := range marks {
		if !v.Intact {
			break
		}
		text, err := record(m.Seq)
		if err != nil {
			return v, err
		}
		if hash, _ := hex.DecodeString(text); !m.Fits(hash) {
			v.Intact = false
			v.Problem = fmt.Sprintf("record %d is missing or is not the one whose checkpoint was kept: the end was cut off, or the chain "+
				"was made anew", m.Seq)
		}
	}
	return v, nil
}

func (p *program) auditExport() *cobra.Command {
	file := ""
	cmd := &cobra.Command{
		Use: "export --out FILE", Short: "Sign the audit and write it to a file that can be checked without a server", Args: cobra.NoArgs,
		Long: "Signs the audit as it stands and writes all of it as JSON lines: keep the file on another machine.\n" +
			"provctl audit verify --file FILE checks it, and no byte of it can be another one unseen.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usage("--out is needed: a new file for the export")
			}
			c, out, err := p.clientAndFile(file)
			if err != nil {
				return err
			}
			w := bufio.NewWriter(out.f)
			last, err := c.ExportAudit(cmd.Context(), w)
			if err == nil {
				err = w.Flush()
			}
			if err == nil {
				err = out.write(nil)
			}
			if err != nil {
				return out.drop(err)
			}
			if p.json {
				return p.printJSON(last)
			}
			p.say("%d records: written to %s\nsigned by %s\n", last.Seq, file, last.Key)
			return nil
		},
	}
	outFlag(cmd.Flags(), &file, "it")
	return cmd
}
