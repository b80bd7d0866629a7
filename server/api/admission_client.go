package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Authorisations lists one page of authorised devices.
func (c *Client) Authorisations(ctx context.Context, q AuthorisationQuery) (AuthorisationPage, error) {
	return call[AuthorisationPage](ctx, c, http.MethodGet, "/api/v1/authorisations", values(q), nil)
}

// ImportDevices authorises devices from a list.
func (c *Client) ImportDevices(ctx context.Context, d DeviceImport) (ImportReport, error) {
	return call[ImportReport](ctx, c, http.MethodPost, "/api/v1/authorisations/import", nil, d)
}

// RemoveAuthorisation takes an entry off the list.
func (c *Client) RemoveAuthorisation(ctx context.Context, id int64) (Removed, error) {
	return call[Removed](ctx, c, http.MethodDelete, "/api/v1/authorisations/"+strconv.FormatInt(id, 10), nil, nil)
}

// NameDevice gives a device its name.
func (c *Client) NameDevice(ctx context.Context, uuid string, n NewName) (Named, error) {
	return call[Named](ctx, c, http.MethodPut, devicePath(uuid, "/name"), nil, n)
}

// AdoptDevice tells a password that a device may have.
func (c *Client) AdoptDevice(ctx context.Context, uuid string, a Adoption) (ActionResult, error) {
	return call[ActionResult](ctx, c, http.MethodPost, devicePath(uuid, "/adopt"), nil, a)
}

// Rules lists the assignment rules in their order.
func (c *Client) Rules(ctx context.Context) (RuleList, error) {
	return call[RuleList](ctx, c, http.MethodGet, "/api/v1/rules", nil, nil)
}

// ApplyRules replaces the assignment rules.
func (c *Client) ApplyRules(ctx context.Context, r RuleSet) (RulesReport, error) {
	return call[RulesReport](ctx, c, http.MethodPut, "/api/v1/rules", nil, r)
}

// TestRules says what the rules make of a device.
func (c *Client) TestRules(ctx context.Context, uuid string) (RuleVerdict, error) {
	return call[RuleVerdict](ctx, c, http.MethodGet, devicePath(uuid, "/rule"), nil, nil)
}

// Profiles lists the newest version of each profile.
func (c *Client) Profiles(ctx context.Context) (ProfileList, error) {
	return call[ProfileList](ctx, c, http.MethodGet, "/api/v1/profiles", nil, nil)
}

// Profile reads a version of a profile; 0 is the newest.
func (c *Client) Profile(ctx context.Context, name string, version int) (ProfileView, error) {
	return c.DiffProfile(ctx, name, 0, version)
}

// DiffProfile reads a version of a profile, 0 the newest, with what it says
// otherwise than another.
func (c *Client) DiffProfile(ctx context.Context, name string, from, to int) (ProfileView, error) {
	return call[ProfileView](ctx, c, http.MethodGet, "/api/v1/profiles/"+url.PathEscape(name),
		values(ProfileQuery{Version: to, Against: from}), nil)
}

// ApplyProfile keeps a new version of a profile.
func (c *Client) ApplyProfile(ctx context.Context, name string, p NewProfile) (ProfileView, error) {
	return call[ProfileView](ctx, c, http.MethodPut, "/api/v1/profiles/"+url.PathEscape(name), nil, p)
}

// ProfileHistory lists one page of a profile's versions, newest first.
func (c *Client) ProfileHistory(ctx context.Context, q ProfileHistoryQuery) (ProfileHistory, error) {
	return call[ProfileHistory](ctx, c, http.MethodGet, "/api/v1/profiles/"+url.PathEscape(q.Name)+"/versions", values(q), nil)
}

// Retry has a device tried again, perhaps with a person's word for its certificate.
func (c *Client) Retry(ctx context.Context, uuid string, r Retry) (ActionResult, error) {
	return call[ActionResult](ctx, c, http.MethodPost, devicePath(uuid, "/retry"), nil, r)
}

// Trust vouches for the certificate that a device shows.
func (c *Client) Trust(ctx context.Context, uuid string, r Retry) (ActionResult, error) {
	return call[ActionResult](ctx, c, http.MethodPost, devicePath(uuid, "/trust"), nil, r)
}
