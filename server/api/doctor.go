package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// DoctorCheck is one thing the doctor looked at.
type DoctorCheck struct {
	Name   string `json:"name"`
	Status string `json:"status" enum:"pass,skip,warn,fail" doc:"skip: it did not look, since there was nothing to look at or nothing names it"`
	Detail string `json:"detail"`
	Hint   string `json:"hint" doc:"what to do, with the text to paste; empty when nothing"`
}

// DoctorReport is the doctor's last round on this node.
type DoctorReport struct {
	Checks  []DoctorCheck `json:"checks"`
	Worst   string        `json:"worst" enum:"pass,skip,warn,fail" doc:"skip: it did not look, since there was nothing to look at or nothing names it"`
	At      *time.Time    `json:"at" doc:"null: not yet"`
	Node    string        `json:"node"`
	Started *time.Time    `json:"started" doc:"when this daemon started"`
	Scraped *time.Time    `json:"scraped" doc:"when somebody last asked for metrics; null: never"`
}

// Doctor is the way to the checks.
type Doctor struct {
	Last func() DoctorReport
	Run  func(ctx context.Context) (DoctorReport, error) // makes all checks now, up to 20 s
}

func (s *Server) doctorRoutes(api huma.API) {
	add(s, api, huma.Operation{OperationID: "get-doctor", Method: http.MethodGet, Path: "/api/v1/doctor", Summary: "What the doctor found last",
		Description: "The checks run by themselves every doctor.interval, on each node for itself.", Tags: []string{"doctor"}}, s.lastDoctor)
	add(s, api, huma.Operation{OperationID: "run-doctor", Method: http.MethodPost, Path: "/api/v1/doctor/run", Summary: "Make all checks now", Description: "It takes up to 20 seconds and changes nothing.", Tags: []string{"doctor"}}, s.runDoctor)
}

func (s *Server) lastDoctor(context.Context, *none) (DoctorReport, error) {
	if s.Doctor.Last == nil {
		return DoctorReport{Checks: []DoctorCheck{}, Worst: "pass", Node: s.Node}, nil
	}
	return s.Doctor.Last(), nil
}

func (s *Server) runDoctor(ctx context.Context, _ *none) (DoctorReport, error) {
	if s.Doctor.Run == nil {
		return s.lastDoctor(ctx, nil)
	}
	return s.Doctor.Run(ctx)
}

// Doctor is what the checks found last.
func (c *Client) Doctor(ctx context.Context) (DoctorReport, error) {
	return call[DoctorReport](ctx, c, http.MethodGet, "/api/v1/doctor", nil, nil)
}

// RunDoctor makes all checks now.
func (c *Client) RunDoctor(ctx context.Context) (DoctorReport, error) {
	return call[DoctorReport](ctx, c, http.MethodPost, "/api/v1/doctor/run", nil, nil)
}
