package rest

import "time"

// Eligibility is the table of which command is for which device.
var Eligibility = cells

// SetNow lets a test turn the clock.
func (s *Server) SetNow(now func() time.Time) { s.now = now }
