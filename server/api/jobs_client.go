package api

import (
	"context"
	"fmt"
	"net/http"
)

// StartJob starts, or with DryRun only counts, a bulk operation.
func (c *Client) StartJob(ctx context.Context, j JobRequest) (Job, error) {
	return call[Job](ctx, c, http.MethodPost, "/api/v1/jobs", nil, j)
}

// Jobs lists bulk operations, newest first.
func (c *Client) Jobs(ctx context.Context, q JobsInput) (JobList, error) {
	return call[JobList](ctx, c, http.MethodGet, "/api/v1/jobs", values(q), nil)
}

// Job is one with a page of its devices.
func (c *Client) Job(ctx context.Context, in OneJob) (JobDetail, error) {
	return call[JobDetail](ctx, c, http.MethodGet, fmt.Sprintf("/api/v1/jobs/%d", in.ID), values(in), nil)
}

// JobCommand is abort, approve or resume.
func (c *Client) JobCommand(ctx context.Context, id int64, verb string) (Job, error) {
	return call[Job](ctx, c, http.MethodPost, fmt.Sprintf("/api/v1/jobs/%d/%s", id, verb), nil, nil)
}

// Unprovision undoes a device's setup.
func (c *Client) Unprovision(ctx context.Context, uuid string, b UnprovisionBody) (ActionResult, error) {
	return call[ActionResult](ctx, c, http.MethodPost, devicePath(uuid, "/unprovision"), nil, b)
}

// Maintain has a device looked at; task "" is what is due.
func (c *Client) Maintain(ctx context.Context, uuid string, b MaintainBody) (ActionResult, error) {
	return call[ActionResult](ctx, c, http.MethodPost, devicePath(uuid, "/maintain"), nil, b)
}

// RotateSecret has a device's admin password changed.
func (c *Client) RotateSecret(ctx context.Context, uuid, note string) (ActionResult, error) {
	return call[ActionResult](ctx, c, http.MethodPost, devicePath(uuid, "/secrets/rotate"), nil, Action{Note: note})
}

// Secrets lists a device's passwords without their values.
func (c *Client) Secrets(ctx context.Context, uuid string) (SecretList, error) {
	return call[SecretList](ctx, c, http.MethodGet, devicePath(uuid, "/secrets"), nil, nil)
}

// Keys says what is sealed under which data key.
func (c *Client) Keys(ctx context.Context) (KeyList, error) {
	return call[KeyList](ctx, c, http.MethodGet, "/api/v1/keys", nil, nil)
}

// RotateKey makes a new data key.
func (c *Client) RotateKey(ctx context.Context) (KeyList, error) {
	return call[KeyList](ctx, c, http.MethodPost, "/api/v1/keys/rotate", nil, nil)
}

// SetMaster keeps a domain's digest master password.
func (c *Client) SetMaster(ctx context.Context, domain, password string) (MasterSet, error) {
	return call[MasterSet](ctx, c, http.MethodPost, "/api/v1/secrets/masters", nil, MasterBody{Domain: domain, Password: password})
}
