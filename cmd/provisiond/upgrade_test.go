package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryReleasesConfigurationIsUnderstood loads the configuration that was
// good for each earlier release: an upgrade must not need an editor.
func TestEveryReleasesConfigurationIsUnderstood(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/release-*/provisiond.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no release is frozen", err)
	}
	for _, name := range files {
		dir := t.TempDir()
		for _, f := range []string{"prov.pfx", "prov.pass"} {
			if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "provisiond.yaml")
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "DIR", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, _, problems := Load(t.Context(), path, nil, nil)
		for _, p := range problems {
			t.Errorf("%s: %s", name, p)
		}
		if cfg.DataDir != dir || len(cfg.Provisioning.Certificates) != 1 || cfg.Provisioning.Workers != 256 {
			t.Errorf("%s: read as %+v", name, cfg)
		}
	}
}
