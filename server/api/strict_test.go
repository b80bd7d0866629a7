package api

import (
	"strings"
	"testing"
)

// TestStrictlySaysWhatIsWanted: a document of the wrong shape is told in words of
// the document, not of this program.
func TestStrictlySaysWhatIsWanted(t *testing.T) {
	t.Parallel()
	rule := map[string]any{"name": "branch"}
	for name, row := range map[string]struct {
		document any
		want     string
	}{
		"right":                {map[string]any{"rules": []any{rule}}, ""},
		"the list by itself":   {[]any{rule}, "the document: want keys such as rules:, dry_run:, not a list"},
		"one rule by itself":   {map[string]any{"rules": rule}, "rules: want a list, not keys and values"},
		"a number for a rule":  {map[string]any{"rules": []any{7}}, "rules: want keys and values, not a number"},
		"a text for a boolean": {map[string]any{"dry_run": "soon"}, "dry_run: want true or false, not a text"},
		"a misspelt key":       {map[string]any{"rulez": []any{rule}}, `unknown key "rulez"; did you mean "rules"?`},
	} {
		var set RuleSet
		err := Strictly(row.document, &set)
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", name, err, row.want)
		}
	}
}
