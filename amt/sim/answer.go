package sim

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
)

// answer takes one request through authentication, its class and the fault that
// is due. It reports whether the connection goes on.
func (c *conn) answer(req *httpRequest) bool {
	d := c.dev
	if reply := c.relayed(req); reply != nil {
		return c.write(reply) == nil && !reply.close && !req.close
	}
	d.mu.Lock()
	d.seen.requests++
	d.seen.lastRequest = time.Now()
	d.handling++
	d.seen.maxInFlight = max(d.seen.maxInFlight, d.handling)
	odd, slow := d.faults.nuisance(req.authorization != "")
	c.odd = odd == OddPieces
	reply := c.atTheDoor(req)
	if reply == nil && odd == StaleNonce {
		reply = c.unauthorized(true)
	}
	if reply != nil {
		d.handling--
		d.mu.Unlock()
		return c.write(reply) == nil && !reply.close && !req.close
	}
	call, err := readCall(req.body)
	call.conn = c
	f := d.faults.next(call)
	d.mu.Unlock()

	if done, more := f.before(c); done {
		d.mu.Lock()
		d.handling--
		d.mu.Unlock()
		return more && !req.close
	}
	if odd == SlowAnswer && !d.wait(slow) {
		return false
	}
	call.strange = f.kind == WrongRelate
	if f.kind == Late {
		d.leave(c.raw)
		d.wait(f.pause)
	}
	d.mu.Lock()
	d.handling--                        // the peer may read the answer before this goroutine runs again
	if d.closed || c.epoch != d.epoch { // the network went down meanwhile
		d.mu.Unlock()
		return false
	}
	switch {
	case f.kind == Refuse && call.isMethod:
		reply = d.methodReply(call, nil, amt.Status(f.number))
		d.note(call.name(), "refused as told", amt.Status(f.number))
	case err != nil:
		reply = d.faultReply(call, err)
	default:
		reply = d.perform(call, f)
	}
	if call.after != nothing && (f.kind == DropReply || f.kind == PowerCycle || call.verb == "CommitChanges" && d.p.CommitCuts) {
		d.follow(call.after) // cut the network before the answer goes out
		d.mu.Unlock()
		return false
	}
	d.mu.Unlock()

	reply.close = reply.close || req.close || odd == CloseAfter
	more := f.reply(c, reply) && !reply.close
	if call.after != nothing {
		d.mu.Lock()
		d.follow(call.after) // it cuts every connection, this one too
		d.mu.Unlock()
		return false
	}
	return more
}

// effect is what a call does to the network after its answer.
type effect int

const (
	nothing effect = iota
	networkRestart
	powerLossKeep
	powerLossForget
	powerOff
)

// follow lets a call's effect happen; mu is held.
func (d *Device) follow(e effect) {
	switch e {
	case networkRestart:
		d.restart(d.cfg.Restart)
	case powerLossKeep:
		d.powerCycle(true)
	case powerLossForget:
		d.powerCycle(false)
	case powerOff:
		d.cutNetwork() // until PowerCycle
	}
}

// atTheDoor answers what never reaches WS-Management: other paths and methods,
// and peers that are not logged in. mu is held.
func (c *conn) atTheDoor(req *httpRequest) *httpReply {
	d := c.dev
	if req.method == "GET" && !c.setup && (req.path == "/" || req.path == "/index.htm") {
		return &httpReply{status: 200, kind: "text/html",
			body: []byte("<html><head><title>Intel&reg; Active Management Technology</title></head></html>")}
	}
	if req.path != "/wsman" {
		return &httpReply{status: 404, kind: "text/html"}
	}
	if req.method != "POST" {
		return &httpReply{status: 405, kind: "text/html"}
	}
	if d.faults.storm() {
		return c.unauthorized(true)
	}
	if c.setup && !d.p.AsksDigest && req.authorization == "" {
		return nil // the client certificate is all the proof that setup asks for
	}
	if req.trusted {
		return nil
	}
	user, v := c.authenticate(req)
	switch v {
	case admitted:
		d.digest.fails = 0
		d.login(user, true)
		return nil
	case expired:
		return c.unauthorized(true)
	case wrong:
		d.digest.fails++
		d.seen.mostWrong = max(d.seen.mostWrong, d.digest.fails)
		d.login(user, false)
	case unasked:
		if c.setup && !d.p.AsksDigest {
			return nil // an answer to a question that nobody asked
		}
	}
	return c.unauthorized(false)
}

func (c *conn) unauthorized(stale bool) *httpReply {
	c.dev.seen.challenges++
	return &httpReply{
		status: 401, kind: "text/html", close: c.dev.p.CloseOn401, challenge: c.dev.challenge(stale),
		body: []byte("<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.01 " +
			"Transitional//EN\"\n\"http://www.w3.org/TR/html4/loose.dtd\">\n<html><head><title>Login</title></head><body>Unauthorized</body></html>"),
	}
}

func (d *Device) envelope(c *call, action string) *writer {
	d.messages++
	w := &writer{style: d.p.Style}
	relates := c.id
	if c.strange {
		relates = "8086"
	}
	w.begin(action, relates, fmt.Sprintf("uuid:00000000-8086-8086-8086-%012X", d.messages), c.uri)
	return w
}

func (d *Device) ok(body []byte) *httpReply {
	return &httpReply{status: 200, kind: d.p.ContentType, body: body}
}

func (d *Device) faultReply(c *call, err error) *httpReply {
	f, ok := errors.AsType[*soapFault](err)
	if !ok {
		f = errInternal
	}
	w := &writer{style: d.p.Style}
	d.messages++
	w.begin(nsAddr+"/fault", c.id, fmt.Sprintf("uuid:00000000-8086-8086-8086-%012X", d.messages), "")
	w.fault(f)
	status := 400
	if f.receiver {
		status = 500
	}
	d.note(c.name(), "fault "+f.subcode, 0)
	return &httpReply{status: status, kind: d.p.ContentType, body: w.finish()}
}

// perform finds the class and carries the call out; mu is held.
func (d *Device) perform(c *call, f *firing) *httpReply {
	cl, ok := classes[c.class]
	if !ok || !cl.in(&d.p) || cl.space+c.class != c.uri {
		return d.faultReply(c, errNoClass)
	}
	reply, err := d.dispatch(c, cl)
	if err != nil {
		return d.faultReply(c, err)
	}
	if f.kind == PowerCycle {
		c.after = powerLossForget
		if f.keep {
			c.after = powerLossKeep
		}
		if f.off {
			c.after = powerOff
		}
	}
	return reply
}

func (d *Device) dispatch(c *call, cl *class) (*httpReply, error) {
	if !d.may(c) {
		return nil, errDenied
	}
	if c.isMethod {
		m, ok := cl.methods[c.verb]
		if !ok || m.since.Major > 0 && !d.p.has(m.since.Major, m.since.Minor) {
			return nil, errNoAction
		}
		out, st, err := m.do(d, c)
		if err != nil {
			return nil, err
		}
		if !m.reads {
			d.note(c.verb, c.note, st)
		}
		return d.methodReply(c, out, st), nil
	}
	switch c.verb {
	case "Get":
		in, err := d.find(c, cl)
		if err != nil {
			return nil, err
		}
		w := d.envelope(c, nsXfer+"/GetResponse")
		w.instance(c.class, in)
		return d.ok(w.finish()), nil
	case "Put":
		if cl.put == nil {
			return nil, errNoAction
		}
		if c.body.name != c.class || c.body.space != c.uri {
			return nil, errSchema
		}
		if err := cl.put(d, c); err != nil {
			return nil, err
		}
		d.note(c.name(), c.note, 0)
		in, err := d.find(c, cl)
		if err != nil {
			return nil, err
		}
		w := d.envelope(c, nsXfer+"/PutResponse")
		w.instance(c.class, in)
		return d.ok(w.finish()), nil
	case "Create":
		if cl.create == nil {
			return nil, errNoAction
		}
		if c.body.name != c.class || c.body.space != c.uri {
			return nil, errSchema
		}
		ref, err := cl.create(d, c)
		if err != nil {
			return nil, err
		}
		d.note(c.name(), c.note, 0)
		w := d.envelope(c, nsXfer+"/CreateResponse")
		w.openNS(w.xfer, "ResourceCreated", nsXfer)
		w.reference(ref)
		w.end(w.xfer, "ResourceCreated")
		return d.ok(w.finish()), nil
	case "Delete":
		if cl.remove == nil {
			return nil, errNoAction
		}
		if err := cl.remove(d, c); err != nil {
			return nil, err
		}
		d.note(c.name(), c.note, 0)
		return d.ok(d.envelope(c, nsXfer+"/DeleteResponse").finish()), nil
	case "Enumerate":
		return d.enumerate(c)
	case "Pull":
		return d.pull(c, cl)
	}
	return nil, errNoAction
}

// find picks the instance a Get or Put names. A singleton needs no selector.
func (d *Device) find(c *call, cl *class) (instance, error) {
	all := cl.list(d)
	if len(c.selectors) == 0 {
		if cl.singleton && len(all) == 1 {
			return all[0], nil
		}
		return nil, errSelectors
	}
	for _, in := range all {
		if in.matches(c.selectors) {
			return in, nil
		}
	}
	return nil, errSelectors
}

func (in instance) matches(sel []selector) bool {
	for _, s := range sel {
		if v, ok := in.get(s.name); ok && v == s.value {
			continue
		}
		// Do not look into selectors that are references themselves.
		if !slices.ContainsFunc(in, func(p prop) bool { return p.name == s.name && p.ref != nil }) {
			return false
		}
	}
	return true
}

func (in instance) get(name string) (string, bool) {
	for _, p := range in {
		if p.name == name && p.ref == nil {
			return p.value, true
		}
	}
	return "", false
}

type enumeration struct {
	class string
	at    int
}

func (d *Device) enumerate(c *call) (*httpReply, error) {
	if c.body.name != "Enumerate" || c.body.space != nsEnum {
		return nil, errSchema
	}
	if len(d.enums) >= 16 { // a device need not remember which of the old ones
		clear(d.enums)
	}
	d.enumCount++
	id := fmt.Sprintf("%02X000000-0000-0000-0000-%012d", d.enumCount&0xff, 0)
	d.enums[id] = &enumeration{class: c.class}
	w := d.envelope(c, nsEnum+"/EnumerateResponse")
	w.openNS(w.enum, "EnumerateResponse", nsEnum)
	w.el(w.enum, "EnumerationContext", id)
	w.end(w.enum, "EnumerateResponse")
	return d.ok(w.finish()), nil
}

func (d *Device) pull(c *call, cl *class) (*httpReply, error) {
	ctx := c.body.child(nsEnum, "EnumerationContext")
	if c.body.name != "Pull" || c.body.space != nsEnum || ctx == nil {
		return nil, errSchema
	}
	e := d.enums[ctx.text]
	if e == nil || e.class != c.class {
		return nil, errContext
	}
	most := 1
	if m := c.body.child(nsEnum, "MaxElements"); m != nil {
		n, err := strconv.Atoi(m.text)
		if err != nil || n < 1 {
			return nil, errSchema
		}
		most = n
	}
	all := cl.list(d)
	from := min(e.at, len(all))
	to := min(from+most, len(all))
	w := d.envelope(c, nsEnum+"/PullResponse")
	w.openNS(w.enum, "PullResponse", nsEnum)
	if to < len(all) {
		e.at = to
		w.el(w.enum, "EnumerationContext", ctx.text)
	}
	w.open(w.enum, "Items")
	for _, in := range all[from:to] {
		w.instance(c.class, in)
	}
	w.end(w.enum, "Items")
	if to == len(all) {
		delete(d.enums, ctx.text)
		w.el(w.enum, "EndOfSequence", "")
	}
	w.end(w.enum, "PullResponse")
	return d.ok(w.finish()), nil
}

func (d *Device) methodReply(c *call, out []prop, st amt.Status) *httpReply {
	w := d.envelope(c, c.uri+"/"+c.verb+"Response")
	w.openNS(w.class, c.verb+"_OUTPUT", c.uri)
	if st == amt.StatusSuccess {
		w.props(out)
	}
	w.el(w.class, "ReturnValue", strconv.FormatUint(uint64(st), 10))
	w.end(w.class, c.verb+"_OUTPUT")
	return d.ok(w.finish())
}

// note logs everything that changed the device, or tried to. mu is held.
func (d *Device) note(call, detail string, st amt.Status) {
	d.seen.changes = append(d.seen.changes, Change{At: time.Now(), Call: call, Detail: detail, Status: st})
	if ce := d.log.Check(zap.DebugLevel, "call"); ce != nil {
		ce.Write(zap.String("call", call), zap.String("detail", detail), zap.Uint32("status", uint32(st)))
	}
}

func instanceOf(pairs ...string) instance {
	in := make(instance, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		in = append(in, prop{name: pairs[i], value: pairs[i+1]})
	}
	return in
}

func trimSpaces(s string) string { return strings.ReplaceAll(s, " ", "") }
