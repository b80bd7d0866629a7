package profile

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDifferences: every key of the document is compared, whichever is added to
// it, but for the two that name it.
func TestDifferences(t *testing.T) {
	t.Parallel()
	a := Default()
	if got := Differences(a, a); len(got) != 0 {
		t.Errorf("%v of a document and itself", got)
	}
	for i := range reflect.TypeFor[Profile]().NumField() {
		b := Default()
		switch f := reflect.ValueOf(&b).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("other")
		case reflect.Int:
			f.SetInt(77)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"a.example", "b.example"}))
		default:
			t.Fatalf("a kind of key that is not compared: %s", f.Kind())
		}
		want := 1
		if name := reflect.TypeFor[Profile]().Field(i).Name; name == "Name" || name == "Version" {
			want = 0
		}
		if got := Differences(a, b); len(got) != want {
			t.Errorf("%s: %v", reflect.TypeFor[Profile]().Field(i).Name, got)
		}
	}
	b := a
	b.TLS, b.TrustedCN, b.CertificateDays = TLSMutual, []string{"a.example", "b.example"}, 90
	want := []Change{{"tls", "server", "mutual"}, {"trusted_cn", "", "a.example, b.example"}, {"certificate_days", "825", "90"}}
	if d := cmp.Diff(want, Differences(a, b)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
