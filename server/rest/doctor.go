package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/provisiond/provisiond/server/api"
)

// Doctor is the way to the checks.
type Doctor struct {
	Last func() api.DoctorReport
	Run  func(ctx context.Context) (api.DoctorReport, error) // makes all checks now, up to 20 s
}

func (s *Server) doctorRoutes(to huma.API) {
	add(s, to, huma.Operation{OperationID: "get-doctor", Method: http.MethodGet, Path: "/api/v1/doctor",
		Summary:     "What the doctor found last",
		Description: "The checks run by themselves every doctor.interval, on each node for itself.", Tags: []string{"doctor"}},
		s.lastDoctor)
	add(s, to, huma.Operation{OperationID: "run-doctor", Method: http.MethodPost, Path: "/api/v1/doctor/run",
		Summary: "Make all checks now", Description: "It takes up to 20 seconds and changes nothing.", Tags: []string{"doctor"}},
		s.runDoctor)
}

func (s *Server) lastDoctor(context.Context, *none) (api.DoctorReport, error) {
	if s.Doctor.Last == nil {
		return api.DoctorReport{Checks: []api.DoctorCheck{}, Worst: "pass", Node: s.Node}, nil
	}
	return s.Doctor.Last(), nil
}

func (s *Server) runDoctor(ctx context.Context, _ *none) (api.DoctorReport, error) {
	if s.Doctor.Run == nil {
		return s.lastDoctor(ctx, nil)
	}
	return s.Doctor.Run(ctx)
}
