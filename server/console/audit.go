package console

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
)

type auditData struct {
	Records    []api.AuditRecord
	Q          api.AuditQuery
	Filtered   bool
	Checkpoint *api.AuditCheckpoint
	Verified   *api.AuditVerified
	Check      string // address that checks the chain
	Newest     string // address of the first page, on later ones
	Older      string
}

// IsDevice reports whether a record is about a device.
func (auditData) IsDevice(subject string) bool {
	_, err := amt.ParseUUID(subject)
	return err == nil && len(subject) == 36
}

// Detail is what a record says beyond who, what and to what.
func (auditData) Detail(r api.AuditRecord) string {
	if len(r.Detail) == 0 {
		return ""
	}
	b, err := json.Marshal(r.Detail)
	if err != nil {
		return ""
	}
	return string(b)
}

func (c *Console) audit(v *visit) error {
	in := v.r.URL.Query()
	before, _ := strconv.ParseInt(in.Get("before"), 10, 64)
	q := api.AuditQuery{Newest: true, Before: max(before, 0), Limit: 50, Actor: clip(in.Get("actor"), 100),
		Action: clip(in.Get("action"), 100), Subject: clip(in.Get("subject"), 100),
		Since: clip(in.Get("since"), 40), Until: clip(in.Get("until"), 40)}
	p := page{Title: "Audit", Nav: "audit", Live: q.Before == 0 && in.Get("check") == ""}
	got, err := v.api.Audit(v.r.Context(), q)
	var wrong *api.Problem
	if errors.As(err, &wrong) && wrong.Code == api.CodeInvalid {
		p.Trouble, p.Live = wrong, false
	} else if err != nil {
		return err
	}
	d := auditData{Records: got.Records, Q: q, Filtered: q.Actor+q.Action+q.Subject+q.Since+q.Until != "", Checkpoint: got.Checkpoint}
	address := func(key, value string) string {
		u := url.Values{}
		for k, val := range map[string]string{"actor": q.Actor, "action": q.Action, "subject": q.Subject, "since": q.Since,
			"until": q.Until, key: value} {
			if val != "" {
				u.Set(k, val)
			}
		}
		if len(u) == 0 {
			return "/audit"
		}
		return "/audit?" + u.Encode()
	}
	d.Check = address("check", "yes")
	if got.Next != 0 {
		d.Older = address("before", strconv.FormatInt(got.Next, 10))
	}
	if q.Before != 0 {
		d.Newest = address("", "")
	}
	if in.Get("check") != "" {
		verified, err := v.api.VerifyAudit(v.r.Context())
		var trouble *api.Problem
		switch {
		case errors.As(err, &trouble):
			p.Trouble = trouble
		case err != nil:
			return err
		default:
			d.Verified = &verified
		}
	}
	p.Data = d
	return c.show(v, http.StatusOK, "audit", p)
}
