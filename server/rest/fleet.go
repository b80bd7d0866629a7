package rest

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/certs"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/server/desk"
	"github.com/provisiond/provisiond/store"
)

func (s *Server) fleetRoutes(to huma.API) {
	get := func(id, path, summary, tag string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Tags: []string{tag}}
	}
	add(s, to, get("whoami", "/api/v1/whoami", "Who this token is", "tokens"), s.whoami)
	add(s, to, get("list-reasons", "/api/v1/reasons", "The closed list of reasons", "devices"), s.listReasons)
	add(s, to, get("list-certificates", "/api/v1/certificates", "Provisioning certificates", "certificates"), s.listCertificates)
	add(s, to, get("get-summary", "/api/v1/summary", "The fleet at a glance", "devices"), s.summary)
}

func (s *Server) whoami(ctx context.Context, _ *none) (api.Whoami, error) {
	p, _ := PrincipalOf(ctx)
	return api.Whoami{Name: p.Name, User: p.User, Role: string(p.Role), Operations: p.Role.Operations(), Server: s.Version}, nil
}

func (s *Server) listReasons(context.Context, *none) (api.ReasonList, error) {
	out := api.ReasonList{Reasons: []api.Reason{}}
	for _, e := range reason.All() {
		out.Reasons = append(out.Reasons, api.ReasonOf(e))
	}
	return out, nil
}

func (s *Server) listCertificates(ctx context.Context, _ *none) (api.CertificateList, error) {
	out := api.CertificateList{Certificates: []api.Certificate{}}
	if s.Desk != nil {
		all, err := s.Desk.List(ctx)
		if err != nil {
			return out, err
		}
		counts, err := s.Desk.Counts(ctx, all)
		for _, e := range all {
			out.Certificates = append(out.Certificates, fromEntry(e, all, counts, s.now()))
		}
		return out, err
	}
	if s.Certs == nil {
		return out, nil
	}
	for _, p := range s.Certs() {
		out.Certificates = append(out.Certificates, toCertificate(p, s.now()))
	}
	return out, nil
}

func toCertificate(p *certs.Provisioning, now time.Time) api.Certificate {
	c := api.Certificate{
		ID: p.ID, Name: api.Clean(p.Name), Names: list(p.Names), Issuer: api.Clean(p.Leaf.Issuer.CommonName),
		NotBefore: p.Leaf.NotBefore.UTC(),
		NotAfter:  p.Leaf.NotAfter.UTC(), DaysLeft: int(p.Leaf.NotAfter.Sub(now).Hours() / 24), Usable: p.Serving(now), Roots: []string{},
		Findings: []api.Finding{},
		State:    string(desk.Active), Source: "file",
	}
	for _, path := range p.Paths {
		name := api.Clean(path.Root().Subject.CommonName)
		for _, h := range path.RootHashes {
			if known, ok := certs.RootName(h); ok {
				name = known
				break
			}
		}
		if !slices.Contains(c.Roots, name) {
			c.Roots = append(c.Roots, name)
		}
	}
	for _, f := range p.FindingsAt(now) {
		c.Findings = append(c.Findings, api.Finding{Code: string(f.Code), Severity: string(f.Severity), Detail: api.Clean(f.Detail)})
	}
	return c
}

func (s *Server) summary(ctx context.Context, _ *none) (api.Summary, error) {
	out := api.Summary{Devices: map[string]int{}, Reasons: []api.ReasonCount{}, Banners: []api.Banner{}, Version: s.Version, Node: s.Node,
		Engine: s.db.Engine(), Time: s.now().UTC()}
	counts, err := s.countFleet(ctx)
	if err != nil {
		return out, err
	}
	for l, n := range counts.lifecycles {
		out.Devices[string(l)] = n
		out.Total += n
	}
	for code, n := range counts.reasons {
		out.Reasons = append(out.Reasons, api.ReasonCount{Reason: code, Title: reason.Of(reason.Code(code)).Title, Count: n})
	}
	out.CountedAt = timeOrNull(counts.at)
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		last, err := tx.Devices(ctx, store.DeviceFilter{Order: store.ByLastSeen, Limit: 1})
		if err == nil && len(last) > 0 {
			out.LastHello = timeOrNull(last[0].LastSeen)
		}
		return err
	})
	slices.SortFunc(out.Reasons, func(a, b api.ReasonCount) int {
		if a.Count != b.Count {
			return b.Count - a.Count
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	if s.Certs != nil {
		for _, p := range s.Certs() {
			if p.Usable() {
				out.Certificates++
			}
		}
	}
	if s.Desk != nil {
		out.Banners = s.Desk.Banners()
	}
	return out, err
}
