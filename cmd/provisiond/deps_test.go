package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/provisiond/provisiond"

// who may import whom. Read downwards: a line names only packages above it, so
// no cycle can exist. Test files may also import what testOnly names.
const importRule = `
amt/reason       :
amt              :
amt/typed        :
amt/wsman        : amt amt/reason
amt/door         :
amt/hello        : amt amt/typed
amt/hello/receive : amt amt/door amt/hello amt/typed
amt/session      : amt amt/reason amt/wsman
amt/cheapkey     :
amt/sim          : amt amt/hello amt/cheapkey
amt/sim/simtest  :
migrations       :
certs            : amt amt/reason amt/typed
certs/certtest   : amt amt/cheapkey certs
store/chain      :
server/api       : amt amt/reason certs store/chain
store/seal       : amt amt/reason amt/typed
store            : amt amt/reason migrations store/chain store/seal
store/pgtest     :
store/storetest  : store store/pgtest
server/profile   : amt
server/queue     : amt amt/reason store
server/admit     : amt amt/reason amt/hello certs store server/profile server/queue
server/provision : amt amt/reason amt/wsman amt/session certs store server/profile server/queue
server/desk      : amt amt/reason certs store server/api
server/operate   : amt amt/reason certs store server/profile server/queue server/api
server/rest      : amt amt/reason amt/typed amt/hello certs store store/chain server/profile server/queue server/operate server/api server/desk
server/rest/apitest : amt amt/reason store store/seal store/storetest server/api server/operate server/rest
server/console   : amt amt/reason server/api server/operate server/rest
server/doctor    : amt amt/reason amt/session certs store
server           : amt amt/reason amt/door amt/hello amt/hello/receive amt/session certs store store/seal server/profile server/queue server/admit server/provision server/desk server/api server/operate server/rest server/console server/doctor
cmd/amtsim       : amt amt/reason amt/hello amt/sim certs certs/certtest
cmd/provctl      : amt amt/reason amt/typed amt/hello certs server/api
cmd/provisiond   : amt amt/reason amt/typed amt/hello amt/hello/receive amt/session amt/sim certs certs/certtest server server/admit server/profile server/desk server/api server/doctor store store/seal
cmd/built        :
cmd/provisiond/endtoend : amt amt/reason server/api
deploy           : amt
deploy/prometheus :
deploy/runbooks  : amt/reason deploy/prometheus
deploy/grafana/gen : deploy/prometheus
deploy/live      : deploy/prometheus
`

var testOnly = []string{"amt/hello", "amt/hello/receive", "amt/sim", "amt/sim/simtest", "certs", "certs/certtest", "cmd/built", "store",
	"store/pgtest",
	"store/seal", "store/storetest", "server/admit", "server/rest/apitest", "server/profile"}

// TestImportRule parses the files themselves: the answer of go list can come
// from a cache.
func TestImportRule(t *testing.T) {
	allowed := map[string]map[string]bool{}
	var order []string
	for line := range strings.Lines(importRule) {
		name, list, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		name = strings.TrimSpace(name)
		allowed[name] = map[string]bool{}
		for _, p := range strings.Fields(list) {
			if _, above := allowed[p]; !above {
				t.Errorf("the line of %s names %s, which does not stand above it", name, p)
			}
			allowed[name][p] = true
		}
		order = append(order, name)
	}

	root := filepath.Join("..", "..")
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		rel, _ := filepath.Rel(root, filepath.Dir(path))
		pkg := filepath.ToSlash(rel)
		may, known := allowed[pkg]
		if !known {
			t.Errorf("%s: package %s has no line in the import rule", path, pkg)
			return nil
		}
		seen++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imp := range f.Imports {
			p, _ := strconv.Unquote(imp.Path.Value)
			p, ours := strings.CutPrefix(p, module+"/")
			if !ours || may[p] || p == pkg {
				continue
			}
			if strings.HasSuffix(path, "_test.go") && contains(testOnly, p) {
				continue
			}
			t.Errorf("%s: %s may not import %s", path, pkg, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 || len(order) == 0 {
		t.Fatal("no file was checked")
	}
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}
