package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
)

// Kind names one way to misbehave.
type Kind string

const (
	// At a call; by default once, at its first occurrence.
	CutBefore   Kind = "cut_before" // not applied: cut the line before the call
	DropReply   Kind = "drop_reply" // applied; cut the line instead of an answer
	CutReply    Kind = "cut_reply"  // applied; send half of the answer
	Garble      Kind = "garble"     // applied; answer something that is no XML
	Refuse      Kind = "refuse"     // not applied, ReturnValue =N (methods only)
	Busy503     Kind = "http_503"   // not applied, HTTP 503
	Hang        Kind = "hang"       // not applied, no answer until the peer gives up
	Delay       Kind = "delay"      // =DURATION before the call
	WrongRelate Kind = "wrong_relates_to"
	HugeBody    Kind = "huge_body"   // applied; answer with a gigabyte
	NestedXML   Kind = "nested_xml"  // applied; answer with elements nested without end
	PowerCycle  Kind = "power_cycle" // applied, then cut the power: =lose (default) or =keep, or =off until Device.PowerCycle
	Ask401      Kind = "ask_401"     // not applied, an unannounced challenge
	Late        Kind = "late"        // cut the line, and apply the call =DURATION later

	// Of the device as a whole; #n counts connections or calls of their sort.
	NeverListen   Kind = "never_listen"
	RefuseCert    Kind = "refuse_cert"
	HangHandshake Kind = "hang_handshake"
	OneByte       Kind = "one_byte_records"
	NonceStorm    Kind = "nonce_storm" // call the nonce of =N requests in a row stale
	SlowKeygen    Kind = "slow_keygen" // GenerateKeyPair is busy =N times
	CommitNoop    Kind = "commit_noop" // CommitChanges says yes and does nothing
	WrongUUID     Kind = "wrong_uuid"  // GetUuid names another machine, always

	// What firmware does on a good day too, drawn by Faults.Nuisance. It loses
	// nothing, and a right client comes through within the session.
	StaleNonce Kind = "stale_nonce" // ask for a good login again
	CloseAfter Kind = "close_after" // end the connection with this answer, which announces it
	OddPieces  Kind = "odd_pieces"  // send the answer in pieces of odd sizes
	SlowAnswer Kind = "slow_answer" // send the answer a moment later
)

var atCalls = []Kind{CutBefore, DropReply, CutReply, Garble, Refuse, Busy503, Hang, Delay, WrongRelate, HugeBody, NestedXML, PowerCycle,
	Ask401, Late}
var ofDevice = []Kind{NeverListen, RefuseCert, HangHandshake, OneByte, NonceStorm, SlowKeygen, CommitNoop, WrongUUID}

// randomly are the faults that a Rate draws from: a server must come through
// them without a person.
var randomly = []Kind{CutBefore, DropReply, CutReply, Garble, Busy503, Delay, PowerCycle, Ask401}

var nuisances = []Kind{StaleNonce, CloseAfter, OddPieces, SlowAnswer}

// Fault is one misbehaviour at one place.
type Fault struct {
	Kind Kind
	// Call is a method's name (CommitChanges), a verb and class
	// (Put:AMT_TLSSettingData), a class, or empty for any call.
	Call string
	Nth  int // which occurrence, from 1; 0 means the first
	All  bool
	Arg  string // see Kind
}

func (f Fault) String() string {
	s := string(f.Kind)
	if f.Call != "" {
		s += ":" + f.Call
	}
	if f.All {
		s += "#all"
	} else if f.Nth > 1 {
		s += "#" + strconv.Itoa(f.Nth)
	}
	if f.Arg != "" {
		s += "=" + f.Arg
	}
	return s
}

// Faults are everything that a device does wrong.
type Faults struct {
	List []Fault
	Rate float64 // chance of a random fault at each call
	Most int     // most random faults of a device; 0: 3
	Seed uint64
	// Nuisance is the chance of StaleNonce, CloseAfter, OddPieces or SlowAnswer at
	// each request, for ever, but never at two requests in a row.
	Nuisance float64
}

// With collects faults: sim.With(sim.Cut("CommitChanges"), sim.NotListening()).
func With(list ...Fault) Faults { return Faults{List: list} }

// Cut cuts the connection before the device carries the call out.
func Cut(call string) Fault { return Fault{Kind: CutBefore, Call: call} }

// Drop carries the call out and loses its answer.
func Drop(call string) Fault { return Fault{Kind: DropReply, Call: call} }

// Refused answers the call with this status and does not carry it out.
func Refused(call string, st amt.Status) Fault {
	return Fault{Kind: Refuse, Call: call, Arg: strconv.Itoa(int(st))}
}

// ParseFaults reads "kind[:call][#n|#all][=argument],…", for example
// "drop_reply:CommitChanges,cut_before:SetMEBxPassword#2,refuse:AddCertificate=2058,rate=0.05".
func ParseFaults(s string) (Faults, error) {
	var out Faults
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		head, arg, _ := strings.Cut(part, "=")
		var err error
		switch head {
		case "rate":
			if out.Rate, err = strconv.ParseFloat(arg, 64); err != nil || out.Rate < 0 || out.Rate > 1 {
				return Faults{}, fmt.Errorf("fault %q: want a rate between 0 and 1", part)
			}
			continue
		case "seed":
			if out.Seed, err = strconv.ParseUint(arg, 10, 64); err != nil {
				return Faults{}, fmt.Errorf("fault %q: want a number", part)
			}
			continue
		case "most":
			if out.Most, err = strconv.Atoi(arg); err != nil {
				return Faults{}, fmt.Errorf("fault %q: want a number", part)
			}
			continue
		}
		head, nth, counted := strings.Cut(head, "#")
		kind, call, _ := strings.Cut(head, ":")
		f := Fault{Kind: Kind(kind), Call: call, Arg: arg}
		switch {
		case !counted:
		case nth == "all":
			f.All = true
		default:
			if f.Nth, err = strconv.Atoi(nth); err != nil || f.Nth < 1 {
				return Faults{}, fmt.Errorf("fault %q: want #1, #2, … or #all", part)
			}
		}
		if err := f.check(); err != nil {
			return Faults{}, err
		}
		out.List = append(out.List, f)
	}
	return out, nil
}

func (f Fault) check() error {
	switch {
	case !slices.Contains(atCalls, f.Kind) && !slices.Contains(ofDevice, f.Kind):
		return fmt.Errorf("fault %q: want one of %v %v", f.Kind, atCalls, ofDevice)
	case f.Kind == Refuse:
		if _, err := strconv.ParseUint(f.Arg, 10, 32); err != nil {
			return fmt.Errorf("fault %q: want a status such as =2058", f)
		}
	case f.Kind == Delay || f.Kind == Late:
		if _, err := time.ParseDuration(f.Arg); err != nil {
			return fmt.Errorf("fault %q: want a duration such as =2s", f)
		}
	case f.Kind == PowerCycle && f.Arg != "" && f.Arg != "keep" && f.Arg != "lose" && f.Arg != "off":
		return fmt.Errorf("fault %q: want =keep, =lose or =off", f)
	case (f.Kind == NonceStorm || f.Kind == SlowKeygen) && f.Arg != "":
		if _, err := strconv.Atoi(f.Arg); err != nil {
			return fmt.Errorf("fault %q: want a number of times", f)
		}
	}
	return nil
}

func (f Fault) fits(c *call) bool {
	return f.Call == "" || f.Call == "*" || f.Call == c.verb && c.isMethod || f.Call == c.name() || f.Call == c.class || f.Call == c.verb
}

// faultState counts occurrences; Device.mu guards it, except always, which
// nobody writes after New.
type faultState struct {
	list   []Fault
	count  []int
	left   []int // of faults that come several times
	rate   float64
	most   int
	rng    *rand.Rand
	bother float64
	draws  *rand.Rand // for nuisances, so that named faults stay where they were
	spared bool       // the request before had one
	fired  []string
	always map[Kind]bool
}

func newFaultState(f Faults, id uint64) faultState {
	s := faultState{list: f.List, count: make([]int, len(f.List)), left: make([]int, len(f.List)), rate: f.Rate, most: f.Most,
		always: map[Kind]bool{}}
	if s.most == 0 {
		s.most = 3
	}
	s.rng = rand.New(rand.NewPCG(f.Seed, id))
	s.bother, s.draws = f.Nuisance, rand.New(rand.NewPCG(^f.Seed, id))
	for i, e := range f.List {
		s.left[i] = 1
		if n, err := strconv.Atoi(e.Arg); err == nil && (e.Kind == NonceStorm || e.Kind == SlowKeygen) {
			s.left[i] = n
		}
		if e.Kind == NeverListen || e.Kind == OneByte || e.Kind == WrongUUID {
			s.always[e.Kind] = true
		}
	}
	return s
}

func (s *faultState) neverListens() bool   { return s.always[NeverListen] }
func (s *faultState) oneByteRecords() bool { return s.always[OneByte] }

// nuisance draws what else happens to this request; "": nothing. A stale nonce
// needs a login that the device can ask for again.
func (s *faultState) nuisance(loggedIn bool) (Kind, time.Duration) {
	if s.bother <= 0 || s.draws.Float64() >= s.bother || s.spared {
		s.spared = false
		return "", 0
	}
	k := nuisances[s.draws.IntN(len(nuisances))]
	if k == StaleNonce && !loggedIn {
		k = OddPieces
	}
	s.spared = true
	s.fired = append(s.fired, string(k))
	return k, time.Duration(20+s.draws.IntN(180)) * time.Millisecond
}

// once reports whether a fault of the whole device is due now.
func (s *faultState) once(k Kind) bool {
	if s.always[k] {
		return true
	}
	for i, f := range s.list {
		if f.Kind != k {
			continue
		}
		s.count[i]++
		if f.All || s.count[i] >= max(f.Nth, 1) && s.left[i] > 0 {
			s.left[i]--
			s.fired = append(s.fired, f.String())
			return true
		}
	}
	return false
}

func (s *faultState) storm() bool { return s.once(NonceStorm) }

// firing is the fault that is due at a call; the zero value is none.
type firing struct {
	kind   Kind
	number uint64
	pause  time.Duration
	keep   bool
	off    bool
}

// next finds what is due at this call; mu is held.
func (s *faultState) next(c *call) *firing {
	for i, f := range s.list {
		if !slices.Contains(atCalls, f.Kind) || !f.fits(c) {
			continue
		}
		s.count[i]++
		if f.All || s.count[i] == max(f.Nth, 1) {
			s.fired = append(s.fired, f.String()+" at "+c.name())
			return f.firing()
		}
	}
	if s.rate > 0 && s.most > 0 && s.rng.Float64() < s.rate {
		s.most--
		f := Fault{Kind: randomly[s.rng.IntN(len(randomly))], Arg: "300ms"}
		if f.Kind == PowerCycle {
			f.Arg = []string{"keep", "lose"}[s.rng.IntN(2)]
		}
		s.fired = append(s.fired, f.String()+" at "+c.name())
		return f.firing()
	}
	return &firing{}
}

func (f Fault) firing() *firing {
	x := &firing{kind: f.Kind, keep: f.Arg == "keep", off: f.Arg == "off"}
	x.number, _ = strconv.ParseUint(f.Arg, 10, 32)
	x.pause, _ = time.ParseDuration(f.Arg)
	return x
}

// before acts before the device carries the call out: done says that the call
// ends here, more that the connection goes on.
func (f *firing) before(c *conn) (done, more bool) {
	switch f.kind {
	case CutBefore:
		return true, false
	case Hang:
		c.dev.hang(c.rw)
		return true, false
	case Delay:
		return !c.dev.wait(f.pause), false
	case Busy503:
		return true, c.write(&httpReply{status: 503, kind: "text/html",
			body: []byte("<html><body>Service Unavailable</body></html>")}) == nil
	case Ask401:
		c.dev.mu.Lock()
		r := c.unauthorized(false)
		c.dev.mu.Unlock()
		return true, c.write(r) == nil && !r.close
	}
	return false, false
}

// reply sends the answer, or what the fault leaves of it. It reports whether
// the connection goes on.
func (f *firing) reply(c *conn, r *httpReply) bool {
	switch f.kind {
	case DropReply:
		return false
	case CutReply:
		out := c.encode(r)
		_, _ = c.rw.Write(out[:len(out)/2])
		return false
	case Garble:
		for i := range r.body {
			r.body[i] ^= 0x5a
		}
	case NestedXML:
		r.body = []byte(strings.Repeat("<a>", 200_000))
	case HugeBody:
		c.huge()
		return false
	}
	return c.write(r) == nil
}

// huge sends a gigabyte of spaces in an answer that claims to be XML, until the
// peer gives up.
func (c *conn) huge() {
	head := "HTTP/1.1 200 OK\r\nServer: " + c.dev.p.ServerName + "\r\nContent-Type: " + c.dev.p.ContentType +
		"\r\nContent-Length: 1073741824\r\n\r\n"
	_ = c.raw.SetWriteDeadline(time.Now().Add(handshakeTime))
	if _, err := c.rw.Write([]byte(head + `<?xml version="1.0"?><a>`)); err != nil {
		return
	}
	block := []byte(strings.Repeat(" ", 16<<10))
	for range 1 << 16 {
		if _, err := c.rw.Write(block); err != nil {
			return
		}
	}
}
