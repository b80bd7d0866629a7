package console

import (
	"fmt"
	"html/template"
	"net/url"
	"strings"
	"time"

	"github.com/provisiond/provisiond/server/api"
)

// at is a time as an element that the script turns into "5 min ago".
func at(t *time.Time) template.HTML {
	if t == nil {
		return `<span class="none">–</span>`
	}
	u := t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s">%s</time>`, u.Format(time.RFC3339),
		u.Format("2006-01-02 15:04:05"))) //nolint:gosec // digits only
}

func stamp(t time.Time) template.HTML { return at(&t) }

// until is a time with its date alone.
func until(t time.Time) string { return t.UTC().Format("2006-01-02") }

// tone is the colour class of a lifecycle, a run's or a step's state.
func tone(state string) string {
	switch state {
	case "provisioned", "done", "ok", "active":
		return "good"
	case "drifted", "maintaining", "queued", "provisioning", "verifying", "unprovisioning", "running", "started", "candidate", "info",
		"handed_over":
		return "busy"
	case "pending_approval", "pending_identity", "pending_certificate", "dormant", "warn", "draft", "differs", "elsewhere":
		return "wait"
	case "failed", "quarantined", "credentials_unknown", "error", "stopped", "forged", "refused":
		return "bad"
	}
	return "calm" // discovered, external, unprovisioned, retired, skipped, cancelled, waiting, aborted
}

// word writes a machine's word for people.
func word(s string) string { return strings.ReplaceAll(s, "_", " ") }

// credential names a kind of password for people.
func credential(kind string) string {
	if kind == "mebx" {
		return "MEBx"
	}
	return strings.TrimPrefix(kind, "user:")
}

// short is the part of a UUID that people compare.
func short(uuid string) string {
	if len(uuid) > 8 {
		return uuid[:8]
	}
	return uuid
}

func took(from, to *time.Time) string {
	if from == nil || to == nil {
		return ""
	}
	switch d := to.Sub(*from); {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}

// width is a share of 100 with room for the smallest visible bar.
func width(n, of int) int {
	if n <= 0 || of <= 0 {
		return 0
	}
	return max(1, n*100/of)
}

// query escapes a search for an address.
func query(parts ...string) string { return url.QueryEscape(strings.Join(parts, "")) }

// A share is one part of the fleet on the overview.
type share struct {
	Name   string
	Says   string
	Tone   string
	Count  int
	X, W   int // of 1000, on the bar
	Search string
}

// funnel sorts the lifecycles into what an operator acts on.
func funnel(s api.Summary) []share {
	parts := []struct {
		name, says, tone string
		states           []string
	}{
		{"Managed", "set up and checked", "good", []string{"provisioned", "drifted", "maintaining"}},
		{"At work", "queued or being set up", "busy", []string{"queued", "provisioning", "verifying", "unprovisioning"}},
		{"Waiting", "for approval or a name", "wait", []string{"pending_approval", "pending_identity"}},
		{"No certificate", "none they trust", "wait", []string{"pending_certificate"}},
		{"Failed", "last attempt failed", "bad", []string{"failed", "credentials_unknown"}},
		{"Kept out", "quarantined", "bad", []string{"quarantined"}},
		{"Silent", "dormant or only seen", "calm", []string{"dormant", "discovered"}},
		{"Elsewhere", "retired, unset or not ours", "calm", []string{"external", "unprovisioned", "retired"}},
	}
	out := make([]share, len(parts))
	x := 0
	for i, p := range parts {
		out[i] = share{Name: p.name, Says: p.says, Tone: p.tone, Search: "state:" + strings.Join(p.states, ",")}
		for _, st := range p.states {
			out[i].Count += s.Devices[st]
		}
		if s.Total > 0 {
			out[i].X = x * 1000 / s.Total
			out[i].W = (x+out[i].Count)*1000/s.Total - out[i].X
			if x+out[i].Count < s.Total && out[i].W > 6 {
				out[i].W -= 2 // a gap, so that neighbours of one colour stay apart
			}
		}
		x += out[i].Count
	}
	return out
}
