package rest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/server/rest"
	"github.com/provisiond/provisiond/server/rest/apitest"
	"github.com/provisiond/provisiond/store"
)

const list = `uuid,mac,serial,network,fqdn,profile,tags,note
11223344-5566-7788-99aa-bbccddeeff00,00-11-22-33-44-55,,,PC7.Corp.Example.,,floor2|lab,first
,,PF2ABCDE,,,,,
,,,10.20.0.0/16,,,,the branch
`

// TestDeviceImport: a dry run changes nothing, an import does what it said, and
// doing it again changes nothing.
func TestDeviceImport(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, c := t.Context(), b.Client(b.Token(api.PolicyAdmin))
		u, _ := amt.ParseUUID("11223344-5566-7788-99aa-bbccddeeff00")
		b.Seen(apitest.Device{UUID: u, Lifecycle: store.PendingApproval, Reason: reason.NotAuthorized})
		want := api.ImportReport{DryRun: true, Rows: 3, New: 4, Names: 1, Waiting: 1, Problems: []api.ImportProblem{}}
		got, err := c.ImportDevices(ctx, api.DeviceImport{Document: list, DryRun: true})
		want.Read, got.First = got.Read, nil
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Fatalf("dry run: %v\n%s", err, d)
		}
		if page, err := c.Authorisations(ctx, api.AuthorisationQuery{}); err != nil || len(page.Authorisations) != 0 {
			t.Fatalf("after a dry run: %v %v", page, err)
		}
		want.DryRun = false
		got, err = c.ImportDevices(ctx, api.DeviceImport{Document: list})
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Fatalf("import: %v\n%s", err, d)
		}
		got, err = c.ImportDevices(ctx, api.DeviceImport{Document: list})
		if d := cmp.Diff(api.ImportReport{Rows: 3, Same: 4, Waiting: 1, Problems: []api.ImportProblem{}, Read: want.Read},
			got); err != nil || d != "" {
			t.Fatalf("again: %v\n%s", err, d)
		}
		b.Read(func(ctx context.Context, tx *store.Tx) error {
			d, err := tx.Device(ctx, u)
			if d := cmp.Diff([]string{"floor2", "lab"}, d.Tags); d != "" {
				t.Errorf("tags\n%s", d)
			}
			if n, err := tx.NameOf(ctx, u); err != nil || n.FQDN != "pc7.corp.example" {
				t.Errorf("named %q %v", n.FQDN, err)
			}
			for _, d := range []store.Device{{UUID: u}, {Serial: "pf2abcde"}, {MAC: "00:11:22:33:44:55"}} {
				if _, err := tx.AuthorisedFor(ctx, d); err != nil {
					t.Errorf("%+v: %v", d, err)
				}
			}
			return err
		})
		page, err := c.Authorisations(ctx, api.AuthorisationQuery{Limit: 1})
		if err != nil || len(page.Authorisations) != 1 || page.Next == 0 {
			t.Fatalf("%+v %v", page, err)
		}
		if _, err := c.RemoveAuthorisation(ctx, page.Authorisations[0].ID); err != nil {
			t.Fatal(err)
		}
		if _, err := c.RemoveAuthorisation(ctx, page.Authorisations[0].ID); code(err) != "not_found" {
			t.Errorf("removed twice: %v", err)
		}
	})
}

// TestImportedAddress: where a device is comes from a list, and can be corrected by
// another one, also of a device that was heard elsewhere. One whose place nobody
// knows cannot be adopted.
func TestImportedAddress(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, c := t.Context(), b.Client(b.Admin)
		heard := b.Seen(apitest.Device{Address: "10.20.0.7"})
		silent, _ := amt.ParseUUID("11223344-5566-7788-99aa-bbccddeeff00")
		nowhere, _ := amt.ParseUUID("11223344-5566-7788-99aa-bbccddeeff01")
		address := func(u amt.UUID) (a string) {
			b.Read(func(ctx context.Context, tx *store.Tx) error {
				d, err := tx.Device(ctx, u)
				a = d.Address.String()
				return err
			})
			return a
		}
		for _, list := range []string{
			"uuid,address,serial\n" + heard.String() + ",10.9.9.9,\n" + silent.String() + ",10.1.2.3,\n" + nowhere.String() + ",,A\n",
			`[{"uuid": "` + silent.String() + `", "address": "::ffff:10.1.2.4"}]`,
		} {
			rep, err := c.ImportDevices(ctx, api.DeviceImport{Document: list})
			if err != nil || len(rep.Problems) > 0 {
				t.Fatalf("%+v %v", rep, err)
			}
		}
		if h, s := address(heard), address(silent); h != "10.9.9.9" || s != "10.1.2.4" {
			t.Errorf("the device heard is at %s, the silent one at %s", h, s)
		}
		if _, err := c.AdoptDevice(ctx, nowhere.String(),
			api.Adoption{Password: "Canary-Adopt-1!"}); code(err) != "device_address_unknown" {
			t.Errorf("adopted without an address: %v", err)
		}
		if res, err := c.AdoptDevice(ctx, silent.String(), api.Adoption{Password: "Canary-Adopt-1!"}); err != nil || res.RunID == 0 {
			t.Errorf("%+v %v", res, err)
		}
	})
}

// TestImportedNames: a name in a list is that of a device known already, too, so
// that a rollout brings it there, and of one that never said hello.
func TestImportedNames(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, c := t.Context(), b.Client(b.Admin)
		was := "amt-1.corp.example"
		known := b.Provisioned(apitest.Device{Facts: store.DeviceFacts{FQDN: &was}}, "Admin!1", "MEBx!1")
		silent, _ := amt.ParseUUID("11223344-5566-7788-99aa-bbccddeeff00")
		list := "uuid,fqdn,address\n" + known.String() + ",pc1.corp.example,\n" + silent.String() + ",pc2.corp.example,10.1.2.3\n"
		for range 2 {
			if rep, err := c.ImportDevices(ctx, api.DeviceImport{Document: list}); err != nil || len(rep.Problems) > 0 {
				t.Fatalf("%+v %v", rep, err)
			}
		}
		b.Read(func(ctx context.Context, tx *store.Tx) error {
			for u, want := range map[amt.UUID]string{known: "pc1.corp.example", silent: "pc2.corp.example"} {
				if d, err := tx.Device(ctx, u); err != nil || d.FQDN != want {
					t.Errorf("it is called %q, want %s: %v", d.FQDN, want, err)
				}
			}
			due, _, err := tx.DueDevices(ctx, store.Due{Names: true, Limit: 10})
			if len(due) != 1 || due[0].UUID != known {
				t.Errorf("%d devices have a name due", len(due))
			}
			events, err2 := tx.Events(ctx, store.EventFilter{UUID: known, Name: "identity_resolved", Limit: 10})
			if len(events) != 1 || err2 != nil {
				t.Errorf("%d events tell of the name, want 1: %v", len(events), err2)
			}
			return err
		})
		w, err := c.Why(ctx, "pc2.corp.example")
		if err != nil || !w.Found || !strings.Contains(w.Says, "known from an import") ||
			!strings.Contains(w.Next, "provctl device adopt "+silent.String()) {
			t.Errorf("why: %+v %v", w, err)
		}
	})
}

// TestImportProblems: every problem of a file is named with its line, and
// nothing of the file is used.
func TestImportProblems(t *testing.T) {
	t.Parallel()
	b := apitest.New(t)
	c := b.Client(b.Admin)
	for name, row := range map[string]struct {
		document string
		want     []string
	}{
		"empty":            {"", []string{"1: no heading"}},
		"heading only":     {"uuid,fqdn\n", []string{"1: there is no device"}},
		"unknown column":   {"uuid,color\n", []string{`1: unknown column "color"`}},
		"not JSON":         {"[{]", []string{"1: not a JSON list"}},
		"unknown field":    {`[{"uuid":"11223344-5566-7788-99aa-bbccddeeff00","colour":"red"}]`, []string{"1: not a JSON list"}},
		"several":          {"uuid,mac,network,note\nxyz,,\n,12,\n,,10.1.2.3/16\n,,\n,,,spare\n", []string{"2: uuid", "3: mac", "4: network", "6: names no device"}},
		"lost letters":     {"serial,note\nS\ufffd-7,\n", []string{"2: column serial: a letter"}},
		"lost in JSON":     {`[{"serial":"S\u0000"}]`, []string{"1: column serial: a control character (U+0000)"}},
		"another sep":      {"sep=|\nserial\n", []string{"1: sep= wants"}},
		"no heading over":  {"serial,,fqdn\nA,x,pc\n", []string{`1: unknown column ""`}},
		"too many fields":  {"serial,fqdn,\nA,pc1.example,,x\n", []string{"2: 4 fields under 2 headings"}},
		"twice":            {"serial\nA\na\n", []string{"3: serial a is in line 2 too"}},
		"placeholder":      {"uuid\n03000200-0400-0500-0006-000700080009\n", []string{"2: uuid 03000200"}},
		"no such profile":  {"serial,profile\nA,kiosk\n", []string{"2: there is no profile kiosk"}},
		"one name for all": {"network,fqdn\n10.0.0.0/8,pc.example\n", []string{"2: one name for all"}},
		"bad name":         {"serial,fqdn\nA,pc_1.example\n", []string{`2: name "pc_1.example"`}},
		"an address":       {"uuid,serial,address\n,A,10.1.2.3\n11223344-5566-7788-99aa-bbccddeeff00,,10.1.2\n", []string{"2: an address without the uuid", `3: address "10.1.2"`}},
		"tags of no one":   {"network,serial,tags\n10.0.0.0/8,,lab\n,A,lab\n", []string{"2: tags without the uuid", "3: tags without the uuid"}},
		"over":             {"serial,expires\nA,2020-01-01\n", []string{"2: expires 2020-01-01 is over"}},
		"semicolons":       {"serial;fqdn\nA;pc_1\n", []string{`2: name "pc_1"`}},
	} {
		t.Run(name, func(t *testing.T) {
			rep, err := c.ImportDevices(t.Context(), api.DeviceImport{Document: row.document})
			if err != nil {
				t.Fatal(err)
			}
			if len(rep.Problems) != len(row.want) {
				t.Fatalf("%d problems: %+v", len(rep.Problems), rep.Problems)
			}
			for i, w := range row.want {
				line, text, _ := strings.Cut(w, ": ")
				if p := rep.Problems[i]; line[0]-'0' != byte(p.Line) || !strings.HasPrefix(p.Problem, text) {
					t.Errorf("line %d: %s; want %s", p.Line, p.Problem, w)
				}
			}
		})
	}
	if page, err := c.Authorisations(t.Context(), api.AuthorisationQuery{}); err != nil || len(page.Authorisations) != 0 {
		t.Errorf("something was used: %+v %v", page, err)
	}
}

// TestListsFromTheField: lists as Excel, PowerShell and others save them give the
// same device; what cannot be read is named with line and column. Both engines
// say the same, and a refused list leaves nothing.
func TestListsFromTheField(t *testing.T) {
	t.Parallel()
	const row = "4c4c4544-0035-4610-8042-c6c04f303332"
	files := map[string][]byte{ // beside those in testdata
		"old-mac.csv":      []byte("uuid;fqdn;address\r" + row + ";pc1.corp.example.com;10.20.3.7\r"),
		"quoted.csv":       []byte("\"UUID\";\"FQDN\"\n\"" + row + "\";\"pc1.corp.example.com\"\n"),
		"empty-tail.csv":   []byte("\n;;\nuuid;fqdn;\n" + row + ";pc1.corp.example.com;\n;;;\n;;;\n"),
		"sep-tab.txt":      utf16le("sep=\t\r\nuuid\tfqdn\r\n" + row + "\tpc1.corp.example.com\r\n"),
		"no-mark.txt":      utf16le("uuid\tfqdn\r\n" + row + "\tpc1.corp.example.com\r\n")[2:],
		"blanks.csv":       []byte("uuid,\u00a0fqdn\n" + row + "\u00a0, pc1.corp.example.com \n"),
		"latin1-later.csv": []byte("uuid,fqdn,note\n" + row + ",pc1.corp.example.com,a\n,,\n" + row[:35] + "3,,B\xfcro 3\n"),
		"bare-quote.csv":   []byte("\"UUID\" ;x\n"), "nul-alone.csv": []byte("serial\nS\x007\n"),
		"latin1-heading.csv": []byte("uuid,\xfc\n"),
	}
	both(t, func(t *testing.T, b *apitest.Bench) {
		c := b.Client(b.Admin)
		send := func(name string, dry bool) (api.ImportReport, error) {
			data, ok := files[name]
			if !ok {
				var err error
				if data, err = os.ReadFile(filepath.Join("testdata", "lists", name)); err != nil {
					t.Fatal(err)
				}
			}
			return c.ImportDevices(t.Context(), api.DeviceImport{File: data, DryRun: dry})
		}
		for name, want := range map[string]string{
			"latin1.csv": "2 column serial: byte 0xc4", "nul-in-note.csv": "2 column note: a control character (U+0000)",
			"scientific-mac.csv": `2 mac "1.12E+11"`, "german-date.csv": "2 expires", "other-headings.csv": "1 unknown column",
			"latin1-later.csv": "4 column note: byte 0xfc", "nul-alone.csv": "2 column serial: a control character (U+0000)",
			"latin1-heading.csv": "1 unknown column", "bare-quote.csv": "1 column 6: extraneous",
		} {
			rep, err := send(name, false)
			if err != nil || len(rep.Problems) == 0 ||
				!strings.HasPrefix(fmt.Sprintf("%d %s", rep.Problems[0].Line, rep.Problems[0].Problem), want) {
				t.Errorf("%s: %+v, %v", name, rep.Problems, err)
			}
		}
		if page, err := c.Authorisations(t.Context(), api.AuthorisationQuery{}); err != nil || len(page.Authorisations) != 0 {
			t.Errorf("something was used: %+v %v", page, err)
		}
		for _, letters := range []string{"S\x007", "S\xc4-7"} {
			_, err := c.Devices(t.Context(), api.DeviceQuery{Q: letters})
			_, err2 := c.Why(t.Context(), letters)
			for _, err := range []error{err, err2} {
				if p := (*api.Problem)(nil); !errors.As(err, &p) || p.Code != api.CodeInvalid || !strings.Contains(p.Detail, "zero byte") {
					t.Errorf("a search for %q: %v", letters, err)
				}
			}
		}
		for name, read := range map[string]string{
			"excel-unicode-text.txt": "divided by tabs, columns uuid, fqdn, address, from UTF-16LE", "sep-line.csv": "semicolons",
			"semicolon.csv": "semicolons", "trailing-comma.csv": "commas",
			"blank-rows.csv": "commas", "utf8-bom.csv": "commas", "powershell.csv": "commas", "capital-braces.csv": "commas",
			"space-after-comma.csv": "commas, columns uuid, fqdn, address",
			"old-mac.csv":           "semicolons", "quoted.csv": "semicolons, columns uuid, fqdn",
			"empty-tail.csv": "semicolons, columns uuid, fqdn",
			"sep-tab.txt":    "tabs, columns uuid, fqdn, from UTF-16LE", "no-mark.txt": "tabs", "blanks.csv": "commas, columns uuid, fqdn",
		} {
			rep, err := send(name, true)
			if _, err := send(name, false); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err != nil || len(rep.Problems) > 0 || rep.Rows != 1 || rep.New+rep.Same != 1 || !strings.Contains(rep.Read, read) ||
				len(rep.First) != 1 || !strings.EqualFold(strings.Trim(rep.First[0].UUID, "{}"), row) ||
				rep.First[0].FQDN != "pc1.corp.example.com" {
				t.Errorf("%s: %+v, %v", name, rep, err)
			}
		}
	})
}

// utf16le is a text as Excel and PowerShell write it.
func utf16le(text string) []byte {
	out := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(text)) {
		out = append(out, byte(u), byte(u>>8))
	}
	return out
}

// TestRulesTellTheConfiguredSources: where no rule speaks of names, the
// configuration's sources are asked, and said to be.
func TestRulesTellTheConfiguredSources(t *testing.T) {
	t.Parallel()
	want := []profile.Source{profile.ReverseDNS, profile.Pattern}
	b := apitest.New(t, apitest.With(func(d *rest.Deps) { d.NameSources = want }))
	v, err := b.Client(b.Admin).TestRules(t.Context(), b.Seen(apitest.Device{}).String())
	if d := cmp.Diff([]string{"reverse_dns", "pattern"}, v.Names); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
}

// TestRules: applied whole, compared, refused whole, and tried on a device.
func TestRules(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, c := t.Context(), b.Client(b.Token(api.PolicyAdmin))
		u := b.Seen(apitest.Device{Address: "10.20.0.7"})
		if _, err := c.ApplyProfile(ctx, "kiosk", api.NewProfile{Document: map[string]any{"host_name": "kiosk-{uuid8}",
			"extend_hours": 2}}); err != nil {
			t.Fatal(err)
		}
		rules := []map[string]any{
			{"name": "old", "match": map[string]any{"amt": "<6"}, "assign": map[string]any{"profile": "kiosk"}},
			{"name": "branch", "match": map[string]any{"networks": []string{"10.20.0.0/16"}}, "assign": map[string]any{"profile": "kiosk", "names": []string{"assigned", "reverse_dns"}, "domain": "branch.example"}},
			{"name": "rest", "match": map[string]any{}, "assign": map[string]any{}},
		}
		rep, err := c.ApplyRules(ctx, api.RuleSet{Rules: rules, DryRun: true})
		want := api.RulesReport{DryRun: true, Added: []string{"old", "branch", "rest"}, Changed: []string{}, Removed: []string{}}
		if d := cmp.Diff(want, rep); err != nil || d != "" {
			t.Fatalf("%v\n%s", err, d)
		}
		if l, err := c.Rules(ctx); err != nil || len(l.Rules) != 0 {
			t.Fatalf("after a dry run: %+v %v", l, err)
		}
		if _, err := c.ApplyRules(ctx, api.RuleSet{Rules: rules}); err != nil {
			t.Fatal(err)
		}
		v, err := c.TestRules(ctx, u.String())
		if err != nil || v.Rule != "branch" || v.Profile != "kiosk" || v.Domain != "branch.example" || len(v.Tried) != 2 ||
			!strings.Contains(v.Tried[0].Why, "not known before") {
			t.Errorf("%+v %v", v, err)
		}
		rep, err = c.ApplyRules(ctx, api.RuleSet{Rules: rules[1:]})
		want = api.RulesReport{Added: []string{}, Changed: []string{"branch", "rest"}, Removed: []string{"old"}}
		if d := cmp.Diff(want, rep); err != nil || d != "" {
			t.Errorf("%v\n%s", err, d)
		}
		rep, err = c.ApplyRules(ctx, api.RuleSet{Rules: rules[1:]})
		if err != nil || rep.Same != 2 {
			t.Errorf("again: %+v %v", rep, err)
		}
		for name, bad := range map[string]map[string]any{
			"no such profile": {"name": "x", "assign": map[string]any{"profile": "nope"}},
			"unknown key":     {"name": "x", "when": 1},
			"bad bounds":      {"name": "x", "match": map[string]any{"amt": "eleven"}},
			"bad network":     {"name": "x", "match": map[string]any{"networks": []string{"10.20.0.1/16"}}},
			"bad source":      {"name": "x", "assign": map[string]any{"names": []string{"oracle"}}},
			"no name":         {},
		} {
			if _, err := c.ApplyRules(ctx, api.RuleSet{Rules: []map[string]any{bad}}); code(err) != "invalid_request" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if l, err := c.Rules(ctx); err != nil || len(l.Rules) != 2 {
			t.Errorf("a bad list changed something: %+v %v", l, err)
		}
	})
}

// TestProfiles: versions are kept, equal ones are not made twice, and what
// firmware could not take is refused.
func TestProfiles(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, c := t.Context(), b.Client(b.Token(api.PolicyAdmin))
		for i, hours := range []int{2, 2, 3} {
			p, err := c.ApplyProfile(ctx, "kiosk", api.NewProfile{Document: map[string]any{"extend_hours": hours}})
			if want := []int{1, 1, 2}[i]; err != nil || p.Version != want || p.Profile.ExtendHours != hours {
				t.Errorf("version %d with %d hours, want %d: %v", p.Version, p.Profile.ExtendHours, want, err)
			}
		}
		if p, err := c.Profile(ctx, "kiosk", 1); err != nil || p.Profile.ExtendHours != 2 {
			t.Errorf("%+v %v", p, err)
		}
		if _, err := c.Profile(ctx, "kiosk", 9); code(err) != "not_found" {
			t.Errorf("version 9: %v", err)
		}
		for _, bad := range []map[string]any{{"extend_hours": 99}, {"tls": "maybe"}, {"colour": "red"}, {"host_name": "{nothing}"}} {
			if _, err := c.ApplyProfile(ctx, "kiosk", api.NewProfile{Document: bad}); code(err) != "invalid_request" {
				t.Errorf("%v: %v", bad, err)
			}
		}
		l, err := c.Profiles(ctx)
		if err != nil || len(l.Profiles) != 2 || l.Profiles[0].Name != "default" || l.Profiles[1].Version != 2 {
			t.Errorf("%+v %v", l, err)
		}
	})
}

// TestProfileHistory: what each version changed, from the newest on; going back
// makes a new version that says what the old one said, and says first how many
// devices it is for.
func TestProfileHistory(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, c := t.Context(), b.Client(b.Token(api.PolicyAdmin))
		for _, doc := range []map[string]any{{"extend_hours": 2}, {"extend_hours": 3, "tls": "mutual"},
			{"extend_hours": 3, "tls": "mutual", "domain": "kiosk.example"}} {
			if _, err := c.ApplyProfile(ctx, "kiosk", api.NewProfile{Document: doc}); err != nil {
				t.Fatal(err)
			}
		}
		kiosk, other := "kiosk", "default"
		b.Provisioned(apitest.Device{Facts: store.DeviceFacts{Profile: &kiosk}}, "Canary-Admin-9!", "Canary-Mebx-9!")
		b.Provisioned(apitest.Device{Facts: store.DeviceFacts{Profile: &other}}, "Canary-Admin-9!", "Canary-Mebx-9!")
		b.Seen(apitest.Device{Lifecycle: store.Failed, Facts: store.DeviceFacts{Profile: &kiosk}})

		history := func(limit int) (out []string) {
			t.Helper()
			q := api.ProfileHistoryQuery{Name: "kiosk", Limit: limit}
			for {
				page, err := c.ProfileHistory(ctx, q)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range page.Versions {
					line := fmt.Sprint(v.Version)
					for _, ch := range v.Changes {
						line += fmt.Sprintf(" %s:%s>%s", ch.Field, ch.From, ch.To)
					}
					out = append(out, line)
					if v.CreatedBy != "token:t-policy-admin" || v.CreatedAt == nil {
						t.Errorf("version %d: by %q at %v", v.Version, v.CreatedBy, v.CreatedAt)
					}
				}
				if q.Before = page.Next; q.Before == 0 {
					return out
				}
			}
		}
		three := []string{"3 domain:>kiosk.example", "2 tls:server>mutual extend_hours:2>3", "1"}
		for _, limit := range []int{1, 2, 3, 50} {
			if d := cmp.Diff(three, history(limit)); d != "" {
				t.Errorf("in pages of %d (-want +got)\n%s", limit, d)
			}
		}
		for _, x := range []struct {
			from, to, version, changes int
			code                       string
		}{
			{1, 0, 3, 3, ""}, {1, 2, 2, 2, ""}, {3, 1, 1, 3, ""}, {3, 3, 3, 0, ""}, {0, 2, 2, 0, ""}, {9, 0, 3, 0, "not_found"}, {1, 9, 0, 0, "not_found"},
		} {
			v, err := c.DiffProfile(ctx, "kiosk", x.from, x.to)
			if code(err) != x.code || err == nil && v.Version != x.version || len(v.Changes) != x.changes {
				t.Errorf("from %d to %d: %+v, %v", x.from, x.to, v, err)
			}
		}
		if _, err := c.ProfileHistory(ctx, api.ProfileHistoryQuery{Name: "nope"}); code(err) != "not_found" {
			t.Errorf("a profile that is not there: %v", err)
		}

		dry, err := c.ApplyProfile(ctx, "kiosk", api.NewProfile{Version: 1, DryRun: true})
		if err != nil || len(dry.Changes) != 3 || dry.Devices != 1 || dry.Version != 0 {
			t.Errorf("the dry run: %+v, %v", dry, err)
		}
		if d := cmp.Diff(three, history(0)); d != "" {
			t.Errorf("the dry run kept something (-want +got)\n%s", d)
		}
		back, err := c.ApplyProfile(ctx, "kiosk", api.NewProfile{Version: 1})
		if err != nil || back.Version != 4 || back.Profile.ExtendHours != 2 || back.Profile.TLS != "server" || back.Profile.Domain != "" ||
			back.Devices != 1 {
			t.Errorf("going back: %+v, %v", back, err)
		}
		if again, err := c.ApplyProfile(ctx, "kiosk", api.NewProfile{Version: 1}); err != nil || again.Version != 4 || again.Devices != 0 {
			t.Errorf("going back twice: %+v, %v", again, err)
		}
		for name, n := range map[string]api.NewProfile{"nothing": {}, "both": {Version: 1, Document: map[string]any{"extend_hours": 1}}} {
			if _, err := c.ApplyProfile(ctx, "kiosk", n); code(err) != "invalid_request" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := c.ApplyProfile(ctx, "kiosk", api.NewProfile{Version: 9}); code(err) != "not_found" {
			t.Errorf("back to a version that is not there: %v", err)
		}
		if _, err := b.Client(b.Token(api.Operator)).ApplyProfile(ctx, "kiosk", api.NewProfile{Version: 2}); code(err) != "role_missing" {
			t.Errorf("an operator went back: %v", err)
		}
	})
}

// TestNames: for a device heard of or not.
func TestNames(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, c := t.Context(), b.Client(b.Token(api.Operator))
		known, unknown := b.Seen(apitest.Device{}), amt.UUID{1, 2, 3}
		for _, u := range []amt.UUID{known, unknown} {
			if _, err := c.NameDevice(ctx, u.String(), api.NewName{FQDN: "PC9.corp.example"}); err != nil {
				t.Errorf("%s: %v", u, err)
			}
		}
		if _, err := c.NameDevice(ctx, known.String(), api.NewName{FQDN: "not a name"}); code(err) != "invalid_request" {
			t.Errorf("%v", err)
		}
		d, err := c.Device(ctx, known.String())
		if err != nil || d.FQDN != "pc9.corp.example" {
			t.Errorf("%q %v", d.FQDN, err)
		}
	})
}

// TestAdopt: the password is sealed as the newest candidate, and asked for
// within the limit.
func TestAdopt(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, b *apitest.Bench) {
		ctx, c := t.Context(), b.Client(b.Token(api.Operator))
		u := b.Seen(apitest.Device{Lifecycle: store.CredentialsUnknown, Reason: reason.CredentialsUnknown})
		res, err := c.AdoptDevice(ctx, u.String(), api.Adoption{Password: "Canary-Adopt-1!"})
		if err != nil || res.RunID == 0 {
			t.Fatalf("%+v %v", res, err)
		}
		b.Read(func(ctx context.Context, tx *store.Tx) error {
			list, err := tx.Credentials(ctx, u, store.KindAdmin)
			if len(list) == 0 || list[0].Password.Reveal() != "Canary-Adopt-1!" &&
				(len(list) < 2 || list[1].Password.Reveal() != "Canary-Adopt-1!") {
				t.Errorf("%d passwords", len(list))
			}
			return err
		})
		// One that has refused passwords is left alone, and everybody is told for how long.
		b.Write(func(ctx context.Context, tx *store.Tx) error {
			if err := tx.FinishRun(ctx, res.RunID, store.RunFailed, reason.CredentialsUnknown, "refused", ""); err != nil {
				return err
			}
			return tx.Transition(ctx, store.Transition{UUID: u, To: store.CredentialsUnknown, Reason: reason.CredentialsUnknown,
				Event: "test", Actor: "system"})
		})
		for _, again := range []func() (api.ActionResult, error){
			func() (api.ActionResult, error) {
				return c.AdoptDevice(ctx, u.String(), api.Adoption{Password: "Canary-Adopt-2!"})
			},
			func() (api.ActionResult, error) { return c.Act(ctx, "retry", u.String(), "") },
		} {
			if res, err := again(); err != nil || !strings.Contains(res.Said, "within the hour") ||
				!strings.Contains(res.Said, "in 59 minutes") && !strings.Contains(res.Said, "in 60 minutes") {
				t.Errorf("after a refusal: %+v %v", res, err)
			}
		}
		managed := b.Provisioned(apitest.Device{}, "Canary-Admin-9!", "Canary-Mebx-9!")
		if _, err := c.AdoptDevice(ctx, managed.String(), api.Adoption{Password: "x"}); code(err) != "device_managed" {
			t.Errorf("%v", err)
		}
	})
}
