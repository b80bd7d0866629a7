package wsman

import "time"

// A lineHistory is what the device did with its lines in this conversation. It
// answers whether a line that closed unannounced may be opened again. Settings
// made before a commit do not survive a restart, and after one the device looks
// the same: once something was changed, the client believes that a device closed
// for another reason only if the device closed like this before the change.
type lineHistory struct {
	// Of the line at hand.
	answers int
	closed  bool // the device closed it, or said that it would
	refused bool // the last answer was a 401

	// Of the whole conversation.
	lastAnswer        time.Time
	changed           bool // a change has been sent
	closesAfter401    bool // without saying so
	closesWhenIdle    bool // it closed unannounced before anything was changed
	closesAfterAnswer bool // it closed unannounced right after an answer
}

// opened begins a new line.
func (h *lineHistory) opened() { h.answers, h.closed, h.refused = 0, false, false }

// answered takes down an answer that was read as a whole.
func (h *lineHistory) answered(r *response) {
	h.answers++
	h.lastAnswer = time.Now()
	h.closed, h.refused = r.close, r.status == 401
}

// closedUnannounced takes down that the device closed the line without a word
// while our request was on its way. The line had been idle since its last answer.
func (h *lineHistory) closedUnannounced(idle time.Duration) {
	h.closed = true
	if h.refused {
		h.closesAfter401 = true
		return
	}
	h.closesWhenIdle = h.closesWhenIdle || !h.changed
	h.closesAfterAnswer = h.closesAfterAnswer || idle < idleRace
}

// foundClosed takes down that the device closed the line without a word before we
// asked anything. Nothing was on its way, so a close after a 401 shows the habit too.
func (h *lineHistory) foundClosed() {
	h.closesWhenIdle = h.closesWhenIdle || !h.changed
	h.closedUnannounced(h.idle())
}

func (h *lineHistory) idle() time.Duration { return time.Since(h.lastAnswer) }

// mayReopen reports whether a line that closed unannounced may be opened again.
func (h *lineHistory) mayReopen() bool { return !h.changed || h.closesWhenIdle }

// mayReopenUnasked is mayReopen of a line that closed before we asked: a close
// after a 401 means nothing else, since the device did not accept what it refused.
func (h *lineHistory) mayReopenUnasked() bool { return h.refused || h.mayReopen() }

// mayReopenAsked is mayReopen of a line that closed instead of an answer, having
// been idle before: then the device may have closed it while our request was on
// its way, or because of the request.
func (h *lineHistory) mayReopenAsked(idle time.Duration) bool {
	return h.refused || h.answers > 0 && (idle >= idleRace || h.closesAfterAnswer || !h.changed) && h.mayReopen()
}

// waitBefore is how long a request waits for the device to close the line first,
// as it did before: a request that is safe to repeat need not wait.
func (h *lineHistory) waitBefore(q *call) time.Duration {
	if h.closesAfterAnswer && !q.repeat && h.answers > 0 && !h.closed && h.mayReopen() {
		return closePatience
	}
	return 0
}

// waitAfter401 is how long a refused request waits for the device to close the
// line without having said so: briefly before what must not be sent twice, and
// longer before anything once the device has shown that it does.
func (h *lineHistory) waitAfter401(q *call) time.Duration {
	switch {
	case h.closed:
		return 0
	case h.closesAfter401:
		return closePatience
	case !q.repeat:
		return afterRefusal
	}
	return 0
}
