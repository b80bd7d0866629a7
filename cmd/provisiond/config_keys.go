package main

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"iter"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/provisiond/provisiond/server/api"
)

// configSource is the manual: the comments of Config's fields.
//
//go:embed config.go
var configSource string

// A Key is one leaf of Config with its manual entry.
type Key struct {
	Name    string `json:"key"`
	Type    string `json:"type"`
	Default string `json:"default"`
	Env     string `json:"environment"`
	Doc     string `json:"doc"`
}

// Keys lists every key in the order of the struct.
func Keys() ([]Key, error) {
	docs, err := fieldDocs()
	if err != nil {
		return nil, err
	}
	cfg := Defaults()
	var keys []Key
	var walk func(v reflect.Value, prefix string)
	walk = func(v reflect.Value, prefix string) {
		for _, f := range reflect.VisibleFields(v.Type()) {
			name := join(prefix, f.Tag.Get("yaml"))
			fv := v.FieldByIndex(f.Index)
			if isGroup(fv.Type()) {
				walk(fv, name)
				continue
			}
			k := Key{Name: name, Type: typeName(fv.Type(), f), Default: show(fv), Env: envName(name), Doc: docs[v.Type().Name()+"."+f.Name]}
			if strings.Contains(name, "[]") {
				k.Env = ""
			}
			keys = append(keys, k)
			if fv.Kind() == reflect.Slice && isGroup(fv.Type().Elem()) {
				walk(reflect.Zero(fv.Type().Elem()), name+"[]")
			}
		}
	}
	walk(reflect.ValueOf(cfg), "")
	return keys, nil
}

// fieldDocs reads the comment above each field: "Hello.Listen" to text.
func fieldDocs() (map[string]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", configSource, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("read the manual: %w", err)
	}
	docs := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		ts, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		st, ok := ts.Type.(*ast.StructType)
		if !ok {
			return true
		}
		for _, f := range st.Fields.List {
			for _, name := range f.Names {
				docs[ts.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
			}
		}
		return true
	})
	return docs, nil
}

// A Setting is one key as it is in force.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin Origin `json:"origin"`
}

// Settings lists what is in force, without passwords.
func Settings(cfg Config, origins Origins) []Setting {
	var out []Setting
	eachLeaf(reflect.ValueOf(&cfg).Elem(), "", func(v reflect.Value, key string, _ reflect.StructField) {
		o, ok := origins[key]
		if !ok {
			o = Origin{Source: "default"}
		}
		out = append(out, Setting{key, show(v), o})
	})
	return out
}

// show prints a value the way YAML takes it.
func show(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		if x != 0 && x%(24*time.Hour) == 0 {
			return fmt.Sprintf("%dd", x/(24*time.Hour))
		}
		s := x.String()
		if strings.HasSuffix(s, "m0s") {
			s = strings.TrimSuffix(s, "0s")
		}
		if strings.HasSuffix(s, "h0m") {
			s = strings.TrimSuffix(s, "0m")
		}
		return s
	case DSN:
		return quoteEmpty(x.String())
	case []Certificate:
		parts := make([]string, len(x))
		for i, c := range x {
			parts[i] = fmt.Sprintf("{pfx: %s, password_file: %s, force: %t}", c.PFX, quoteEmpty(string(c.PasswordFile)), c.Force)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	switch v.Kind() {
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = fmt.Sprint(v.Index(i).Interface())
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.String:
		return quoteEmpty(v.String())
	}
	return fmt.Sprint(v.Interface())
}

func quoteEmpty(s string) string {
	if s == "" {
		return `""`
	}
	return s
}

func isGroup(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[netip.Prefix]()
}

// eachLeaf visits every key that holds a value or a list.
func eachLeaf(v reflect.Value, prefix string, visit func(reflect.Value, string, reflect.StructField)) {
	for _, f := range reflect.VisibleFields(v.Type()) {
		key := join(prefix, f.Tag.Get("yaml"))
		if fv := v.FieldByIndex(f.Index); isGroup(fv.Type()) {
			eachLeaf(fv, key, visit)
		} else {
			visit(fv, key, f)
		}
	}
}

func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	for _, f := range reflect.VisibleFields(t) {
		if f.Tag.Get("yaml") == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func flagName(key string) string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(key)
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of keys"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}

func typeName(t reflect.Type, f reflect.StructField) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[netip.Prefix]():
		return "network"
	case reflect.TypeFor[File]():
		return "file"
	case reflect.TypeFor[Listen]():
		return "address:port"
	case reflect.TypeFor[DSN]():
		return "url"
	}
	if set := f.Tag.Get("oneof"); set != "" {
		return strings.ReplaceAll(set, " ", "|")
	}
	switch t.Kind() {
	case reflect.Slice:
		if isGroup(t.Elem()) {
			return "list of groups"
		}
		return "list of " + typeName(t.Elem(), reflect.StructField{})
	case reflect.Int:
		return "number"
	case reflect.Bool:
		return "true|false"
	}
	return "text"
}

// examples by key, where the type alone says too little.
var examples = map[string]string{
	"admission": "admission: approve", "level": "level: info", "format": "format: json", "tls": "tls: server", "min_tls": `min_tls: "1.0"`,
	"reprovision": "reprovision: approve", "mebx": "mebx: set", "url": "url: postgres://provisiond@db.example.com/provisiond",
	"data_dir":     "data_dir: /var/lib/provisiond",
	"certificates": "certificates: [{pfx: /etc/provisiond/amt.pfx, password_file: /etc/provisiond/amt.pass}]",
	"zones":        "zones: [corp.example.com]", "relays": "relays: [relay-1.example.com]",
	"networks": "networks: [10.20.0.0/16]", "issuer_networks": "issuer_networks: [0.0.0.0/0, \"::/0\"]",
	"proxy_from": "proxy_from: [10.0.0.4/32]", "exec": "exec: [/usr/local/bin/print-key, --name, provisiond]",
}

// exampleFor is a line that would be right.
func exampleFor(key string, t reflect.Type) string {
	name := key[strings.LastIndex(key, ".")+1:]
	name, _, _ = strings.Cut(name, "[")
	if e, ok := examples[name]; ok {
		return e
	}
	switch t {
	case reflect.TypeFor[time.Duration]():
		return name + ": 30s"
	case reflect.TypeFor[netip.Prefix]():
		return name + ": [10.20.0.0/16]"
	case reflect.TypeFor[Listen]():
		return name + `: "127.0.0.1:8080"`
	case reflect.TypeFor[File]():
		return name + ": /etc/provisiond/" + strings.ReplaceAll(name, "_", "-")
	}
	switch t.Kind() {
	case reflect.Bool:
		return name + ": true"
	case reflect.Int:
		return name + ": 20"
	case reflect.Slice:
		return name + ": [one, two]"
	}
	return name + ": text"
}

// exampleOf shows a group with its first key.
func exampleOf(t reflect.Type) string {
	for _, f := range reflect.VisibleFields(t) {
		if !isGroup(f.Type) {
			return "{" + exampleFor(f.Tag.Get("yaml"), f.Type) + "}"
		}
	}
	return ""
}

// suggest finds what an unknown key was meant to be: the nearest of its
// neighbours, else a key of that name elsewhere.
func suggest(t reflect.Type, prefix, name string) string {
	var here []string
	for _, f := range reflect.VisibleFields(t) {
		here = append(here, f.Tag.Get("yaml"))
	}
	if near := api.Nearest(name, here, max(1, len(name)/3)); near != "" {
		return near
	}
	for _, n := range here { // password for password_file
		if strings.HasPrefix(n, name+"_") {
			return n
		}
	}
	var found []string
	cfg := Defaults()
	eachLeaf(reflect.ValueOf(&cfg).Elem(), "", func(_ reflect.Value, key string, _ reflect.StructField) {
		if strings.HasSuffix(key, "."+name) && !strings.HasPrefix(key, prefix+"."+name) {
			found = append(found, key)
		}
	})
	if len(found) > 0 && len(found) < 4 {
		return strings.Join(found, " or ")
	}
	return ""
}

func mapKeys(m map[string]bool) iter.Seq[string] {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
