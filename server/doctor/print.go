package doctor

import (
	"fmt"
	"io"
	"strings"
)

// Print writes a report for people: one line a check, what is to be done under
// it, and a last line that counts.
func (r Report) Print(w io.Writer) error {
	width := 0
	for _, c := range r.Checks {
		width = max(width, len(c.Name))
	}
	indent := strings.Repeat(" ", width+8)
	var b strings.Builder
	count := map[Status]int{}
	for _, c := range r.Checks {
		count[c.Status]++
		lines := strings.Split(strings.TrimRight(c.Detail, "\n"), "\n")
		fmt.Fprintf(&b, "%s  %-*s  %s\n", c.Status, width, c.Name, lines[0])
		for _, l := range lines[1:] {
			b.WriteString(strings.TrimRight(indent+l, " ") + "\n")
		}
		for i, l := range strings.Split(c.Hint, "\n") {
			mark := "   "
			if i == 0 {
				mark = "-> "
			}
			if c.Hint != "" {
				b.WriteString(strings.TrimRight(indent+mark+l, " ") + "\n")
			}
		}
	}
	skipped := ""
	if n := count[Skip]; n > 0 {
		skipped = fmt.Sprintf("%d skip, ", n)
	}
	fmt.Fprintf(&b, "\n%d pass, %s%d warn, %d fail\n", count[Pass], skipped, count[Warn], count[Fail])
	_, err := io.WriteString(w, b.String())
	return err
}
