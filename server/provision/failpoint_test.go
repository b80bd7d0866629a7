//go:build failpoints

package provision

import (
	"context"
	"reflect"
	"testing"
)

// TestFailpointsEverywhere: each call of the two seams that can be interrupted
// passes a failpoint; one that is added to a seam and not here is found.
func TestFailpointsEverywhere(t *testing.T) {
	t.Parallel()
	ctx := reflect.TypeFor[context.Context]()
	for seam, value := range map[reflect.Type]func(*failpoints) any{
		reflect.TypeFor[Device](): func(f *failpoints) any { return &failingDevice{nil, f} },
		reflect.TypeFor[Store]():  func(f *failpoints) any { return &failingStore{nil, f} },
	} {
		for i := range seam.NumMethod() {
			m := seam.Method(i)
			if m.Type.NumIn() == 0 || m.Type.In(0) != ctx {
				continue // says nothing to anybody
			}
			f := &failpoints{passed: map[string]int{}}
			args := make([]reflect.Value, m.Type.NumIn())
			for j := range args {
				args[j] = reflect.Zero(m.Type.In(j))
			}
			func() {
				defer func() { _ = recover() }() // there is nothing behind the wrapper
				reflect.ValueOf(value(f)).MethodByName(m.Name).Call(args)
			}()
			if len(f.passed) == 0 {
				t.Errorf("%s.%s passes no failpoint", seam.Name(), m.Name)
			}
		}
	}
}
