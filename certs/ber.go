package certs

import (
	"errors"
	"fmt"
)

// maxBERDepth bounds nesting; a PKCS#7 of certificates needs about eight.
const maxBERDepth = 32

var errBER = errors.New("the encoding is cut short or damaged")

// toDER rewrites what Windows and Java sometimes write, BER with indefinite
// lengths and split octet strings, as DER lengths. Contents stay as they are.
// It reads one value and refuses anything after it but zero bytes.
func toDER(data []byte) ([]byte, error) {
	out, rest, err := berValue(nil, data, 0)
	if err != nil {
		return nil, err
	}
	for _, b := range rest {
		if b != 0 {
			return nil, fmt.Errorf("%d bytes follow its end", len(rest))
		}
	}
	return out, nil
}

// berValue appends one value to out and gives what follows it.
func berValue(out, data []byte, depth int) ([]byte, []byte, error) {
	if depth > maxBERDepth {
		return nil, nil, errors.New("the encoding is nested too deeply")
	}
	tag, constructed, rest, err := berTag(data)
	if err != nil {
		return nil, nil, err
	}
	length, indefinite, rest, err := berLength(rest)
	if err != nil {
		return nil, nil, err
	}
	if indefinite && !constructed {
		return nil, nil, errBER
	}
	if !indefinite && length > len(rest) {
		return nil, nil, errBER
	}
	if !constructed {
		return append(appendLength(append(out, tag...), length), rest[:length]...), rest[length:], nil
	}

	var body []byte
	content := rest
	if !indefinite {
		content = rest[:length]
	}
	for {
		if indefinite {
			if len(content) < 2 {
				return nil, nil, errBER
			}
			if content[0] == 0 && content[1] == 0 {
				content = content[2:]
				break
			}
		} else if len(content) == 0 {
			break
		}
		if body, content, err = berValue(body, content, depth+1); err != nil {
			return nil, nil, err
		}
	}
	after := content
	if !indefinite {
		after = rest[length:]
	}
	const splitOctets = 0x24 // OCTET STRING, constructed
	if len(tag) == 1 && tag[0] == splitOctets {
		if body, err = joinOctets(body); err != nil {
			return nil, nil, err
		}
		tag = []byte{0x04}
	}
	return append(appendLength(append(out, tag...), len(body)), body...), after, nil
}

func berTag(data []byte) (tag []byte, constructed bool, rest []byte, err error) {
	if len(data) == 0 {
		return nil, false, nil, errBER
	}
	n := 1
	if data[0]&0x1f == 0x1f {
		for {
			if n >= len(data) || n > 4 {
				return nil, false, nil, errBER
			}
			n++
			if data[n-1]&0x80 == 0 {
				break
			}
		}
	}
	return data[:n:n], data[0]&0x20 != 0, data[n:], nil
}

func berLength(data []byte) (length int, indefinite bool, rest []byte, err error) {
	if len(data) == 0 {
		return 0, false, nil, errBER
	}
	first := data[0]
	switch {
	case first < 0x80:
		return int(first), false, data[1:], nil
	case first == 0x80:
		return 0, true, data[1:], nil
	}
	n := int(first & 0x7f)
	if n > 4 || n >= len(data) {
		return 0, false, nil, errBER
	}
	for _, b := range data[1 : 1+n] {
		length = length<<8 | int(b)
	}
	return length, false, data[1+n:], nil
}

// joinOctets takes the DER of the parts of a split octet string.
func joinOctets(parts []byte) ([]byte, error) {
	var out []byte
	for len(parts) > 0 {
		if parts[0] != 0x04 {
			return nil, errBER
		}
		length, _, rest, err := berLength(parts[1:])
		if err != nil || length > len(rest) {
			return nil, errBER
		}
		out, parts = append(out, rest[:length]...), rest[length:]
	}
	return out, nil
}

func appendLength(out []byte, n int) []byte {
	switch {
	case n < 0x80:
		return append(out, byte(n))
	case n < 0x100:
		return append(out, 0x81, byte(n))
	case n < 0x10000:
		return append(out, 0x82, byte(n>>8), byte(n))
	case n < 0x1000000:
		return append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(out, 0x84, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}
