package api

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

// terms are the prefixes that a search accepts. uuid:, name:, address:, mac: and
// serial: only label free text, which is matched against all of these columns.
var (
	terms = []string{"state", "reason", "amt", "net", "suffix", "tag", "profile", "health", "seen", "silent", "uuid", "name", "address",
		"mac", "serial"}
	term = regexp.MustCompile(`(?:^|\s)(` + strings.Join(terms, "|") + `):(\S+)`)
	// A word of letters before a colon is a term, unless it can be the beginning
	// of an address or a MAC.
	anyTerm = regexp.MustCompile(`(?:^|\s)([A-Za-z_]*[G-Zg-z_][A-Za-z_]*):\S`)
)

// Search is a DeviceQuery with the terms of its text taken apart.
type Search struct {
	Text                                                        string // what is no term
	Lifecycles, Versions                                        []string
	Reason, Health, Suffix, Profile, Tag, Network, Seen, Silent string
}

// Search takes the terms out of the query's text; a term goes before the field of
// the same name. unknown is a word that looks like a term and is none, with the
// term that was meant; "" for none.
func (q *DeviceQuery) Search() (s Search, unknown string) {
	s = Search{Lifecycles: slices.Clone(q.Lifecycle), Versions: []string{q.Version}, Reason: q.Reason, Health: q.Health, Suffix: q.Suffix,
		Profile: q.Profile, Tag: q.Tag, Network: q.Network}
	one := map[string]*string{
		"reason": &s.Reason, "net": &s.Network, "suffix": &s.Suffix, "tag": &s.Tag, "profile": &s.Profile, "health": &s.Health,
		"seen": &s.Seen, "silent": &s.Silent,
	}
	var labelled []string
	for _, m := range term.FindAllStringSubmatch(q.Q, -1) {
		switch into := one[m[1]]; {
		case into != nil:
			*into = m[2]
		case m[1] == "state":
			s.Lifecycles = append(s.Lifecycles, strings.Split(m[2], ",")...)
		case m[1] == "amt":
			s.Versions = append(s.Versions, m[2])
		default:
			labelled = append(labelled, m[2])
		}
	}
	text := term.ReplaceAllString(q.Q, " ")
	s.Text = strings.TrimSpace(text + " " + strings.Join(labelled, " "))
	if m := anyTerm.FindStringSubmatch(text); m != nil {
		unknown = `there is no term "` + Clip(m[1], 40) + `:"` + Meant(m[1], terms)
	}
	return s, unknown
}

// ParseAge reads an age such as 24h or 7d.
func ParseAge(s string) (time.Duration, error) {
	s = strings.TrimLeft(s, "<>")
	if n, ok := strings.CutSuffix(s, "d"); ok {
		d, err := time.ParseDuration(n + "h")
		return 24 * d, err
	}
	return time.ParseDuration(s)
}
