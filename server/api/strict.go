package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Strictly turns a document, as YAML or JSON gave it, into a type. A key that
// the type does not have is an error that says where, and which one was meant.
func Strictly(document, into any) error {
	if err := unknownKey(document, reflect.TypeOf(into).Elem(), ""); err != nil {
		return err
	}
	b, err := json.Marshal(document)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	err = dec.Decode(into)
	if t := (*json.UnmarshalTypeError)(nil); errors.As(err, &t) {
		where := cmp.Or(t.Field, "the document")
		return fmt.Errorf("%s: want %s, not %s", Clip(where, 100), wanted(t.Type), cmp.Or(yamlWords[t.Value], t.Value))
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// yamlWords are what a reader of YAML calls what JSON calls otherwise.
var yamlWords = map[string]string{"array": "a list", "object": "keys and values", "string": "a text", "number": "a number",
	"bool": "true or false"}

// wanted says what stands where a type is read: for a document whose type has
// keys, which ones.
func wanted(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct:
		var names []string
		for _, f := range reflect.VisibleFields(t) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
				names = append(names, name+":")
			}
		}
		return "keys such as " + strings.Join(names[:min(len(names), 4)], ", ")
	case reflect.Map:
		return yamlWords["object"]
	case reflect.Slice, reflect.Array:
		return yamlWords["array"]
	case reflect.Bool:
		return yamlWords["bool"]
	case reflect.String:
		return yamlWords["string"]
	default:
		return yamlWords["number"]
	}
}

// unknownKey looks for the first key in a document that its type does not have.
func unknownKey(document any, t reflect.Type, where string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch doc := document.(type) {
	case []any:
		if t.Kind() != reflect.Slice {
			return nil
		}
		for i, d := range doc {
			if err := unknownKey(d, t.Elem(), fmt.Sprintf("%s[%d]", where, i)); err != nil {
				return err
			}
		}
	case map[string]any:
		if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
			return nil
		}
		fields, names := map[string]reflect.Type{}, []string{}
		for _, f := range reflect.VisibleFields(t) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
				fields[name], names = f.Type, append(names, name)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(doc)) {
			field, known := fields[key]
			if !known {
				return fmt.Errorf("unknown key %q%s", Clip(strings.TrimPrefix(where+"."+key, "."), 100), Meant(key, names))
			}
			if err := unknownKey(doc[key], field, strings.TrimPrefix(where+"."+key, ".")); err != nil {
				return err
			}
		}
	}
	return nil
}

// meant proposes the name that a misspelt one is nearest to, or lists them all.
func Meant(word string, names []string) string {
	near := Nearest(word, names, 1)
	if i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, strings.ToLower(word)) }); near == "" && i >= 0 {
		near = names[i]
	}
	if near == "" {
		near = Nearest(word, names, 2)
	}
	if near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return "; the keys here are " + strings.Join(names, ", ")
}

// Nearest is the candidate with the fewest letters changed, at most limit; ""
// when none is so near.
func Nearest(word string, candidates []string, limit int) string {
	best, near := limit+1, ""
	for _, c := range candidates {
		if d := edits(strings.ToLower(word), strings.ToLower(c)); d < best {
			best, near = d, c
		}
	}
	return near
}

// edits is Levenshtein's distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, cost)
		}
	}
	return row[len(b)]
}
