package rest

import "time"

// SetNow lets a test turn the clock.
func (s *Server) SetNow(now func() time.Time) { s.now, s.Now = now, now }
