package certs

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/certs/certtest"
)

func rootHashes(t testing.TB, name string, alg amt.HashAlgorithm) amt.TrustHash {
	t.Helper()
	for _, r := range KnownRoots() {
		if r.Name != name {
			continue
		}
		for _, h := range r.Hashes() {
			if h.Algorithm == alg {
				return h
			}
		}
	}
	t.Fatalf("no %s of %s", alg, name)
	return amt.TrustHash{}
}

func TestAdvise(t *testing.T) {
	t.Parallel()
	own := lab().Plain("Advice", "prov.corp.example.com")
	p := load(t, own)
	g2 := rootHashes(t, "Go Daddy Root CA - G2", amt.SHA256)
	class2 := rootHashes(t, "Go Daddy Class 2 CA", amt.SHA1)
	digicert := rootHashes(t, "DigiCert Global Root G2", amt.SHA256)
	fleet := Fleet{
		Tables: map[int64][]amt.TrustHash{
			1: {class2},
			2: {rootHashes(t, "Go Daddy Class 2 CA", amt.SHA256), g2},
			3: {g2, digicert, rootHashes(t, "DigiCert Global Root G2", amt.SHA1), {Algorithm: 9, Sum: []byte{1}}},
			4: {hashOf(t, own, amt.SHA256)},
		},
		Groups: []FleetGroup{
			{Table: 1, Devices: 10, Version: version("5.2"), Suffix: "old.example.com"},
			{Table: 2, Devices: 100, Version: version("11.8"), Suffix: "corp.example.com"},
			{Table: 2, Devices: 7, Version: version("16.1"), Suffix: "corp.example.com"},
			{Table: 3, Devices: 50},
			{Table: 4, Devices: 3, Suffix: "lab.example.com"},
			{Table: 99, Devices: 1},
		},
	}
	a := Advise(fleet, []*Provisioning{p})
	if a.Devices != 171 || a.Served != 3 {
		t.Errorf("171 devices, of which 3 are served: %d, %d", a.Devices, a.Served)
	}
	want := []struct {
		name                   string
		devices, refused, adds int
		held                   bool
	}{
		{"Go Daddy Root CA - G2", 157, 0, 157, false},
		{"Go Daddy Class 2 CA", 110, 7, 10, false},
		{"DigiCert Global Root G2", 50, 0, 0, false},
		{"", 3, 0, 3, true},
	}
	if len(a.Roots) != len(want) {
		t.Fatalf("want %d roots, got %+v", len(want), a.Roots)
	}
	for i, w := range want {
		r := a.Roots[i]
		if w.name != "" && r.Name != w.name || r.Devices != w.devices || r.Refused != w.refused || r.Adds != w.adds || r.Held != w.held ||
			r.Known != (w.name != "") {
			t.Errorf("place %d: want %+v, got %+v", i+1, w, r)
		}
	}
	if r := a.Roots[1]; r.ByVersion["5"] != 10 || r.ByVersion["11"] != 100 || r.ByVersion["16"] != 0 ||
		r.BySuffix["corp.example.com"] != 100 {
		t.Errorf("by version %v, by suffix %v", r.ByVersion, r.BySuffix)
	}
}

func TestChangeNamesWhoIsCutOff(t *testing.T) {
	t.Parallel()
	shape := lab().GoDaddy("prov.corp.example.com")
	both := newProvisioning(shape.Leaf.Cert, shape.Leaf.Key, shape.All(), now)
	onlyNew := newProvisioning(shape.Leaf.Cert, shape.Leaf.Key, shape.Leaf.Issuers, now)
	other := load(t, lab().Plain("Change", "prov.other.io"))
	oldRoot, newRoot := amt.HashesOf(shape.OldRoot.Raw)[1], amt.HashesOf(shape.NewRoot.Raw)[1]
	fleet := Fleet{
		Tables: map[int64][]amt.TrustHash{1: {oldRoot}, 2: {newRoot, oldRoot}, 3: {other.Paths[0].RootHashes[0]}},
		Groups: []FleetGroup{
			{Table: 1, Devices: 4, Version: version("9.1"), Suffix: "corp.example.com"},
			{Table: 1, Devices: 2, Version: version("16.0")},
			{Table: 2, Devices: 8},
			{Table: 3, Devices: 5, Suffix: "sales.other.io"},
			{Table: 3, Devices: 6, Suffix: "other.io"},
		},
	}
	gain, lose := Change(fleet, []*Provisioning{both}, []*Provisioning{onlyNew, other})
	if len(lose) != 1 || lose[0].Devices != 4 {
		t.Errorf("the four with the old root only lose: %+v", lose)
	}
	if len(gain) != 1 || gain[0].Devices != 6 {
		t.Errorf("the six of other.io gain, those of sales.other.io have no relief: %+v", gain)
	}
}

func bigFleet() Fleet {
	f := Fleet{Tables: map[int64][]amt.TrustHash{}}
	roots := KnownRoots()
	for id := range int64(300) {
		var list []amt.TrustHash
		for i := range 22 {
			hashes := roots[(int(id)*7+i)%len(roots)].Hashes()
			list = append(list, hashes[int(id)%len(hashes)])
		}
		f.Tables[id] = append(list, amt.TrustHash{Algorithm: amt.SHA256, Sum: binary.BigEndian.AppendUint64(make([]byte, 24), uint64(id))})
	}
	for i := range 100_000 { // not even aggregated
		f.Groups = append(f.Groups, FleetGroup{Table: int64(i % 300), Devices: 1, Version: amt.Version{Major: 5 + i%14},
			Suffix: fmt.Sprintf("site%d.example.com", i%400)})
	}
	return f
}

func BenchmarkAdvise(b *testing.B) {
	f := bigFleet()
	own := certtest.NewLab(now).Plain("Bench", "prov.corp.example.com")
	p := newProvisioning(own.Cert, own.Key, own.Issuers, now)
	b.Run("advise", func(b *testing.B) {
		for b.Loop() {
			if a := Advise(f, []*Provisioning{p}); a.Devices != 100_000 {
				b.Fatal(a.Devices)
			}
		}
	})
	b.Run("change", func(b *testing.B) {
		for b.Loop() {
			Change(f, nil, []*Provisioning{p})
		}
	})
}
