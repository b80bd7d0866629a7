package profile

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// Change is one key of the document and what it says before and after, as text.
type Change struct {
	Field string `json:"field"`
	From  string `json:"from"`
	To    string `json:"to"`
}

// Differences lists what b says otherwise than a, in the order of the document.
// Name and version say which document it is, not what is wanted of a device.
func Differences(a, b Profile) []Change {
	out := []Change{}
	compare("", reflect.ValueOf(a), reflect.ValueOf(b), &out)
	return out
}

// compare walks two documents of one type side by side. A section that one of them
// lacks is compared key by key with an empty one.
func compare(at string, a, b reflect.Value, out *[]Change) {
	for _, f := range reflect.VisibleFields(a.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || at == "" && (name == "name" || name == "version") {
			continue
		}
		from, to := a.FieldByIndex(f.Index), b.FieldByIndex(f.Index)
		if t := f.Type; t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct {
			compare(at+name+".", section(from), section(to), out)
			continue
		}
		if was, is := said(from), said(to); was != is {
			*out = append(*out, Change{at + name, was, is})
		}
	}
}

func section(v reflect.Value) reflect.Value {
	if v.IsNil() {
		return reflect.Zero(v.Type().Elem())
	}
	return v.Elem()
}

// said is a key's value as text; "" for one that is absent.
func said(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	switch value := v.Interface().(type) {
	case []string:
		return strings.Join(value, ", ")
	case encoding.TextMarshaler:
		text, _ := value.MarshalText()
		return string(text)
	default:
		if v.Kind() == reflect.Slice { // of sections
			if v.Len() == 0 {
				return ""
			}
			text, _ := json.Marshal(value)
			return string(text[1 : len(text)-1])
		}
		return fmt.Sprint(value)
	}
}
