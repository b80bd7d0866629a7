package doctor

import (
	"context"
	"fmt"
	"strings"
)

// names looks for names that several managed devices bear. No two get one any more;
// those of an earlier release keep theirs, and whoever calls one by it may get the
// other.
func (v *visit) names(context.Context) []Check {
	const name = "names"
	s, answer, ok := v.known(name)
	if !ok {
		return answer
	}
	if len(s.SharedNames) == 0 {
		return one(name, Pass, "", "no two managed devices have one name")
	}
	var lines []string
	for _, n := range s.SharedNames {
		var of []string
		for _, u := range n.Devices {
			of = append(of, u.String())
		}
		lines = append(lines, fmt.Sprintf("%s: %s", n.Name, strings.Join(of, ", ")))
	}
	return one(name, Warn, "give all but one of each another name: provctl device name UUID FQDN; or retire what is gone: provctl device "+
		"retire UUID",
		"several managed devices have one name, and each a certificate in it, from a release that did not look:\n%s",
		strings.Join(lines, "\n"))
}
