package certs

import "time"

// Reminders are the days before its end at which a certificate is spoken of.
func Reminders() []int { return []int{45, 30, 14, 7, 1} }

// Reminder is the last of Reminders that has been reached, 0 once the
// certificate has expired, and -1 while none is due.
func Reminder(notAfter, now time.Time) int {
	left := notAfter.Sub(now)
	if left <= 0 {
		return 0
	}
	due := -1
	for _, days := range Reminders() {
		if left <= time.Duration(days)*24*time.Hour {
			due = days
		}
	}
	return due
}
