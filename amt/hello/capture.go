package hello

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Packet captures: pcap (tcpdump) and pcapng (Wireshark). A hello is everything
// that one side of a TCP connection sends, so the reader joins its segments.

// The kinds of link that captures of hellos come from.
const (
	linkNull     = 0
	linkEthernet = 1
	linkRaw      = 101
	linkSLL      = 113
	linkSLL2     = 276
)

// Bounds on what the reader keeps of a capture.
const (
	maxStreams = 20_000
	maxStream  = 64 << 10
)

func isCapture(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	switch binary.BigEndian.Uint32(b) {
	case 0xa1b2c3d4, 0xd4c3b2a1, 0xa1b23c4d, 0x4d3cb2a1, 0x0a0d0d0a:
		return true
	}
	return false
}

type stream struct {
	packet   int // the first one's number
	from     netip.AddrPort
	segments []segment
	size     int
}

type segment struct {
	seq  uint32
	data []byte
}

type streams struct {
	order []string
	all   map[string]*stream
}

// add takes one packet, counted from 1.
func (s *streams) add(n, link int, frame []byte) {
	data, seg, ok := payload(link, frame)
	if !ok || len(data) == 0 {
		return
	}
	key := seg.from.String() + seg.to.String()
	st := s.all[key]
	if st == nil {
		if len(s.order) >= maxStreams {
			return
		}
		st = &stream{packet: n, from: seg.from}
		s.all[key] = st
		s.order = append(s.order, key)
	}
	if st.size+len(data) <= 2*maxStream {
		st.size += len(data)
		st.segments = append(st.segments, segment{seg.seq, data})
	}
}

// hellos returns the streams that can be a hello. A long capture may see a
// sender's port again, so a segment far from the others begins another message.
func (s *streams) hellos(kind string) (out []Recorded) {
	for _, key := range s.order {
		st := s.all[key]
		slices.SortStableFunc(st.segments, func(a, b segment) int { return int(int32(a.seq - b.seq)) })
		var raw []byte
		var start uint32
		flush := func() {
			if isHello(raw) {
				out = append(out, Recorded{raw, fmt.Sprintf("%s, packet %d from %s", kind, st.packet, st.from)})
			}
			raw = nil
		}
		for _, g := range st.segments {
			at := g.seq - start
			if raw == nil || at > uint32(len(raw)) {
				flush()
				start, at = g.seq, 0
			}
			if end := int(at) + len(g.data); end > len(raw) && end <= maxStream {
				raw = append(raw[:at:at], g.data...)
			}
		}
		flush()
	}
	return out
}

func capture(b []byte) ([]Recorded, error) {
	s := &streams{all: map[string]*stream{}}
	kind, read := "pcap", pcap
	if binary.BigEndian.Uint32(b) == 0x0a0d0d0a {
		kind, read = "pcapng", pcapng
	}
	packets, err := read(b, s)
	if out := s.hellos(kind); len(out) > 0 {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("a %s file that cannot be read behind packet %d: %w", kind, packets, err)
	}
	return nil, fmt.Errorf("a %s file with %d packets, none of which carries a hello: capture TCP port 9971 with whole packets (tcpdump "+
		"-s "+
		"0 port 9971)", kind, packets)
}

var errCut = errors.New("it was cut short")

func pcap(b []byte, s *streams) (n int, err error) {
	if len(b) < 24 {
		return 0, errCut
	}
	var order binary.ByteOrder = binary.LittleEndian
	if b[0] == 0xa1 {
		order = binary.BigEndian
	}
	link := int(order.Uint32(b[20:]) & 0xfffffff)
	for b = b[24:]; len(b) > 0; {
		if len(b) < 16 {
			return n, errCut
		}
		size := int(order.Uint32(b[8:]))
		if size < 0 || size > len(b)-16 {
			return n, errCut
		}
		n++
		s.add(n, link, b[16:16+size])
		b = b[16+size:]
	}
	return n, nil
}

func pcapng(b []byte, s *streams) (n int, err error) {
	var order binary.ByteOrder = binary.LittleEndian
	var links []int
	for len(b) > 0 {
		if len(b) < 12 {
			return n, errCut
		}
		if bytes.Equal(b[:4], []byte{0x0a, 0x0d, 0x0d, 0x0a}) {
			order, links = binary.LittleEndian, nil
			if b[8] == 0x1a {
				order = binary.BigEndian
			}
		}
		kind, size := order.Uint32(b), int(order.Uint32(b[4:]))
		if size < 12 || size > len(b) {
			return n, errCut
		}
		body := b[8 : size-4]
		switch {
		case kind == 1 && len(body) >= 8: // interface
			links = append(links, int(order.Uint16(body)))
		case kind == 6 && len(body) >= 20: // enhanced packet
			n++
			id, have := int(order.Uint32(body)), int(order.Uint32(body[12:]))
			if id >= 0 && id < len(links) && have >= 0 && have <= len(body)-20 {
				s.add(n, links[id], body[20:20+have])
			}
		case kind == 3 && len(body) >= 4 && len(links) > 0: // simple packet
			n++
			s.add(n, links[0], body[4:4+min(int(order.Uint32(body)), len(body)-4)])
		}
		b = b[size:]
	}
	return n, nil
}

type segmentHead struct {
	from, to netip.AddrPort
	seq      uint32
}

// payload returns what a TCP packet carries.
func payload(link int, b []byte) (data []byte, head segmentHead, ok bool) {
	kind := uint16(0)
	switch link {
	case linkEthernet:
		if len(b) < 14 {
			return nil, head, false
		}
		kind, b = binary.BigEndian.Uint16(b[12:]), b[14:]
		for (kind == 0x8100 || kind == 0x88a8) && len(b) >= 4 { // VLAN
			kind, b = binary.BigEndian.Uint16(b[2:]), b[4:]
		}
	case linkSLL:
		if len(b) < 16 {
			return nil, head, false
		}
		kind, b = binary.BigEndian.Uint16(b[14:]), b[16:]
	case linkSLL2:
		if len(b) < 20 {
			return nil, head, false
		}
		kind, b = binary.BigEndian.Uint16(b), b[20:]
	case linkNull, 108:
		if len(b) < 4 {
			return nil, head, false
		}
		b = b[4:]
	case linkRaw, 12, 14, 228, 229:
	default:
		return nil, head, false
	}
	if kind != 0 && kind != 0x0800 && kind != 0x86dd || len(b) == 0 {
		return nil, head, false
	}
	var from, to netip.Addr
	switch {
	case b[0]>>4 == 4 && len(b) >= 20:
		size, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if b[9] != 6 || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 || size < 20 || size > len(b) {
			return nil, head, false // another protocol, or a fragment
		}
		from, _ = netip.AddrFromSlice(b[12:16])
		to, _ = netip.AddrFromSlice(b[16:20])
		if total >= size && total <= len(b) { // 0 if the network card splits packets
			b = b[:total]
		}
		b = b[size:]
	case b[0]>>4 == 6 && len(b) >= 40:
		if b[6] != 6 {
			return nil, head, false
		}
		from, _ = netip.AddrFromSlice(b[8:24])
		to, _ = netip.AddrFromSlice(b[24:40])
		total := int(binary.BigEndian.Uint16(b[4:]))
		b = b[40:]
		if total > 0 && total <= len(b) {
			b = b[:total]
		}
	default:
		return nil, head, false
	}
	if len(b) < 20 {
		return nil, head, false
	}
	size := int(b[12]>>4) * 4
	if size < 20 || size > len(b) {
		return nil, head, false
	}
	head = segmentHead{netip.AddrPortFrom(from, binary.BigEndian.Uint16(b)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:])),
		binary.BigEndian.Uint32(b[4:])}
	return b[size:], head, true
}
