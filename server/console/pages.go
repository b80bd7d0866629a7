package console

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/operate"
)

type overviewData struct {
	Summary      api.Summary
	Parts        []share
	Managed      int // percent
	Certificates []api.Certificate
	Events       []api.Event
}

func (c *Console) overview(v *visit) error {
	ctx := v.r.Context()
	if !v.who.Role.May("get-summary") && v.who.Role.May("list-audit") {
		http.Redirect(v.w, v.r, "/audit", http.StatusSeeOther)
		return nil
	}
	if !v.who.Role.May("get-summary") {
		return c.show(v, http.StatusOK, "trouble", page{Title: "Nothing to see here", Nav: "overview", Trouble: &api.Problem{
			Title: "This role sees no devices", Detail: "The role " + string(v.who.Role) + " has no page here."}})
	}
	s, err := v.api.Summary(ctx)
	if err != nil {
		return err
	}
	certs, err := v.api.Certificates(ctx)
	if err != nil {
		return err
	}
	events, err := v.api.Events(ctx, api.EventQuery{Newest: true, Limit: 12})
	if err != nil {
		return err
	}
	d := overviewData{Summary: s, Parts: funnel(s), Certificates: certs.Certificates, Events: events.Events}
	if s.Total > 0 {
		d.Managed = d.Parts[0].Count * 100 / s.Total
	}
	if len(d.Summary.Reasons) > 8 {
		d.Summary.Reasons = d.Summary.Reasons[:8]
	}
	return c.show(v, http.StatusOK, "overview", page{Title: "Overview", Nav: "overview", Live: true, Data: d})
}

type devicesData struct {
	Devices []api.Device
	Next    string // address of the next page
	First   string // address of the first page, on later ones
	Chips   []share
	Q       string
	Order   string
	Approve bool
	Retry   bool
}

func (c *Console) devices(v *visit) error {
	in := v.r.URL.Query()
	q := api.DeviceQuery{Q: clip(in.Get("q"), 200), Order: in.Get("order"), After: in.Get("after"), Limit: 50}
	if q.Order != "name" && q.Order != "uuid" {
		q.Order = "last_seen"
	}
	d := devicesData{Q: q.Q, Order: q.Order, Approve: v.who.Role.May("approve-device"), Retry: v.who.Role.May("retry-device")}
	p := page{Title: "Devices", Nav: "devices", Q: q.Q, Live: true, Said: bulkSaid(in)}
	status := http.StatusOK
	list, err := v.api.Devices(v.r.Context(), q)
	if err != nil {
		var trouble *api.Problem
		if !errors.As(err, &trouble) || trouble.Status >= 500 || trouble.Status == http.StatusForbidden {
			return err
		}
		p.Trouble, status = trouble, trouble.Status
	}
	d.Devices = list.Devices
	address := func(after string) string {
		u := url.Values{}
		for k, val := range map[string]string{"q": q.Q, "order": in.Get("order"), "after": after} {
			if val != "" {
				u.Set(k, val)
			}
		}
		return "/devices?" + u.Encode()
	}
	if list.Next != "" {
		d.Next = address(list.Next)
	}
	if q.After != "" {
		d.First = address("")
	}
	s, err := v.api.Summary(v.r.Context())
	if err != nil {
		return err
	}
	d.Chips = append([]share{{Name: "All", Count: s.Total, Tone: "calm"}}, funnel(s)...)
	p.Data = d
	return c.show(v, status, "devices", p)
}

// bulkSaid is the outcome of the last command about several devices: numbers
// from the address, words from here.
func bulkSaid(in url.Values) string {
	done, err := strconv.Atoi(in.Get("done"))
	if err != nil || done < 0 {
		return ""
	}
	refused, _ := strconv.Atoi(in.Get("refused"))
	s := fmt.Sprintf("Done for %d.", done)
	if refused > 0 {
		s += fmt.Sprintf(" Refused for %d: each device's page says what is in the way.", refused)
	}
	return s
}

const maxBulk = 200

func (c *Console) bulk(v *visit) error {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, 64<<10)
	if err := v.r.ParseForm(); err != nil {
		return &api.Problem{Status: http.StatusBadRequest, Title: "That form cannot be read", Detail: "It is too large or cut."}
	}
	verb, chosen := v.r.PostForm.Get("verb"), v.r.PostForm["uuid"]
	if verb != "approve" && verb != "retry" || len(chosen) > maxBulk {
		return &api.Problem{Status: http.StatusUnprocessableEntity, Title: "Not possible for several",
			Detail: "Approve and retry work on up to 200 devices at once."}
	}
	if len(chosen) == 0 {
		return &api.Problem{Status: http.StatusUnprocessableEntity, Title: "Nothing was done",
			Detail: "No device is ticked: tick those to " + verb + ", and press the button again."}
	}
	done, refused := 0, 0
	for _, u := range chosen {
		if _, err := v.api.Act(v.r.Context(), verb, u, "from the console"); err != nil {
			var p *api.Problem
			if !errors.As(err, &p) || p.Status == http.StatusForbidden || p.Status >= 500 {
				return err
			}
			refused++
			continue
		}
		done++
	}
	to := url.Values{"done": {strconv.Itoa(done)}, "refused": {strconv.Itoa(refused)}}
	if q := v.r.PostForm.Get("q"); q != "" {
		to.Set("q", q)
	}
	http.Redirect(v.w, v.r, "/devices?"+to.Encode(), http.StatusSeeOther)
	return nil
}

type deviceData struct {
	Device  api.DeviceDetail
	Why     api.Why
	Name    string
	Actions []action
	Reveal  bool
	Kinds   []string
	Shown   *api.Revealed
	Kind    string
}

// action is a command that makes sense for a device as it stands.
type action struct {
	Verb, Name, Says string
	Confirm          string // what has to be typed
	Danger           bool
}

func actions(d api.Device, role api.Role) []action {
	all := []action{
		{Verb: "approve", Name: "Approve", Says: "Let it in and set it up."},
		{Verb: "reject", Name: "Turn away", Says: "It is not to be set up from here. Approve takes that back."},
		{Verb: "release", Name: "Release", Says: "You have looked at the machine: what was held against it is forgotten."},
		{Verb: "retry", Name: "Try again now", Says: "Without waiting for the next attempt or hello."},
		{Verb: "clear-failures", Name: "Forget failures", Says: "Nothing begins now; its next hello is looked at at once."},
		{Verb: "restore", Name: "Restore", Says: "Start over as if it were new; it needs approval again."},
		{Verb: "quarantine", Name: "Quarantine", Says: "Record its hellos, do nothing else."},
		{Verb: "retire", Name: "Retire", Says: "Take it out for good. Record and passwords are kept; the machine itself is not touched.", Confirm: short(d.UUID), Danger: true},
	}
	var out []action
	for _, a := range all {
		if role.May(a.Verb+"-device") && operate.Offered(a.Verb, d) {
			out = append(out, a)
		}
	}
	return out
}

func (c *Console) device(v *visit) error {
	said := ""
	if verb := v.r.URL.Query().Get("done"); verb != "" {
		said = map[string]string{
			"approve": "Approved.", "retry": "Asked for: “next” says when it comes.", "retire": "Retired.", "restore": "Restored.",
			"quarantine": "Quarantined.", "release": "Released.", "reject": "Turned away.", "clear-failures": "Its failures are forgotten.",
		}[verb]
	}
	return c.devicePage(v, http.StatusOK, page{Said: said, Live: true}, nil, "")
}

func (c *Console) devicePage(v *visit, status int, p page, shown *api.Revealed, kind string) error {
	ctx, id := v.r.Context(), v.r.PathValue("uuid")
	d, err := v.api.Device(ctx, id)
	if err != nil {
		return err
	}
	why, err := v.api.Why(ctx, d.UUID)
	if err != nil {
		return err
	}
	data := deviceData{Device: d, Why: why, Name: d.FQDN, Actions: actions(d.Device, v.who.Role), Reveal: v.who.Role.May("reveal-secret"),
		Shown: shown, Kind: kind}
	if data.Name == "" {
		data.Name = d.UUID
	}
	for _, cr := range d.Credentials { // admin's first, then MEBx's and the users'
		if (cr.State == "active" || cr.SentAt != nil) && !slices.Contains(data.Kinds, cr.Kind) {
			data.Kinds = append(data.Kinds, cr.Kind)
		}
	}
	p.Title, p.Nav, p.Data = data.Name, "devices", data
	return c.show(v, status, "device", p)
}

// Confirmed reports whether the password shown is known to work.
func (d deviceData) Confirmed() bool {
	for _, c := range d.Device.Credentials {
		if c.Kind == d.Kind && c.State == "active" {
			return true
		}
	}
	return false
}

// Width is the length of a step's bar beside the longest of its run, 0 to 100.
func (deviceData) Width(r api.Run, s api.Step) int {
	ms := func(s api.Step) int {
		if s.StartedAt == nil || s.FinishedAt == nil {
			return 0
		}
		return int(s.FinishedAt.Sub(*s.StartedAt).Milliseconds())
	}
	most := 1
	for _, other := range r.Steps {
		most = max(most, ms(other))
	}
	return width(ms(s), most)
}

func (c *Console) act(v *visit) error {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, 8<<10)
	verb, uuid := v.r.PathValue("verb"), v.r.PathValue("uuid")
	switch verb {
	case "approve", "reject", "retry", "clear-failures", "restore", "quarantine", "release":
	case "retire":
		if typed := strings.TrimSpace(v.r.PostFormValue("confirm")); typed != short(uuid) {
			return c.devicePage(v, http.StatusUnprocessableEntity,
				page{Trouble: &api.Problem{Title: "Nothing was done", Detail: "To retire this device, type " + short(uuid) + "."}}, nil, "")
		}
	default:
		return c.nowhere(v)
	}
	var err error
	if verb == "approve" { // the machine that the page showed
		_, err = v.api.Approve(v.r.Context(), uuid, v.r.PostFormValue("address"), v.r.PostFormValue("note"))
	} else {
		_, err = v.api.Act(v.r.Context(), verb, uuid, v.r.PostFormValue("note"))
	}
	if err != nil {
		var p *api.Problem
		if errors.As(err, &p) && p.Status == http.StatusConflict {
			return c.devicePage(v, p.Status, page{Trouble: &api.Problem{Title: "Not possible now", Detail: p.Detail}}, nil, "")
		}
		return err
	}
	http.Redirect(v.w, v.r, "/devices/"+url.PathEscape(uuid)+"?done="+verb, http.StatusSeeOther)
	return nil
}

// reveal answers the form itself, without a redirect: the password is in this
// one answer and in no address, cookie or cache.
func (c *Console) reveal(v *visit) error {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, 8<<10)
	kind := v.r.PostFormValue("kind")
	got, err := v.api.Reveal(v.r.Context(), v.r.PathValue("uuid"), kind, v.r.PostFormValue("reason"))
	if err != nil {
		var p *api.Problem
		if !errors.As(err, &p) || p.Status >= 500 || p.Status == http.StatusForbidden || p.Code == api.CodeNoDevice {
			return err
		}
		detail := p.Detail
		if p.Status == http.StatusUnprocessableEntity {
			detail = "Choose which password, and say in a few words why it is needed."
		}
		return c.devicePage(v, p.Status, page{Trouble: &api.Problem{Title: "No password was read", Detail: detail}}, nil, kind)
	}
	return c.devicePage(v, http.StatusOK, page{}, &got, kind)
}

func (c *Console) why(v *visit) error {
	q := strings.TrimSpace(clip(v.r.URL.Query().Get("q"), 200))
	if q == "" {
		return c.show(v, http.StatusOK, "why", page{Title: "Why?", Nav: "why"})
	}
	w, err := v.api.Why(v.r.Context(), q)
	if err != nil {
		return err
	}
	return c.show(v, http.StatusOK, "why", page{Title: "Why " + w.Query + "?", Nav: "why", Data: w})
}

type eventsData struct {
	Events []api.Event
	Name   string
	Older  string
	First  bool
}

func (c *Console) events(v *visit) error {
	in := v.r.URL.Query()
	before, _ := strconv.ParseInt(in.Get("before"), 10, 64)
	q := api.EventQuery{Newest: true, Before: max(before, 0), Name: clip(in.Get("name"), 64), Limit: 100}
	got, err := v.api.Events(v.r.Context(), q)
	if err != nil {
		return err
	}
	d := eventsData{Events: got.Events, Name: q.Name, First: q.Before == 0}
	if got.Next != 0 {
		u := url.Values{"before": {strconv.FormatInt(got.Next, 10)}}
		if q.Name != "" {
			u.Set("name", q.Name)
		}
		d.Older = "/events?" + u.Encode()
	}
	return c.show(v, http.StatusOK, "events", page{Title: "Events", Nav: "events", Live: d.First, Data: d})
}

func (c *Console) reasons(v *visit) error {
	l, err := v.api.Reasons(v.r.Context())
	if err != nil {
		return err
	}
	return c.show(v, http.StatusOK, "reasons", page{Title: "Reasons", Nav: "reasons", Data: l.Reasons})
}

// stream hands the API's stream through to a browser that is logged in.
func (c *Console) stream(v *visit) error {
	r := v.r.Clone(v.r.Context())
	r.URL.Path, r.URL.RawQuery = "/api/v1/events/stream", ""
	c.api.ServeAs(v.who, v.w, r)
	return nil
}

// clip bounds what came in an address and drops what cannot be seen.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}
