package rest

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/provisiond/provisiond/server/profile"
)

// TestAProfileIsShownWhole: whoever shows a profile, edits the text and applies it
// loses no key. A document with everything comes out as it went in.
func TestAProfileIsShownWhole(t *testing.T) {
	t.Parallel()
	full := profile.Default()
	fill(reflect.ValueOf(&full).Elem())
	asked, err := yaml.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := yaml.Marshal(toProfile(full))
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := yaml.Unmarshal(asked, &want); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(shown, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what is asked for and what is shown (-asked +shown):\n%s", diff)
	}
}

// fill gives every field a value that is not its zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	}
}
