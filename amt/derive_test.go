package amt_test

import (
	"testing"

	"github.com/provisiond/provisiond/amt"
)

// TestDerivePassword: the vector was computed with openssl:
//
//	printf 'Digest:A4070000000000000000000000000000admin' |
//	  openssl dgst -sha256 -hmac 'P@ssw0rd-Master' -binary | base64
func TestDerivePassword(t *testing.T) {
	t.Parallel()
	const realm = "Digest:A4070000000000000000000000000000"
	master := amt.NewSecret("P@ssw0rd-Master")
	got, err := amt.DerivePassword(master, realm, "admin")
	if err != nil {
		t.Fatal(err)
	}
	if want := "FX8lbDl28wfIftKcJW2qZxVXx4kDTPsA"; got.Reveal() != want {
		t.Errorf("%s, want %s", got.Reveal(), want)
	}
	all, err := amt.DerivedPasswords(master, realm, "admin")
	if err != nil || len(all) != 4 || !all[0].Equal(got) {
		t.Fatalf("%d readings, %v", len(all), err)
	}
	seen := map[string]bool{}
	for i, s := range all {
		p := s.Reveal()
		if n := len(p); n != 32 && n != 44 || seen[p] {
			t.Errorf("reading %d has %d characters, or is another's", i, n)
		}
		seen[p] = true
	}
	other, err := amt.DerivePassword(master, realm+"1", "admin")
	if err != nil || other.Equal(got) {
		t.Error("two devices get one password")
	}
	if _, err := amt.DerivePassword(amt.Secret{}, realm, "admin"); err == nil {
		t.Error("derived from nothing")
	}
}
