package profile

import (
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
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		name, _, _ := strings.Cut(va.Type().Field(i).Tag.Get("json"), ",")
		if name == "name" || name == "version" {
			continue
		}
		if from, to := said(va.Field(i)), said(vb.Field(i)); from != to {
			out = append(out, Change{name, from, to})
		}
	}
	return out
}

func said(v reflect.Value) string {
	if list, ok := v.Interface().([]string); ok {
		return strings.Join(list, ", ")
	}
	return fmt.Sprint(v.Interface())
}
