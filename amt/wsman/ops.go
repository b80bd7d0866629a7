package wsman

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
)

const (
	maxPulls = 200
	maxItems = 4000
)

func nothing(*buffer) {}

// Get reads one instance; without selectors, the only one of its class.
func (c *Client) Get(ctx context.Context, class string, sel ...Selector) (Node, error) {
	body, err := c.do(ctx, &call{op: "Get", class: class, action: nsXfer + "/Get", sel: sel, repeat: true, write: nothing})
	if err != nil {
		return Node{}, err
	}
	for n := range body.Children() {
		return n, nil
	}
	return Node{}, reason.Because(reason.WSMANInvalid, "Get %s: the answer holds no instance", class)
}

// Put writes one instance. Firmware answers with the instance as it is now, or
// with nothing.
func (c *Client) Put(ctx context.Context, in *Instance, sel ...Selector) error {
	_, err := c.do(ctx, &call{
		op: "Put", class: in.Class, action: nsXfer + "/Put", sel: sel, changes: true,
		write: func(b *buffer) { b.instance(in) },
	})
	return err
}

// Create makes an instance and returns the answer, which refers to it.
func (c *Client) Create(ctx context.Context, in *Instance) (Node, error) {
	return c.do(ctx, &call{
		op: "Create", class: in.Class, action: nsXfer + "/Create", changes: true,
		write: func(b *buffer) { b.instance(in) },
	})
}

// Delete removes the selected instance.
func (c *Client) Delete(ctx context.Context, class string, sel ...Selector) error {
	_, err := c.do(ctx, &call{op: "Delete", class: class, action: nsXfer + "/Delete", sel: sel, changes: true, write: nothing})
	return err
}

// Enumerate reads all instances of a class.
func (c *Client) Enumerate(ctx context.Context, class string) ([]Node, error) {
	items, err := c.enumerate(ctx, class)
	if errors.Is(err, errBeginAnew) {
		return c.enumerate(ctx, class)
	}
	return items, err
}

func (c *Client) enumerate(ctx context.Context, class string) ([]Node, error) {
	body, err := c.do(ctx, &call{
		op: "Enumerate", class: class, action: nsEnum + "/Enumerate", repeat: true,
		write: func(b *buffer) { b.raw(`<Enumerate xmlns="` + nsEnum + `"/>`) },
	})
	if err != nil {
		return nil, err
	}
	// Items may come with the first answer (WS-Management optimised enumeration).
	answer := body.Child("EnumerateResponse")
	items := itemsOf(nil, answer)
	enumeration := answer.Child("EnumerationContext").Text()
	if ended(answer) || enumeration == "" && len(items) > 0 {
		return items, nil
	}
	if enumeration == "" {
		return nil, reason.Because(reason.WSMANInvalid, "Enumerate %s: the answer holds no enumeration context", class)
	}
	for range maxPulls {
		body, err := c.do(ctx, &call{
			op: "Pull", class: class, action: nsEnum + "/Pull", again: true,
			write: func(b *buffer) {
				b.raw(`<Pull xmlns="` + nsEnum + `"><EnumerationContext>`)
				b.text(enumeration)
				b.raw(`</EnumerationContext><MaxElements>999</MaxElements><MaxCharacters>99999</MaxCharacters></Pull>`)
			},
		})
		if err != nil {
			// A device that sent its last items without saying so has forgotten the context
			// by now.
			if fault := new(Fault); errors.As(err, &fault) && fault.Subcode == "InvalidEnumerationContext" && len(items) > 0 {
				return items, nil
			}
			return nil, err
		}
		answer := body.Child("PullResponse")
		if !answer.OK() {
			return nil, reason.Because(reason.WSMANInvalid, "Pull %s: the answer is not a PullResponse", class)
		}
		before := len(items)
		items = itemsOf(items, answer)
		if ended(answer) {
			return items, nil
		}
		if len(items) > maxItems {
			break
		}
		next := answer.Child("EnumerationContext").Text()
		if next == "" && len(items) == before {
			return nil, reason.Because(reason.WSMANInvalid, "Pull %s: the answer holds no items and does not end", class)
		}
		if next != "" {
			enumeration = next
		}
	}
	return nil, reason.Because(reason.WSMANInvalid, "Pull %s: the enumeration does not end", class)
}

func itemsOf(items []Node, answer Node) []Node {
	for n := range answer.Child("Items").Children() {
		// A device may wrap an item together with its reference.
		if n.Name() == "Item" {
			for inner := range n.Children() {
				if inner.Name() != "EndpointReference" {
					items = append(items, inner)
				}
			}
			continue
		}
		items = append(items, n)
	}
	return items
}

func ended(answer Node) bool { return answer.Child("EndOfSequence").OK() }

// Invoke runs a method and returns its output. A ReturnValue other than 0 is an
// error that wraps the amt.Status, whatever HTTP says.
func (c *Client) Invoke(ctx context.Context, class, method string, args ...Arg) (Node, error) {
	return c.InvokeOn(ctx, class, nil, method, args...)
}

// InvokeOn is Invoke on the selected instance.
func (c *Client) InvokeOn(ctx context.Context, class string, sel []Selector, method string, args ...Arg) (Node, error) {
	changes := !strings.HasPrefix(method, "Get")
	var secrets []string
	for _, a := range args {
		if a.Secret && a.Value != "" {
			secrets = append(secrets, a.Value)
		}
	}
	body, err := c.do(ctx, &call{
		op: method, class: class, action: URI(class) + "/" + method, sel: sel, changes: changes, repeat: !changes, method: true,
		secrets: secrets,
		write:   func(b *buffer) { b.method(URI(class), method, args) },
	})
	if err != nil {
		return Node{}, err
	}
	out := body.Child(method + "_OUTPUT")
	value := out.Child("ReturnValue").Text()
	status, err := strconv.ParseUint(value, 10, 32)
	switch {
	case !out.OK() || err != nil:
		return Node{}, &reason.Error{Code: reason.WSMANInvalid, Sent: changes, Err: fmt.Errorf(
			"%s: the answer holds no ReturnValue", method)}
	case status != 0:
		return out, reason.Because(reason.WSMANFault, "%s: %w", method, amt.Status(status))
	}
	return out, nil
}
