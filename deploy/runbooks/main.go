// Command runbooks writes deploy/RUNBOOKS.md: for each alert what to do first,
// and for each reason of the catalogue what it means and what mends it.
//
//	go run ./deploy/runbooks > deploy/RUNBOOKS.md
package main

import (
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/deploy/prometheus"
)

func main() {
	page, err := render()
	if err != nil {
		fmt.Fprintln(os.Stderr, "runbooks:", err)
		os.Exit(1)
	}
	fmt.Print(page)
}

type alert struct {
	Name        string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alerts() ([]alert, error) {
	var file struct {
		Groups []struct {
			Rules []alert `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(prometheus.Rules()), &file); err != nil {
		return nil, fmt.Errorf("read rules.yml: %w", err)
	}
	var list []alert
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Name != "" {
				list = append(list, r)
			}
		}
	}
	return list, nil
}

func render() (string, error) {
	list, err := alerts()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprint(&b, "<!-- Made by deploy/runbooks from the alert rules and the reason catalogue. Change those, then run `go run "+
		"./deploy/runbooks > deploy/RUNBOOKS.md`. -->\n\n")
	fmt.Fprint(&b, "# Runbooks\n\n")
	fmt.Fprint(&b, "First the alerts, then the reasons. A reason is the word that `provctl device why`, the console, the\nevents and the "+
		"failure dashboard show for a device. `provctl device why UUID` adds the evidence.\n\n")
	fmt.Fprint(&b, "Three things hold whatever the alert says. A device repeats its hello for hours, so a server that is\nback the same "+
		"morning loses none. A password is in the database before a device hears it. Every step\nof a run may be repeated, so a restart "+
		"is never the wrong move for the server.\n\n")
	fmt.Fprint(&b, "## Alerts\n\n")
	for _, a := range list {
		steps, ok := firstMoves[a.Name]
		if !ok {
			return "", fmt.Errorf("alert %s has no first moves in moves.go", a.Name)
		}
		fmt.Fprintf(&b, "### %s\n\n", a.Name)
		fmt.Fprintf(&b, "%s. %s\n\n", plain(a.Annotations["summary"]), plain(a.Annotations["description"]))
		when := "at once"
		if a.For != "" {
			when = "after " + a.For
		}
		fmt.Fprintf(&b, "Severity `%s`, %s:\n\n```\n%s\n```\n\n", a.Labels["severity"], when, a.Expr)
		for i, s := range steps {
			fmt.Fprintf(&b, "%d. %s\n", i+1, s)
		}
		b.WriteString("\n")
	}
	fmt.Fprint(&b, "## Reasons\n\n")
	phase := reason.Phase("")
	for _, e := range reason.All() {
		if e.Phase != phase {
			phase = e.Phase
			fmt.Fprintf(&b, "**%s**\n\n", phaseTitle[phase])
		}
		fmt.Fprintf(&b, "### %s\n\n%s. %s %s\n\n", e.Code, e.Title, blame[e.Blame], next[e.Retry])
		if len(e.Causes) > 0 {
			fmt.Fprintf(&b, "- Causes: %s\n", strings.Join(e.Causes, "; "))
		}
		fmt.Fprintf(&b, "- What mends it: %s\n\n", strings.Join(e.Fix, "; "))
	}
	return strings.TrimRight(b.String(), "\n") + "\n", nil
}

// plain takes the template marks out of an annotation.
func plain(s string) string {
	for _, l := range []struct{ mark, word string }{
		{"{{ $labels.instance }}", "A node"},
		{"{{ $labels.cert }}", "NAME"},
		{"{{ $labels.zone }}", "ZONE"},
		{"{{ $labels.scope }}", "SCOPE"},
		{"{{ $labels.check }}", "CHECK"},
		{"{{ $labels.kind }}", "KIND"},
		{"{{ $labels.reason }}", "REASON"},
		{"{{ $labels.method }}", "METHOD"},
	} {
		if l.word == "A node" && !strings.HasPrefix(s, l.mark) {
			l.word = "a node"
		}
		s = strings.ReplaceAll(s, l.mark, l.word)
	}
	return s
}

var phaseTitle = map[reason.Phase]string{
	reason.Intake:      "Intake: the hello and who may come in",
	reason.Network:     "Network: DNS, DHCP and the way to the device",
	reason.Certificate: "Certificate: ours, before any device is touched",
	reason.Handshake:   "Handshake: TLS with the device",
	reason.Proof:       "Proof: one-time passwords",
	reason.WSMAN:       "Conversation: what the device answers",
	reason.Server:      "Server: our own house",
}

var blame = map[reason.Blame]string{
	reason.NoBlame:   "Nothing is broken.",
	reason.OurServer: "The cause is on the server's side.",
	reason.TheDevice: "The cause is at the device.",
	reason.TheNet:    "The cause is in the network.",
	reason.ThePolicy: "A rule of yours decided this.",
}

var next = map[reason.Retry]string{
	reason.Repeat:         "It is tried again by itself, with growing pauses.",
	reason.ForOperator:    "It waits until somebody changes something.",
	reason.ForCertificate: "It goes on by itself when a suitable certificate is activated.",
	reason.ForHello:       "It goes on with the device's next hello.",
	reason.Never:          "It is not tried again.",
}
