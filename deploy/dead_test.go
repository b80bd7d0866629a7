package deploy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNothingIsWrittenInVain looks at every field of every struct of this module:
//
//   - one that the program writes is read somewhere: by name, by a comparison, by a
//     page's template, or by an encoder that takes the whole struct;
//   - one that comes from outside (a key of the configuration or of a profile, a part
//     of a request) is read by name: an encoder does not obey it;
//   - one that goes outside (a part of an answer) is written.
//
// Tests do not count: what only they read is dead.
func TestNothingIsWrittenInVain(t *testing.T) {
	t.Parallel()
	p := loadProgram(t)
	for _, pkg := range p.order {
		p.look(pkg)
	}
	p.spread()

	asked, answered := 0, 0
	var wrong []string
	say := func(v *types.Var, format string) {
		wrong = append(wrong, fmt.Sprintf("%s: %s %s", p.where(v), p.owner[v], fmt.Sprintf(format, v.Name())))
	}
	for v := range p.owner {
		if v.Name() == "_" || v.Embedded() || slices.Contains(forTests, strings.TrimPrefix(v.Pkg().Path(), modulePath+"/")) {
			continue
		}
		switch {
		case p.incoming[v]:
			if asked++; !p.read[v] {
				say(v, "takes %s from outside, and nobody reads it: obey it or drop it")
			}
		case p.outgoing[v]:
			if answered++; !p.written[v] {
				say(v, "tells %s to others, and nobody writes it")
			}
		case p.written[v] && !p.read[v] && !p.whole[v]:
			say(v, "is written with %s, and nobody reads it")
		}
	}
	slices.Sort(wrong)
	for _, w := range wrong {
		t.Error(w)
	}
	// A search that finds nothing finds nothing wrong.
	if len(p.owner) < 1500 || asked < 250 || answered < 250 {
		t.Errorf("%d fields were looked at, %d of them from outside and %d to outside: is the search right?", len(p.owner), asked, answered)
	}
	t.Logf("%d fields, %d from outside, %d to outside", len(p.owner), asked, answered)
}

// forTests are packages whose readers are tests.
var forTests = []string{"amt/sim", "certs/certtest", "store/pgtest", "store/storetest", "server/rest/apitest"}

// program is this module as the type checker sees it, without its tests.
type program struct {
	fset  *token.FileSet
	order []*checked
	byWay map[string]*types.Package
	words map[string]map[string]bool // what the templates of a package read: ".Name"

	owner    map[*types.Var]string // each field of this module, and its struct
	read     map[*types.Var]bool   // by name
	written  map[*types.Var]bool
	whole    map[*types.Var]bool // by something that takes the struct as a whole
	incoming map[*types.Var]bool
	outgoing map[*types.Var]bool
	typed    map[*types.Var]bool // a person may write it in a file

	roots struct{ in, out, any []types.Type }
}

type checked struct {
	path  string
	files []*ast.File
	info  *types.Info
}

const modulePath = "github.com/provisiond/provisiond"

func loadProgram(t *testing.T) *program {
	t.Helper()
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Export,GoFiles,Dir", "./amt/...", "./certs/...", "./cmd/...",
		"./migrations/...", "./server/...", "./store/...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) {
			t.Fatalf("%v: %s", err, e.Stderr)
		}
		t.Fatal(err)
	}
	p := &program{fset: token.NewFileSet(), byWay: map[string]*types.Package{}, words: map[string]map[string]bool{},
		owner: map[*types.Var]string{},
		read:  map[*types.Var]bool{}, written: map[*types.Var]bool{}, whole: map[*types.Var]bool{}, incoming: map[*types.Var]bool{},
		outgoing: map[*types.Var]bool{}, typed: map[*types.Var]bool{}}
	exports := map[string]string{}
	theirs := importer.ForCompiler(p.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	imports := importerFunc(func(path string) (*types.Package, error) {
		if own := p.byWay[path]; own != nil {
			return own, nil
		}
		return theirs.Import(path)
	})
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var l struct {
			ImportPath, Export, Dir string
			GoFiles                 []string
		}
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(l.ImportPath, modulePath) {
			exports[l.ImportPath] = l.Export
			continue
		}
		c := &checked{path: l.ImportPath, info: &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{},
			Uses:       map[*ast.Ident]types.Object{},
			Selections: map[*ast.SelectorExpr]*types.Selection{}, Instances: map[*ast.Ident]types.Instance{}}}
		for _, name := range l.GoFiles {
			f, err := parser.ParseFile(p.fset, filepath.Join(l.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			c.files = append(c.files, f)
		}
		own, err := (&types.Config{Importer: imports}).Check(l.ImportPath, p.fset, c.files, c.info)
		if err != nil {
			t.Fatal(err)
		}
		p.byWay[l.ImportPath] = own
		p.order = append(p.order, c)
	}
	p.templates(t)
	return p
}

type importerFunc func(string) (*types.Package, error)

func (f importerFunc) Import(path string) (*types.Package, error) { return f(path) }

// templates collects what the pages read.
func (p *program) templates(t *testing.T) {
	t.Helper()
	action, word := regexp.MustCompile(`(?s)\{\{.*?\}\}`), regexp.MustCompile(`\.([A-Z]\w*)`)
	if err := filepath.WalkDir("../server", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".html" {
			return err
		}
		pkg := modulePath + "/" + filepath.ToSlash(filepath.Dir(filepath.Dir(path)))[len("../"):]
		if p.words[pkg] == nil {
			p.words[pkg] = map[string]bool{}
		}
		for _, a := range action.FindAllString(read(t, path), -1) {
			for _, m := range word.FindAllStringSubmatch(a, -1) {
				p.words[pkg][m[1]] = true
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func (p *program) where(v *types.Var) string {
	pos := p.fset.Position(v.Pos())
	if rel, err := filepath.Rel(mustAbs(".."), pos.Filename); err == nil {
		pos.Filename = rel
	}
	return fmt.Sprintf("%s:%d", pos.Filename, pos.Line)
}

func mustAbs(path string) string { abs, _ := filepath.Abs(path); return abs }

// look notes what one package declares, reads, writes and hands out.
func (p *program) look(c *checked) {
	for _, f := range c.files {
		var stack []ast.Node
		ast.Inspect(f, func(n ast.Node) bool {
			if n == nil {
				stack = stack[:len(stack)-1]
				return true
			}
			stack = append(stack, n)
			switch n := n.(type) {
			case *ast.StructType:
				p.declare(c, n, stack)
			case *ast.SelectorExpr:
				p.selector(c, n, stack)
			case *ast.CompositeLit:
				p.literal(c, n)
			case *ast.BinaryExpr:
				if n.Op == token.EQL || n.Op == token.NEQ {
					p.takesWhole(c.info.TypeOf(n.X))
					p.takesWhole(c.info.TypeOf(n.Y))
				}
			case *ast.MapType:
				p.takesWhole(c.info.TypeOf(n.Key))
			case *ast.CallExpr:
				p.call(c, n)
			case *ast.FuncLit:
				p.route(c.info.TypeOf(n))
			case *ast.Ident:
				if inst, ok := c.info.Instances[n]; ok {
					p.instance(c, n, inst)
				}
			case *ast.FuncDecl:
				p.route(c.info.Defs[n.Name].Type())
			}
			return true
		})
	}
}

func (p *program) declare(c *checked, n *ast.StructType, stack []ast.Node) {
	name := "a struct"
	for i := len(stack) - 1; i >= 0; i-- {
		if spec, ok := stack[i].(*ast.TypeSpec); ok {
			name = spec.Name.Name
			break
		}
	}
	name = strings.TrimPrefix(c.path, modulePath+"/") + "." + name
	s, _ := c.info.TypeOf(n).(*types.Struct)
	for i := range s.NumFields() {
		p.owner[s.Field(i)] = name
		if tag := reflect.StructTag(s.Tag(i)).Get("yaml"); tag != "" && tag != "-" {
			p.typed[s.Field(i)] = true
		}
	}
}

// selector: a field on the left of an assignment is written; so is one through
// which something on the left is reached. Everywhere else it is read.
func (p *program) selector(c *checked, n *ast.SelectorExpr, stack []ast.Node) {
	sel, ok := c.info.Selections[n]
	if !ok {
		return
	}
	// What is embedded on the way is read.
	at := sel.Recv()
	for i, index := range sel.Index() {
		last := i == len(sel.Index())-1
		if last && sel.Kind() != types.FieldVal {
			return // a method
		}
		s, ok := under(at).(*types.Struct)
		if !ok {
			return
		}
		v := s.Field(index).Origin()
		if last {
			if onTheLeft(c, n, stack) {
				p.written[v] = true
			} else {
				p.read[v] = true
			}
			if taken(n, stack) {
				p.written[v] = true
			}
			return
		}
		p.read[v] = true
		at = v.Type()
	}
}

func under(t types.Type) types.Type {
	if ptr, ok := types.Unalias(t).Underlying().(*types.Pointer); ok {
		t = ptr.Elem()
	}
	return t.Underlying()
}

// onTheLeft climbs through indexes, selectors and parentheses to the assignment.
func onTheLeft(c *checked, n ast.Expr, stack []ast.Node) bool {
	at := ast.Node(n)
	for i := len(stack) - 2; i >= 0; i-- {
		switch up := stack[i].(type) {
		case *ast.AssignStmt:
			return slices.ContainsFunc(up.Lhs, func(e ast.Expr) bool { return e == at })
		case *ast.IncDecStmt:
			return up.X == at
		case *ast.RangeStmt:
			return up.Key == at || up.Value == at
		case *ast.ParenExpr:
		case *ast.IndexExpr:
			if up.X != at {
				return false
			}
		case *ast.SelectorExpr:
			if e, ok := at.(ast.Expr); !ok || up.X != at || isPointer(c.info.TypeOf(e)) {
				return false // what a pointer leads to is written, and the pointer is read
			}
		default:
			return false
		}
		at = stack[i]
	}
	return false
}

// taken reports whether a field's address is taken: whoever has it may write.
func taken(n ast.Expr, stack []ast.Node) bool {
	if len(stack) < 2 {
		return false
	}
	up, ok := stack[len(stack)-2].(*ast.UnaryExpr)
	return ok && up.Op == token.AND && up.X == n
}

func (p *program) literal(c *checked, n *ast.CompositeLit) {
	s, ok := under(c.info.TypeOf(n)).(*types.Struct)
	if !ok {
		return
	}
	for i, e := range n.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if v, ok := c.info.Uses[kv.Key.(*ast.Ident)].(*types.Var); ok {
				p.written[v.Origin()] = true
			}
			continue
		}
		p.written[s.Field(i).Origin()] = true
	}
}

var decodes = regexp.MustCompile(`^(Unmarshal|Decode|Scan|Parse|DecodeElement|ReadJSON|fetch|read)`)

// call notes who gets a struct as a whole: a conversion, or a parameter of an
// interface type, behind which an encoder may wait. What is handed over to be
// filled is no reader.
func (p *program) call(c *checked, n *ast.CallExpr) {
	if tv := c.info.Types[n.Fun]; tv.IsType() && len(n.Args) == 1 {
		from, to := c.info.TypeOf(n.Args[0]), tv.Type
		if face, is := to.Underlying().(*types.Interface); is && face.NumMethods() == 0 {
			p.roots.any = append(p.roots.any, from)
		} else if _, is := under(to).(*types.Struct); is {
			p.takesWhole(from)
			p.writesWhole(to)
		}
		return
	}
	sig, ok := c.info.TypeOf(n.Fun).Underlying().(*types.Signature)
	if !ok {
		return
	}
	name := ""
	if id := ident(n.Fun); id != nil {
		name = id.Name
	}
	for i, arg := range n.Args {
		var param types.Type
		switch {
		case sig.Variadic() && i >= sig.Params().Len()-1:
			last := sig.Params().At(sig.Params().Len() - 1).Type()
			if param = last; n.Ellipsis == token.NoPos {
				if s, ok := last.Underlying().(*types.Slice); ok {
					param = s.Elem()
				}
			}
		case i < sig.Params().Len():
			param = sig.Params().At(i).Type()
		}
		if param == nil {
			continue
		}
		if face, is := param.Underlying().(*types.Interface); !is || face.NumMethods() > 0 {
			continue
		}
		of := c.info.TypeOf(arg)
		if u, ok := ast.Unparen(arg).(*ast.UnaryExpr); ok && u.Op == token.AND {
			p.writesWhole(of)
			if f, ok := c.info.Uses[ident(n.Fun)].(*types.Func); ok && f.Pkg().Path() == "encoding/asn1" {
				p.each(of, p.whole, map[types.Type]bool{}) // where a field stands says what it is
			}
			if decodes.MatchString(name) {
				continue
			}
		}
		p.roots.any = append(p.roots.any, of)
	}
}

func ident(e ast.Expr) *ast.Ident {
	switch f := ast.Unparen(e).(type) {
	case *ast.Ident:
		return f
	case *ast.SelectorExpr:
		return f.Sel
	}
	return nil
}

func (p *program) instance(c *checked, n *ast.Ident, inst types.Instance) {
	f, ok := c.info.Uses[n].(*types.Func)
	if !ok {
		return
	}
	params := f.Type().(*types.Signature).TypeParams()
	if f.Pkg() != nil && f.Pkg().Name() == "huma" && f.Name() == "Register" {
		p.roots.in = append(p.roots.in, inst.TypeArgs.At(0))
		p.roots.out = append(p.roots.out, inst.TypeArgs.At(1))
	}
	for i := range inst.TypeArgs.Len() {
		if params != nil && i < params.Len() && params.At(i).Constraint().Underlying().(*types.Interface).IsComparable() {
			p.takesWhole(inst.TypeArgs.At(i))
		}
	}
}

// route: func(context.Context, *Input) (Output, error) is how a request is
// answered.
func (p *program) route(t types.Type) {
	sig, ok := t.(*types.Signature)
	if !ok || sig.Params().Len() != 2 || sig.Results().Len() != 2 || sig.Params().At(0).Type().String() != "context.Context" ||
		sig.Results().At(1).Type().String() != "error" {
		return
	}
	ptr, ok := sig.Params().At(1).Type().(*types.Pointer)
	if !ok || !isInput(ptr.Elem()) {
		return
	}
	p.roots.in = append(p.roots.in, ptr.Elem())
	p.roots.out = append(p.roots.out, sig.Results().At(0).Type())
}

// isInput: its fields say by their tags where in a request they stand.
func isInput(t types.Type) bool {
	s, ok := t.Underlying().(*types.Struct)
	if !ok {
		return false
	}
	if s.NumFields() == 0 {
		return true
	}
	for i := range s.NumFields() {
		tag := reflect.StructTag(s.Tag(i))
		if tag.Get("path") != "" || tag.Get("query") != "" || tag.Get("header") != "" || s.Field(i).Name() == "Body" ||
			s.Field(i).Embedded() && isInput(s.Field(i).Type()) {
			return true
		}
	}
	return false
}

// takesWhole is for a comparison or a conversion of values: it follows no pointer.
func (p *program) takesWhole(t types.Type) {
	switch u := t.Underlying().(type) {
	case *types.Array:
		p.takesWhole(u.Elem())
	case *types.Struct:
		for i := range u.NumFields() {
			p.whole[u.Field(i).Origin()] = true
			p.takesWhole(u.Field(i).Type())
		}
	}
}

func isPointer(t types.Type) bool { _, ok := t.Underlying().(*types.Pointer); return ok }

func (p *program) writesWhole(t types.Type) { p.each(t, p.written, map[types.Type]bool{}) }

// spread carries the marks of the roots to all that they contain.
func (p *program) spread() {
	for _, t := range p.roots.in {
		p.each(t, p.incoming, map[types.Type]bool{})
	}
	for _, t := range p.roots.out {
		p.each(t, p.outgoing, map[types.Type]bool{})
		p.each(t, p.whole, map[types.Type]bool{})
	}
	for v := range p.typed {
		if !p.outgoing[v] { // else the tag is how it is shown
			p.incoming[v] = true
		}
	}
	for _, t := range p.roots.any {
		p.each(t, p.whole, map[types.Type]bool{})
		p.takesWhole(t) // it may be a key
	}
	for path, words := range p.words {
		shown := map[*types.Package]bool{p.byWay[path]: true}
		for _, i := range p.byWay[path].Imports() {
			shown[i] = true
		}
		for v := range p.owner {
			if shown[v.Pkg()] && words[v.Name()] {
				p.whole[v] = true
			}
		}
	}
}

// each marks the fields of a struct that an encoder sees, and of what they contain.
func (p *program) each(t types.Type, mark map[*types.Var]bool, seen map[types.Type]bool) {
	if seen[t] {
		return
	}
	seen[t] = true
	switch u := t.Underlying().(type) {
	case *types.Pointer:
		p.each(u.Elem(), mark, seen)
	case *types.Slice:
		p.each(u.Elem(), mark, seen)
	case *types.Array:
		p.each(u.Elem(), mark, seen)
	case *types.Map:
		p.each(u.Key(), mark, seen)
		p.each(u.Elem(), mark, seen)
	case *types.Struct:
		for i := range u.NumFields() {
			v := u.Field(i).Origin()
			if _, own := p.owner[v]; own && v.Exported() {
				mark[v] = true
				p.each(v.Type(), mark, seen)
			}
		}
	}
}
