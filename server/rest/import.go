package rest

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/typed"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// importRow is a line as it was understood.
type importRow struct {
	api.ImportRow
	word    api.Vouch
	line    int
	uuid    amt.UUID
	network netip.Prefix
	address netip.Addr
	expires time.Time
	garbled bool // holds letters that only one of the engines takes
}

const maxImport = 100000

// readImport reads CSV with a heading, or a JSON list of objects with the same
// words, and says in words what it read. Every problem of the file is found at
// once.
func readImport(text []byte, now time.Time) (rows []importRow, read string, bad []api.ImportProblem) {
	text, from := typed.Text(text)
	if t := bytes.TrimLeft(text, " \t\r\n"); len(t) > 0 && t[0] == '[' {
		read = "JSON"
		dec := json.NewDecoder(bytes.NewReader(t))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&rows); err != nil {
			return nil, read, []api.ImportProblem{{Line: 1, Problem: "not a JSON list of devices: " + err.Error()}}
		}
		for i := range rows {
			rows[i].line = i + 1
		}
	} else if rows, read, bad = readCSV(text); len(bad) > 0 {
		return nil, read, bad
	}
	if from != "" {
		read += ", from " + from
	}
	if len(rows) == 0 {
		return nil, read, []api.ImportProblem{{Line: 1, Problem: "there is no device in it"}}
	}
	if len(rows) > maxImport {
		return nil, read, []api.ImportProblem{{Line: 1, Problem: fmt.Sprintf("%d devices; %d at a time, please", len(rows), maxImport)}}
	}
	seen := map[string]int{}
	for i := range rows {
		r := &rows[i]
		for _, problem := range r.check(now) {
			bad = append(bad, api.ImportProblem{Line: r.line, Problem: problem})
		}
		for _, e := range r.entries() {
			key := e.kind + " " + e.value
			if first, twice := seen[key]; twice {
				bad = append(bad, api.ImportProblem{Line: r.line, Problem: fmt.Sprintf("%s is in line %d too", key, first)})
			}
			seen[key] = r.line
		}
	}
	return rows, read, bad
}

var separators = map[rune]string{',': "commas", ';': "semicolons", '\t': "tabs"}

// separator is what divides the fields: what Excel's first line sep=; says, else
// what the heading holds most of. rest is the text behind such a line.
func separator(text []byte) (comma rune, to []byte) {
	first, to, _ := bytes.Cut(text, []byte("\n"))
	if said := bytes.Trim(first, "\" \t\r"); len(said) >= 4 && strings.EqualFold(string(said[:4]), "sep=") {
		sep := bytes.TrimPrefix(bytes.TrimRight(bytes.TrimLeft(first, "\" "), "\r\""), said[:4]) // a tab is white space too
		for comma := range separators {
			if string(sep) == string(comma) {
				return comma, to
			}
		}
		return 0, to
	}
	heading := text
	for len(heading) > 0 {
		line, more, _ := bytes.Cut(heading, []byte("\n"))
		if t := bytes.TrimSpace(line); len(t) > 0 && t[0] != '#' {
			heading = line
			break
		}
		heading = more
	}
	comma = ','
	for _, c := range []rune{';', '\t'} { // as spreadsheets of half of Europe write it; as text
		if bytes.Count(heading, []byte(string(c))) > bytes.Count(heading, []byte(string(comma))) {
			comma = c
		}
	}
	return comma, text
}

func readCSV(text []byte) (rows []importRow, read string, bad []api.ImportProblem) {
	if !bytes.Contains(text, []byte("\n")) {
		text = bytes.ReplaceAll(text, []byte("\r"), []byte("\n")) // an old Mac's
	}
	comma, to := separator(text)
	if comma == 0 {
		return nil, "", []api.ImportProblem{{Line: 1, Problem: "sep= wants a comma, a semicolon or a tab"}}
	}
	before := bytes.Count(text[:len(text)-len(to)], []byte("\n"))
	r := csv.NewReader(bytes.NewReader(to))
	r.TrimLeadingSpace, r.Comma, r.Comment, r.FieldsPerRecord = comma != '\t', comma, '#', -1
	head, err := r.Read()
	for err == nil && blank(head) {
		head, err = r.Read()
	}
	if wrong := (*csv.ParseError)(nil); errors.As(err, &wrong) {
		return nil, "", []api.ImportProblem{{Line: wrong.Line + before, Problem: fmt.Sprintf("column %d: %v", wrong.Column, wrong.Err)}}
	}
	if err != nil {
		return nil, "", []api.ImportProblem{{Line: 1, Problem: "no heading: want columns such as uuid,fqdn,profile"}}
	}
	at, _ := r.FieldPos(0)
	for len(head) > 1 && blank(head[len(head)-1:]) {
		head = head[:len(head)-1] // a separator at the end of each line
	}
	set := make([]func(*importRow, string), len(head))
	for i, h := range head {
		head[i] = strings.ToLower(strings.TrimSpace(h))
		set[i] = column(head[i])
		if set[i] == nil {
			bad = append(bad, api.ImportProblem{Line: at + before,
				Problem: fmt.Sprintf("unknown column %q; want uuid, serial, mac, network, address, fqdn, profile, tags, note, expires, "+
					"fingerprint, trust_first", api.Clip(h, 40))})
		}
	}
	if len(bad) > 0 {
		return nil, "", bad
	}
	read = fmt.Sprintf("CSV divided by %s, columns %s", separators[comma], strings.Join(head, ", "))
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			return rows, read, bad
		}
		if err != nil {
			line := 1
			if e := (*csv.ParseError)(nil); errors.As(err, &e) {
				line, err = e.Line+before, fmt.Errorf("column %d: %w", e.Column, e.Err)
			}
			return nil, read, append(bad, api.ImportProblem{Line: line, Problem: err.Error()})
		}
		line, _ := r.FieldPos(0)
		if blank(rec) {
			continue
		}
		row := importRow{line: line + before}
		for len(rec) > len(head) && blank(rec[len(rec)-1:]) {
			rec = rec[:len(rec)-1]
		}
		if len(rec) > len(head) {
			bad = append(bad, api.ImportProblem{Line: row.line, Problem: fmt.Sprintf("%d fields under %d headings", len(rec), len(head))})
			continue
		}
		for i, v := range rec {
			set[i](&row, strings.TrimSpace(v))
		}
		rows = append(rows, row)
	}
}

func blank(fields []string) bool {
	for _, f := range fields {
		if strings.TrimSpace(f) != "" {
			return false
		}
	}
	return true
}

// legible says what is wrong with the letters of a value; both engines then hold
// the same.
func legible(name, v string) string {
	for i, r := range v {
		switch {
		case r == utf8.RuneError && !utf8.ValidString(v[i:]):
			return fmt.Sprintf("column %s: byte 0x%02x of %q is no UTF-8; the list is perhaps Latin-1 (Windows-1252, \"ANSI\"): save it "+
				"as UTF-8 or as Unicode text", name, v[i], api.Clip(strings.ToValidUTF8(v, "?"), 40))
		case r == utf8.RuneError:
			return fmt.Sprintf("column %s: a letter of %q was lost in a change of encoding: send the file as it is, or as UTF-8", name,
				api.Clip(v, 40))
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r == 0x7f:
			return fmt.Sprintf("column %s: a control character (U+%04X) in %q: take it out", name, r,
				api.Clip(strings.Map(printable, v), 40))
		}
	}
	return ""
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '?'
	}
	return r
}

func column(name string) func(*importRow, string) {
	switch name {
	case "uuid":
		return func(r *importRow, v string) { r.UUID = v }
	case "serial":
		return func(r *importRow, v string) { r.Serial = v }
	case "mac":
		return func(r *importRow, v string) { r.MAC = v }
	case "network":
		return func(r *importRow, v string) { r.Network = v }
	case "address":
		return func(r *importRow, v string) { r.Address = v }
	case "fqdn", "name":
		return func(r *importRow, v string) { r.FQDN = v }
	case "profile":
		return func(r *importRow, v string) { r.Profile = v }
	case "tags":
		return func(r *importRow, v string) {
			r.Tags = strings.FieldsFunc(v, func(c rune) bool { return c == ' ' || c == '|' })
		}
	case "note":
		return func(r *importRow, v string) { r.Note = v }
	case "expires":
		return func(r *importRow, v string) { r.Expires = v }
	case "fingerprint":
		return func(r *importRow, v string) { r.Fingerprint = v }
	case "trust_first":
		return func(r *importRow, v string) {
			r.TrustFirst = slices.Contains([]string{"1", "true", "yes", "x"}, strings.ToLower(v))
		}
	}
	return nil
}

// check reads what is text so far, and lists what is wrong with it.
func (r *importRow) check(now time.Time) (bad []string) {
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	for _, f := range [][2]string{{"uuid", r.UUID}, {"serial", r.Serial}, {"mac", r.MAC}, {"network", r.Network}, {"address", r.Address},
		{"fqdn", r.FQDN},
		{"profile", r.Profile}, {"tags", strings.Join(r.Tags, " ")}, {"note", r.Note}, {"expires", r.Expires}, {"fingerprint", r.Fingerprint}} {
		if wrong := legible(f[0], f[1]); wrong != "" {
			r.garbled = true
			return append(bad, wrong)
		}
	}
	if r.UUID == "" && r.Serial == "" && r.MAC == "" && r.Network == "" {
		say("names no device: want a uuid, serial, mac or network")
	}
	var err error
	if r.UUID != "" {
		if r.uuid, err = amt.ParseUUID(r.UUID); err != nil {
			say("%v", err)
		} else if r.uuid.IsPlaceholder() {
			say("uuid %s is a placeholder that many machines carry", r.uuid)
		}
	}
	if r.MAC != "" {
		mac, ok := operate.MACOf(r.MAC)
		if !ok {
			say("mac %q: want 12 hexadecimal digits", api.Clip(r.MAC, 40))
		}
		r.MAC = operate.Colons(mac)
	}
	if r.Network != "" {
		if r.network, err = netip.ParsePrefix(r.Network); err != nil {
			if a, e := netip.ParseAddr(r.Network); e == nil {
				r.network, err = netip.PrefixFrom(a, a.BitLen()), nil
			}
		}
		switch {
		case err != nil:
			say("network %q: want such as 10.20.0.0/16", api.Clip(r.Network, 40))
		case r.network != r.network.Masked():
			say("network %s has bits set behind its length; perhaps %s is meant", r.Network, r.network.Masked())
		}
	}
	if r.Address != "" {
		a, err := netip.ParseAddr(r.Address)
		switch {
		case err != nil || a.Zone() != "":
			say("address %q: want such as 10.20.3.7", api.Clip(r.Address, 40))
		case r.UUID == "":
			say("an address without the uuid of the device that has it")
		}
		r.address = a.Unmap()
	}
	if r.word = (api.Vouch{Fingerprint: r.Fingerprint, TrustFirst: r.TrustFirst}); operate.Vouches(r.word) {
		if _, err := operate.Fingerprint(r.word); err != nil {
			say("%s", strings.TrimPrefix(err.Error(), "body."))
		} else if r.UUID == "" {
			say("a word for a certificate without the uuid of the device that shows it")
		}
	}
	if len(r.Tags) > 0 && r.UUID == "" {
		say("tags without the uuid of the device that gets them")
	}
	if r.FQDN = strings.ToLower(strings.TrimSuffix(r.FQDN, ".")); r.FQDN != "" {
		if err := profile.CheckFQDN(r.FQDN); err != nil {
			say("%v", err)
		}
		if r.UUID == "" && r.Serial == "" && r.MAC == "" && r.network.IsValid() && !r.network.IsSingleIP() {
			say("one name for all devices in %s", r.network)
		}
	}
	if r.Expires != "" {
		for _, layout := range []string{time.RFC3339, time.DateOnly} {
			if r.expires, err = time.Parse(layout, r.Expires); err == nil {
				break
			}
		}
		switch {
		case err != nil:
			say("expires %q: want such as 2027-01-31", api.Clip(r.Expires, 40))
		case !r.expires.After(now):
			say("expires %s is over", r.Expires)
		}
	}
	for _, t := range r.Tags {
		if len(t) > 64 {
			say("tag %q is longer than 64 characters", api.Clip(t, 40))
		}
	}
	if len(r.Serial) > 128 || len(r.Note) > 500 || len(r.Profile) > 64 {
		say("a serial, note or profile is too long")
	}
	return bad
}

// vouch keeps what a list says of a device's certificate.
func (r *importRow) vouch(ctx context.Context, tx *store.Tx) error {
	if !operate.Vouches(r.word) {
		return nil
	}
	sum, err := operate.Fingerprint(r.word)
	if err != nil {
		return err
	}
	return tx.Vouch(ctx, r.uuid, sum)
}

type importEntry struct{ kind, value string }

func (r *importRow) entries() (out []importEntry) {
	if !r.uuid.IsZero() {
		out = append(out, importEntry{"uuid", r.uuid.String()})
	}
	if r.Serial != "" {
		out = append(out, importEntry{"serial", strings.ToLower(r.Serial)})
	}
	if r.MAC != "" {
		out = append(out, importEntry{"mac", r.MAC})
	}
	if r.network.IsValid() {
		out = append(out, importEntry{"network", r.network.String()})
	}
	return out
}
