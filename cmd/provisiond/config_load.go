package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
)

const envPrefix = "PROVISIOND_"

// clientEnv are variables of provctl with the same prefix.
var clientEnv = []string{"PROVISIOND_ADDRESS", "PROVISIOND_TOKEN_FILE", "PROVISIOND_TOKEN", "PROVISIOND_CA", "PROVISIOND_CONFIG"}

// A Problem is one thing wrong with the configuration, in words for whoever
// wrote it. It never holds the value of a key that is secret.
type Problem struct {
	Where   string `json:"where"` // file:line, the environment variable or the flag
	Key     string `json:"key"`
	What    string `json:"what"`
	Why     string `json:"why,omitempty"`
	Example string `json:"example,omitempty"`
}

// String is "file:line: key: what is wrong; why; example: …".
func (p Problem) String() string {
	s := p.Where + ": "
	if p.Key != "" {
		s += p.Key + ": "
	}
	s += p.What
	if p.Why != "" {
		s += "; " + p.Why
	}
	if p.Example != "" {
		s += "; example: " + p.Example
	}
	return s
}

// An Origin says where a value came from.
type Origin struct {
	Source string `json:"source"` // default, file, environment or flag
	Where  string `json:"where"`  // file:line, the variable's or the flag's name, empty for a default
}

// Origins has an entry for each key that does not have its default.
type Origins map[string]Origin

// Load overlays the defaults with the file at path (none when empty), with env
// (in the form of os.Environ) and with flags (key to text, only those given). It
// reports every problem at once; the Config is to be used only when there is none.
func Load(ctx context.Context, path string, env []string, flags map[string]string) (Config, Origins, []Problem) {
	l := &loader{ctx: ctx, cfg: Defaults(), path: path, origins: Origins{}, env: map[string]string{}}
	for _, kv := range env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			l.env[k] = v
		}
	}
	root := reflect.ValueOf(&l.cfg).Elem()
	if path != "" {
		l.file(root)
	}
	l.environment(root)
	l.flags(root, flags)
	l.validate()
	slices.SortStableFunc(l.problems, func(a, b Problem) int { return a.line() - b.line() })
	return l.cfg, l.origins, l.problems
}

func (p Problem) line() int {
	_, n, _ := strings.Cut(p.Where, ":")
	i, _ := strconv.Atoi(n)
	return i
}

type loader struct {
	ctx      context.Context
	cfg      Config
	path     string
	env      map[string]string
	origins  Origins
	problems []Problem
}

func (l *loader) problem(where, key, what, why, example string) {
	l.problems = append(l.problems, Problem{where, key, what, why, example})
}

// wrong is a problem with a value, wherever it came from.
func (l *loader) wrong(key, what, why, example string) {
	if slices.ContainsFunc(l.problems, func(p Problem) bool { return p.Key == key }) {
		return // what follows from the first problem helps nobody
	}
	o := l.origins[key]
	for k := key; o.Where == "" && k != ""; o = l.origins[k] { // a missing key is the fault of its parent's line
		k = k[:max(0, strings.LastIndexAny(k, ".["))]
		if k == "" {
			break
		}
	}
	where := o.Where
	if where == "" {
		where = l.path
	}
	if where == "" {
		where = "default"
	}
	l.problem(where, key, what, why, example)
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

func (l *loader) file(root reflect.Value) {
	text, err := os.ReadFile(l.path)
	if err != nil {
		what, why := unreadable(l.path, err)
		l.problem(l.path, "", what, why, "provisiond serve --config /etc/provisiond/config.yaml")
		return
	}
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if len(strings.TrimSpace(string(text))) == 0 || err.Error() == "EOF" {
			return // an empty file is the defaults
		}
		where, what := l.path+":1", strings.TrimPrefix(err.Error(), "yaml: ") // the library leaves line 1 out
		if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
			where, what = l.path+":"+m[1], strings.TrimPrefix(err.Error(), m[0])
		}
		l.problem(where, "", "not YAML: "+what, "indentation is by spaces, and a value with a colon or # in it is quoted",
			`hello: {listen: "0.0.0.0:9971"}`)
		return
	}
	if len(doc.Content) == 0 {
		return
	}
	l.mapping(root, doc.Content[0], "")
	var more yaml.Node
	if dec.Decode(&more) == nil {
		l.problem(l.at(&more), "", "a second document", "one file holds one configuration; remove the line ---", "")
	}
}

func (l *loader) at(n *yaml.Node) string { return l.path + ":" + strconv.Itoa(max(1, n.Line)) }

// mapping sets the struct v from the keys of n.
func (l *loader) mapping(v reflect.Value, n *yaml.Node, key string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		l.problem(l.at(n), key, "want keys with values, not "+kindOf(n), "this key is a group", exampleOf(v.Type()))
		return
	}
	if key != "" {
		l.origins[key] = Origin{"file", l.at(n)}
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, val := n.Content[i], n.Content[i+1]
		if first, twice := seen[k.Value]; twice {
			l.problem(l.at(k), join(key, k.Value), fmt.Sprintf("said twice, first in line %d", first), "only one could win", "")
			continue
		}
		seen[k.Value] = k.Line
		f, ok := fieldNamed(v.Type(), k.Value)
		if !ok {
			what := "unknown key"
			if s := suggest(v.Type(), key, k.Value); s != "" {
				what += ", did you mean " + s + "?"
			}
			l.problem(l.at(k), join(key, k.Value), what, "a key that is not understood would be a wish that is not followed",
				"provisiond config keys lists them all")
			continue
		}
		l.value(v.FieldByIndex(f.Index), val, join(key, k.Value), f)
	}
}

func (l *loader) value(v reflect.Value, n *yaml.Node, key string, f reflect.StructField) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[netip.Prefix]():
		l.mapping(v, n, key)
	case isNull(n):
		// written without a value: the default stays
	case v.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			l.problem(l.at(n), key, "want a list, not "+kindOf(n), "several values are possible here", exampleFor(key, v.Type()))
			return
		}
		l.origins[key] = Origin{"file", l.at(n)}
		list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			l.value(list.Index(i), item, fmt.Sprintf("%s[%d]", key, i), f)
		}
		v.Set(list)
	case n.Kind != yaml.ScalarNode:
		l.problem(l.at(n), key, "want one value, not "+kindOf(n), "", exampleFor(key, v.Type()))
	default:
		l.origins[key] = Origin{"file", l.at(n)}
		l.scalar(v, n.Value, n.ShortTag(), key, f)
	}
}

// environment sets every leaf that has a variable.
func (l *loader) environment(root reflect.Value) {
	known := map[string]bool{}
	for _, n := range slices.Concat(clientEnv, failpointEnv) {
		known[n] = true
	}
	eachLeaf(root, "", func(v reflect.Value, key string, f reflect.StructField) {
		name := envName(key)
		known[name], known[name+"_FILE"] = true, true
		text, given := l.env[name]
		if f.Tag.Get("secret") != "" {
			if file, ok := l.env[name+"_FILE"]; ok && file != "" {
				line, err := passwordIn(file)
				if err != nil {
					what, why := unreadable(file, err)
					l.problem(name+"_FILE", key, what, why, name+"_FILE=/run/credentials/provisiond/database-url")
					return
				}
				if given && text != "" {
					l.problem(name+"_FILE", key, "given together with "+name, "only one could win", "")
				}
				name, text, given = name+"_FILE", line, true
			}
		}
		if !given {
			return
		}
		l.origins[key] = Origin{"environment", name}
		l.text(v, text, key, f)
	})
	var names []string
	for name := range l.env {
		if strings.HasPrefix(name, envPrefix) && !known[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		// Container platforms set PROVISIOND_SERVICE_HOST and the like by
		// themselves, so only what looks like a slip of the pen is a problem.
		if near := api.Nearest(name, slices.Sorted(mapKeys(known)), 2); near != "" {
			l.problem(name, "", "unknown variable, did you mean "+near+"?",
				"a variable that is not understood would be a wish that is not followed", "")
		}
	}
}

func (l *loader) flags(root reflect.Value, flags map[string]string) {
	eachLeaf(root, "", func(v reflect.Value, key string, f reflect.StructField) {
		if text, ok := flags[key]; ok {
			l.origins[key] = Origin{"flag", "--" + flagName(key)}
			l.text(v, text, key, f)
		}
	})
}

// text sets a leaf from a variable or a flag: lists are divided by commas.
func (l *loader) text(v reflect.Value, text, key string, f reflect.StructField) {
	if v.Kind() != reflect.Slice {
		l.scalar(v, text, "", key, f)
		return
	}
	if v.Type().Elem().Kind() == reflect.Struct && v.Type().Elem() != reflect.TypeFor[netip.Prefix]() {
		var doc yaml.Node
		if yaml.Unmarshal([]byte(text), &doc) != nil || len(doc.Content) == 0 || doc.Content[0].Kind != yaml.SequenceNode {
			l.wrong(key, "want a YAML list", "a list of groups has no shorter form", exampleFor(key, v.Type()))
			return
		}
		where, path := l.origins[key], l.path
		l.path = where.Where
		l.value(v, doc.Content[0], key, f)
		l.path = path
		for k := range l.origins {
			if strings.HasPrefix(k, key) {
				l.origins[k] = where
			}
		}
		return
	}
	var parts []string
	for p := range strings.SplitSeq(text, ",") {
		if p = strings.TrimSpace(p); p != "" {
			parts = append(parts, p)
		}
	}
	list := reflect.MakeSlice(v.Type(), len(parts), len(parts))
	for i, p := range parts {
		item := fmt.Sprintf("%s[%d]", key, i)
		l.origins[item] = l.origins[key]
		l.scalar(list.Index(i), p, "", item, f)
	}
	v.Set(list)
}

// scalar parses one value. tag is YAML's idea of its type, empty outside YAML.
func (l *loader) scalar(v reflect.Value, text, tag, key string, f reflect.StructField) {
	say := func(want, why string) {
		shown := strconv.Quote(amt.Clip(text))
		if f.Tag.Get("secret") != "" {
			shown = "what is there"
		}
		l.wrong(key, "want "+want+", not "+shown, why, exampleFor(key, v.Type()))
	}
	switch v.Interface().(type) {
	case time.Duration:
		d, err := parseDuration(text)
		if err != nil {
			say("a duration", err.Error())
			return
		}
		if lo, err := parseDuration(f.Tag.Get("min")); err == nil && d < lo {
			say("at least "+f.Tag.Get("min"), "")
			return
		}
		if hi, err := parseDuration(f.Tag.Get("max")); err == nil && d > hi {
			say("at most "+f.Tag.Get("max"), "")
			return
		}
		v.Set(reflect.ValueOf(d))
		return
	case netip.Prefix:
		p, why := parsePrefix(text)
		if why != "" {
			say("a network", why)
			return
		}
		v.Set(reflect.ValueOf(p))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if tag == "!!bool" {
			say("text", "YAML reads this word as true or false; quote it")
			return
		}
		if set := strings.Fields(f.Tag.Get("oneof")); len(set) > 0 && !slices.Contains(set, text) {
			want := "one of " + strings.Join(set, ", ")
			why := ""
			if near := api.Nearest(text, set, 3); near != "" {
				why = "did you mean " + near + "?"
			}
			say(want, why)
			return
		}
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil || tag != "" && tag != "!!bool" {
			say("true or false", "")
			return
		}
		v.SetBool(b)
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil || tag != "" && tag != "!!int" {
			say("a whole number", "")
			return
		}
		if lo, err := strconv.Atoi(f.Tag.Get("min")); err == nil && n < lo {
			say(fmt.Sprintf("at least %d", lo), "")
			return
		}
		if hi, err := strconv.Atoi(f.Tag.Get("max")); err == nil && n > hi {
			say(fmt.Sprintf("at most %d", hi), "")
			return
		}
		v.SetInt(int64(n))
	default:
		panic("config: no reader for a " + v.Type().String())
	}
}

var days = regexp.MustCompile(`^(\d{1,5})d$`)

// parseDuration is time.ParseDuration with whole days.
func parseDuration(s string) (time.Duration, error) {
	if m := days.FindStringSubmatch(s); m != nil {
		n, _ := strconv.Atoi(m[1])
		return time.Duration(n) * 24 * time.Hour, nil
	}
	if s == "0" {
		return 0, nil
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return 0, errors.New("a number needs its unit: ms, s, m, h or d")
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("the units are ms, s, m, h and, for whole days, d")
	}
	return d, nil
}

// parsePrefix also takes one address, as the network of it alone.
func parsePrefix(s string) (netip.Prefix, string) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), ""
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, "a network is an address, a slash and the number of fixed bits"
	}
	if p != p.Masked() {
		return netip.Prefix{}, "the address has bits behind the mask; did you mean " + p.Masked().String() + "?"
	}
	return p, ""
}

// unreadable turns an error of the file system into what and why.
func unreadable(name string, err error) (what, why string) {
	wd, _ := os.Getwd()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = ""
		if !strings.HasPrefix(name, "/") {
			why = "names without a leading slash start at " + wd
		}
		return fmt.Sprintf("there is no file %q", name), why
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("the file %q may not be read", name), fmt.Sprintf("this process runs as user %d", os.Geteuid())
	}
	if info, serr := os.Stat(name); serr == nil && info.IsDir() {
		return fmt.Sprintf("%q is a directory", name), "a file is wanted here"
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Sprintf("the file %q cannot be read", name), pe.Err.Error()
	}
	return err.Error(), ""
}
