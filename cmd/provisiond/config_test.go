package main

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/provisiond/provisiond/certs/certtest"
)

// write puts text into a file of its own and gives the name back.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEmptyFileIsTheDefaults(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n# nothing\n", "---\n", "hello:\napi: {}\ndatabase: {url: \"\"}\n"} {
		cfg, _, problems := Load(t.Context(), write(t, "c.yaml", text), nil, nil)
		if len(problems) > 0 {
			t.Fatalf("%q: %v", text, problems)
		}
		if d := cmp.Diff(Defaults(), cfg, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Fatalf("%q: %s", text, d)
		}
	}
}

func TestLaterSourcesWin(t *testing.T) {
	t.Parallel()
	pfx := write(t, "amt.pfx", "x")
	secret := write(t, "url", "postgres://u:hunter2@db/p\n")
	path := write(t, "c.yaml", `
data_dir: /from/file
hello: {listen: "127.0.0.1:1", read_timeout: 7s, limits: {connections: 0}}
log: {level: warn}
provisioning:
  certificates: [{pfx: `+pfx+`, force: true}]
  networks: [127.0.0.0/8, "10.1.2.3"]
  min_tls: 1.2
retention: {hellos: 7d}
`)
	env := []string{
		"PROVISIOND_HELLO_LISTEN=127.0.0.1:2", "PROVISIOND_LOG_LEVEL=error", "PROVISIOND_ZONES=a.example, b.example",
		"PROVISIOND_DATABASE_URL_FILE=" + secret, "PROVISIOND_SERVICE_HOST=10.0.0.1", "PROVISIOND_PORT_9971_TCP=tcp://10.0.0.1:9971",
	}
	cfg, origins, problems := Load(t.Context(), path, env, map[string]string{"log.level": "debug"})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	want := Defaults()
	want.DataDir = "/from/file"
	want.Database.URL = "postgres://u:hunter2@db/p"
	want.Hello.Listen, want.Hello.ReadTimeout, want.Hello.Limits.Connections = "127.0.0.1:2", 7*time.Second, 0
	want.Log.Level = "debug"
	want.Zones = []string{"a.example", "b.example"}
	want.Provisioning.Certificates = []Certificate{{PFX: File(pfx), Force: true}}
	want.Provisioning.Networks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.1.2.3/32")}
	want.Provisioning.MinTLS = "1.2"
	want.Retention.Hellos = 7 * 24 * time.Hour
	if d := cmp.Diff(want, cfg, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
	for key, o := range map[string]Origin{
		"data_dir":     {"file", path + ":2"},
		"hello.listen": {"environment", "PROVISIOND_HELLO_LISTEN"},
		"database.url": {"environment", "PROVISIOND_DATABASE_URL_FILE"},
		"log.level":    {"flag", "--log-level"},
	} {
		if origins[key] != o {
			t.Errorf("%s: origin %v, want %v", key, origins[key], o)
		}
	}
	for _, s := range Settings(cfg, origins) {
		if strings.Contains(s.Value, "hunter2") {
			t.Errorf("%s prints the password: %s", s.Key, s.Value)
		}
	}
}

// TestProblems: every problem is said, with its line, and none of them with a secret.
func TestProblems(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty := write(t, "empty.pfx", "")
	text := write(t, "text.pem", "no certificate here")
	for _, c := range []struct {
		name, yaml string
		env        []string
		want       []string // each in a problem of its own, {file} is the file's name
	}{
		{"unknown keys", "helo: {}\nhello: {listn: x, limits: {per_sorce_per_minute: 1}}\nlisten: x\n", nil, []string{
			"{file}:1: helo: unknown key, did you mean hello?",
			"{file}:2: hello.listn: unknown key, did you mean listen?",
			"{file}:2: hello.limits.per_sorce_per_minute: unknown key, did you mean per_source_per_minute?",
			"{file}:3: listen: unknown key, did you mean hello.listen or api.listen?"}},
		{"a password in the file", "provisioning:\n  certificates: [{pfx: " + text + ", password: hunter2}]\n", nil, []string{
			"{file}:2: provisioning.certificates[0].password: unknown key, did you mean password_file?"}},
		{"wrong types", "hello: {plain: \"yes\", limits: {connections: many, per_source_per_minute: -1}}\nprovisioning: {networks: 10.0.0.0/8}\nlog: json\nzones: [[a]]\ndata_dir: {a: b}\n", nil, []string{
			"{file}:1: hello.plain: want true or false, not \"yes\"; example: plain: true",
			"{file}:1: hello.limits.connections: want a whole number, not \"many\"",
			"{file}:1: hello.limits.per_source_per_minute: want at least 0",
			"{file}:2: provisioning.networks: want a list, not a single value; several values are possible here; example: networks: " +
				"[10.20.0.0/16]",
			"{file}:3: log: want keys with values, not a single value; this key is a group; example: {level: info}",
			"{file}:4: zones[0]: want one value, not a list",
			"{file}:5: data_dir: want one value, not a group of keys"}},
		{"durations", "hello: {read_timeout: 5}\nprovisioning:\n  retry: {first: soon, max: 1y}\nretention: {events: -1h}\n", nil, []string{
			"{file}:1: hello.read_timeout: want a duration, not \"5\"; a number needs its unit: ms, s, m, h or d; example: read_timeout: " +
				"30s",
			"{file}:3: provisioning.retry.first: want a duration, not \"soon\"",
			"{file}:3: provisioning.retry.max: want a duration, not \"1y\"",
			"{file}:4: retention.events: want at least 0s"}},
		{"addresses", "hello: {listen: \"9971\"}\napi: {listen: \"localhost:http\"}\nprovisioning: {networks: [10.0.0.1/8, nonsense, \"fe80::/10\"]}\n", nil, []string{
			"{file}:1: hello.listen: want address:port, not \"9971\"",
			"{file}:2: api.listen: \"http\" is not a port",
			"{file}:3: provisioning.networks[0]: want a network, not \"10.0.0.1/8\"; the address has bits behind the mask; did you mean " +
				"10.0.0.0/8?",
			"{file}:3: provisioning.networks[1]: want a network, not \"nonsense\""}},
		{"closed sets", "provisioning: {admission: aprove}\nlog: {level: trace}\n", nil, []string{
			"{file}:1: provisioning.admission: want one of open, approve, allow-list, not \"aprove\"; did you mean approve?; example: " +
				"admission: approve",
			"{file}:2: log.level: want one of debug, info, warn, error"}},
		{"an approver for what there is not", "jobs: {second_approver: [unprovision, retyre], second_aprover: 3, second_approver_above: -1}\n", nil, []string{
			"{file}:1: jobs.second_approver[1]: want one of maintain, rotate, unprovision, retire,",
			"{file}:1: jobs.second_aprover: unknown key, did you mean second_approver?",
			"{file}:1: jobs.second_approver_above: want at least 0"}},
		{"files", "hello: {client_ca: " + text + "}\nprovisioning:\n  certificates:\n    - {pfx: " + dir + "}\n    - {pfx: " + empty + "}\n    - {pfx: /nowhere/a.pfx, password_file: relative.txt}\n    - {force: true}\n", nil, []string{
			"{file}:1: hello.client_ca: no certificate in",
			"{file}:4: provisioning.certificates[0].pfx: \"" + dir + "\" is a directory",
			"{file}:5: provisioning.certificates[1].pfx: " + empty + " is empty: export or copy it again",
			"{file}:6: provisioning.certificates[2].pfx: there is no file \"/nowhere/a.pfx\"",
			"{file}:6: provisioning.certificates[2].password_file: there is no file \"relative.txt\"; names without a leading slash " +
				"start at",
			"{file}:7: provisioning.certificates[3].pfx: missing"}},
		{"hardware certificates", "provisioning:\n  odca: {roots: " + text + "}\n", nil, []string{"{file}:2: provisioning.odca.roots: no certificate in"}},
		{"hardware certificates without a root", "provisioning:\n  odca: {policy: require}\n", nil, []string{"{file}:2: provisioning.odca.roots: missing with policy require"}},
		{"an open API", "api: {listen: \"0.0.0.0:8080\"}\n", nil, []string{
			"{file}:1: api.listen: 0.0.0.0:8080 is not loopback and api.tls is not set; tokens and passwords would cross the network in " +
				"clear"}},
		{"half of a pair", "api:\n  tls: {cert: " + text + "}\n", nil, []string{"{file}:2: api.tls.key: missing while api.tls.cert is set"}},
		{"one port twice", "hello: {listen: \":8080\"}\napi: {listen: \":8080\", tls: {cert: a, key: b}}\n", nil, []string{
			"{file}:2: api.listen: the same as hello.listen",
			"{file}:2: api.tls.cert: there is no file",
			"{file}:2: api.tls.key: there is no file"}},
		{"no hello at all", "hello: {plain: false}\n", nil, []string{"{file}:1: hello.plain: false without hello.client_ca"}},
		{"secrets are not repeated", "database: {url: \"mysql://root:hunter2@db/x\"}\n", nil, []string{"{file}:1: database.url: want postgres:// or nothing at all"}},
		{"a secret that is no URL", "database: {url: \"postgres://root:hunter2%zz@db/x\"}\n", nil, []string{"{file}:1: database.url: not a URL"}},
		{"a secret of the wrong type", "database: {url: [hunter2]}\n", nil, []string{"{file}:1: database.url: want one value, not a list"}},
		{"twice", "log: {level: info}\nlog: {level: warn}\n", nil, []string{"{file}:2: log: said twice, first in line 1"}},
		{"not YAML", "a: b: c\n", nil, []string{"{file}:1: not YAML: mapping values are not allowed in this context"}},
		{"tabs", "hello:\n\tlisten: x\n", nil, []string{"{file}:2: not YAML"}},
		{"two documents", "log: {level: info}\n---\nlog: {level: warn}\n", nil, []string{"{file}:2: a second document"}},
		{"not a mapping", "- a\n", nil, []string{"{file}:1: want keys with values, not a list"}},
		{"two master keys", "master_key: {env: KEK, credential: kek}\n", []string{"KEK=00"}, []string{"{file}:1: master_key.credential: given together with master_key.env"}},
		{"names", "zones: [\"a b\"]\nnode: {name: \"a/b\"}\nprovisioning: {profile: {host_name: \"amt-{owner}\", domain: \"-\"}}\n", nil, []string{
			"{file}:1: zones[0]: \"a b\" is not a DNS zone",
			"{file}:2: node.name: \"a/b\" cannot name a node",
			"{file}:3: provisioning.profile.host_name: nothing is known to put for {owner}",
			"{file}:3: provisioning.profile.domain: \"-\" is not a DNS domain"}},
		{"the environment", "", []string{"PROVISIOND_HELLO_LISTEM=x", "PROVISIOND_PROVISIONING_WORKERS=no", "PROVISIOND_DATABASE_URL_FILE=/nowhere", "PROVISIOND_PROVISIONING_CERTIFICATES=x"}, []string{
			"PROVISIOND_PROVISIONING_WORKERS: provisioning.workers: want a whole number, not \"no\"",
			"PROVISIOND_DATABASE_URL_FILE: database.url: there is no file \"/nowhere\"",
			"PROVISIOND_PROVISIONING_CERTIFICATES: provisioning.certificates: want a YAML list",
			"PROVISIOND_HELLO_LISTEM: unknown variable, did you mean PROVISIOND_HELLO_LISTEN?"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := write(t, "c.yaml", c.yaml)
			_, _, problems := Load(t.Context(), path, c.env, nil)
			var said []string
			for _, p := range problems {
				said = append(said, p.String())
				if strings.Contains(p.String(), "hunter2") {
					t.Errorf("a secret is repeated: %s", p)
				}
			}
			if len(said) != len(c.want) {
				t.Errorf("%d problems, want %d:\n%s", len(said), len(c.want), strings.Join(said, "\n"))
			}
			for _, w := range c.want {
				if w = strings.ReplaceAll(w, "{file}", path); !containsPrefix(said, w) {
					t.Errorf("not said: %s\nsaid: %s", w, strings.Join(said, "\n      "))
				}
			}
		})
	}
}

func containsPrefix(list []string, prefix string) bool {
	for _, s := range list {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

func TestFileThatIsNotThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, want := range map[string]string{dir: "is a directory", dir + "/no.yaml": "there is no file"} {
		_, _, problems := Load(t.Context(), path, nil, nil)
		if len(problems) != 1 || !strings.Contains(problems[0].String(), want) {
			t.Errorf("%s: %v, want one problem with %q", path, problems, want)
		}
	}
}

// TestManual: a key without words for meaning, default and reason is not done.
func TestManual(t *testing.T) {
	t.Parallel()
	keys, err := Keys()
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) < 40 {
		t.Errorf("%d keys only", len(keys))
	}
	for _, k := range keys {
		if len(k.Doc) < 20 {
			t.Errorf("%s has no manual entry", k.Name)
		}
		if k.Name == "" || strings.HasSuffix(k.Name, ".") {
			t.Errorf("a field has no yaml name near %q", k.Name)
		}
	}
}

func TestConfigCommands(t *testing.T) {
	t.Parallel()
	good := write(t, "good.yaml", "node: {name: n1}\ndatabase: {url: \"postgres://u:hunter2@db/p?sslpassword=hunter2\"}\n")
	bad := write(t, "bad.yaml", "nod: 1\n")
	for _, c := range []struct {
		args      []string
		out, errs string
		err       error
	}{
		{[]string{"check", "--config", good}, "the configuration is good\n", "", nil},
		{[]string{"check", "--config", bad}, "", bad + ":1: nod: unknown key, did you mean node?", errConfig},
		{[]string{"check", "--config", bad, "--json"}, `"key": "nod"`, "", errConfig},
		{[]string{"print", "--config", good, "--origin", "--node-name", "n2"}, "# flag --node-name", "", nil},
		{[]string{"print", "--config", good}, "postgres://u:xxxxx@db/p?sslpassword=xxxxx", "", nil},
		{[]string{"print", "--config", good, "--json"}, `"source": "file"`, "", nil},
		{[]string{"print", "--config", bad}, "", "unknown key", errConfig},
		{[]string{"keys", "hello.listen"}, "hello.listen  (address:port, default 127.0.0.1:9971)\n    Address and port for hellos.", "", nil},
		{[]string{"keys", "--json"}, `"environment": "PROVISIOND_HELLO_LISTEN"`, "", nil},
	} {
		cmd := newConfigCommand()
		var out, errs bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&errs)
		cmd.SetArgs(c.args)
		if err := cmd.Execute(); err != c.err {
			t.Errorf("%v: error %v, want %v", c.args, err, c.err)
		}
		if !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.errs) {
			t.Errorf("%v:\n%s%s\nwant %q and %q", c.args, out.String(), errs.String(), c.out, c.errs)
		}
		if strings.Contains(out.String()+errs.String(), "hunter2") {
			t.Errorf("%v prints the password", c.args)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("hello: {listen: x}")
	f.Add("a: &a [*a]")
	f.Add("<<: {log: 1}")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, problems := Load(t.Context(), path, nil, nil)
		for _, p := range problems {
			_ = p.String()
		}
	})
}

// TestCheckOpensCertificates: what serve would refuse of a certificate's file,
// config check says with its line, and of each file.
func TestCheckOpensCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	leaf := certtest.NewLab(time.Now()).Plain("Vendor", "provisionserver.corp.example.com")
	for name, b := range map[string][]byte{"amt.pfx": leaf.PFX(certtest.Modern, "secret"), "good": []byte("secret\n"),
		"bad": []byte("Secret\n"), "text.pfx": certtest.PEM(leaf.Chain()...)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(entries string) (string, error) {
		path := filepath.Join(dir, "c.yaml")
		if err := os.WriteFile(path, []byte("data_dir: "+dir+"\nprovisioning:\n  certificates:\n"+strings.ReplaceAll(entries, "DIR", dir)),
			0o600); err != nil {
			t.Fatal(err)
		}
		cmd := newConfigCheck()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs([]string{"--config", path})
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	if said, err := check("  - {pfx: DIR/amt.pfx, password_file: DIR/good}\n"); err != nil || !strings.Contains(said, "is good") {
		t.Errorf("a good one: %v: %s", err, said)
	}
	said, err := check("  - {pfx: DIR/amt.pfx, password_file: DIR/bad}\n  - {pfx: DIR/text.pfx}\n")
	if !errors.Is(err, errConfig) {
		t.Errorf("bad ones: %v", err)
	}
	for _, want := range []string{"c.yaml:4: provisioning.certificates[0].pfx: ", "pfx_password_wrong",
		"c.yaml:5: provisioning.certificates[1].pfx: ", "cert_private_key_missing"} {
		if !strings.Contains(said, want) {
			t.Errorf("want %q in\n%s", want, said)
		}
	}
	if strings.Contains(said, "Secret") {
		t.Errorf("the password is in\n%s", said)
	}
}
