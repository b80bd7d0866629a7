// Command gen writes the Grafana dashboards of deploy/grafana. They are made by
// a program because the JSON of one panel is fifty lines of which three differ.
//
//	go run ./deploy/grafana/gen -out deploy/grafana
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	out := flag.String("out", "deploy/grafana", "folder to write the dashboards to")
	flag.Parse()
	for _, d := range dashboards() {
		text, err := d.encode()
		if err == nil {
			err = os.WriteFile(filepath.Join(*out, d.file()), text, 0o644)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "gen: %s: %v\n", d.Name, err)
			os.Exit(1)
		}
	}
}

// dashboards is the whole set, in the order of the menu.
func dashboards() []Dashboard {
	return []Dashboard{overview(), failures(), trust(), fleet(), engine(), service(), security(), network(), device()}
}

func (d Dashboard) file() string { return d.Name + ".json" }

// encode gives the JSON that Grafana imports; the same input gives the same
// bytes.
func (d Dashboard) encode() ([]byte, error) {
	text, err := json.MarshalIndent(d.model(), "", "  ")
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}
