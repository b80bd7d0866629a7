package operate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// Which finds the one device that a text names. A UUID names its device heard of or
// not; any other text has to be all of what it is, since a command for pc-2 is none
// for pc-24.
func Which(ctx context.Context, tx *store.Tx, text string) (amt.UUID, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return amt.UUID{}, Wrong("want a UUID, an address, a MAC or a name")
	}
	found, err := find(ctx, tx, text)
	if err != nil {
		return amt.UUID{}, err
	}
	if u, err := amt.ParseUUID(text); err == nil {
		if len(found) == 1 {
			return found[0].UUID, nil // it may have been written in the other order of bytes
		}
		return u, nil
	}
	whole := slices.DeleteFunc(slices.Clone(found), func(d store.Device) bool { return !isAllOf(d, text) })
	switch {
	case len(whole) == 1:
		return whole[0].UUID, nil
	case len(whole) > 1:
		return amt.UUID{}, ambiguous(text, "name one of them", whole)
	case len(found) > 0:
		return amt.UUID{}, ambiguous(text, "it is only a part of what they are called; name one of them", found)
	}
	return amt.UUID{}, noDevice(api.Clip(api.Clean(text), 80))
}

// isAllOf reports whether a text is all of a device's name, address, MAC or serial
// number.
func isAllOf(d store.Device, text string) bool {
	for _, name := range []string{d.FQDN, d.HostName, d.Serial, d.MAC} {
		if label, _, _ := strings.Cut(name, "."); name != "" && (strings.EqualFold(name, text) || strings.EqualFold(label, text)) {
			return true
		}
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return d.Address == a.Unmap().WithZone("")
	}
	mac, ok := MACOf(text)
	have, known := MACOf(d.MAC)
	return ok && known && mac == have
}

// ambiguous lists the devices that a text may mean.
func ambiguous(text, next string, found []store.Device) *Refused {
	const most = 5 // in the sentence
	var words []string
	var fields []api.ProblemField
	for _, d := range found {
		fields = append(fields, api.ProblemField{Location: d.UUID.String(),
			Message: strings.TrimSpace(api.Clean(d.FQDN) + " " + amt.Text(d.Address) + " " + string(d.Lifecycle))})
		if len(words) < most {
			words = append(words, amt.Called(d.UUID.String(), api.Clean(d.FQDN)))
		}
	}
	if len(found) > most {
		words = append(words, fmt.Sprintf("and %d more", len(found)-most))
	}
	p := Refuse(api.CodeAmbiguous, "%s fits %s: %s; %s", api.Clip(api.Clean(text), 80), devices(len(found)), strings.Join(words, ", "),
		next)
	p.More = fields
	return p
}

// Names finds what the devices among some texts are called, for lists that have no
// more than a UUID.
func Names(ctx context.Context, tx *store.Tx, texts []string) (map[string]string, error) {
	var uuids []amt.UUID
	for _, t := range texts {
		if u, err := amt.ParseUUID(t); err == nil && !u.IsZero() {
			uuids = append(uuids, u)
		}
	}
	out := map[string]string{}
	if len(uuids) == 0 {
		return out, nil
	}
	found, err := tx.CalledOf(ctx, uuids)
	for u, name := range found {
		out[u.String()] = api.Clean(name)
	}
	return out, err
}

// Known reads a device that a text names.
func Known(ctx context.Context, tx *store.Tx, text string) (store.Device, error) {
	u, err := Which(ctx, tx, text)
	if err != nil {
		return store.Device{}, err
	}
	d, err := tx.Device(ctx, u)
	if errors.Is(err, store.ErrNotFound) {
		return d, NoDevice(u)
	}
	return d, err
}

// find looks a device up by UUID in both byte orders, then by what else the
// text may be; what fits exactly stands first.
func find(ctx context.Context, tx *store.Tx, id string) ([]store.Device, error) {
	if u, err := amt.ParseUUID(id); err == nil {
		for _, v := range []amt.UUID{u, amt.FromSMBIOS([16]byte(u))} {
			d, err := tx.Device(ctx, v)
			if err == nil {
				return []store.Device{d}, nil
			}
			if !errors.Is(err, store.ErrNotFound) {
				return nil, err
			}
		}
		return nil, nil
	}
	const most = 20
	f := store.DeviceFilter{Query: id, Order: store.ByLastSeen, Limit: most}
	if a, err := netip.ParseAddr(id); err == nil {
		f.Query, f.Network = "", netip.PrefixFrom(a.Unmap().WithZone(""), a.Unmap().BitLen())
	}
	// Its name, as people say it, before all names that it is a part of.
	if found, err := tx.DevicesCalled(ctx, id, most); err != nil || len(found) > 0 {
		return found, err
	}
	found, err := tx.Devices(ctx, f)
	if err != nil {
		return nil, err
	}
	if mac, ok := MACOf(id); ok && len(found) == 0 {
		for _, form := range []string{Colons(mac), mac, strings.ReplaceAll(Colons(mac), ":", "-")} {
			if found, err = tx.Devices(ctx, store.DeviceFilter{Query: form, Limit: most}); err != nil || len(found) > 0 {
				break
			}
		}
	}
	for i, d := range found {
		if strings.EqualFold(d.FQDN, id) || strings.EqualFold(d.HostName, id) || strings.EqualFold(d.Serial, id) {
			found[0], found[i] = found[i], found[0]
			break
		}
	}
	return found, err
}

// MACOf reads 12 hexadecimal digits, in one group or in some of one length: the
// head of a UUID, of eight and four, is none.
func MACOf(s string) (string, bool) {
	groups := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return strings.ContainsRune(":-.", r) })
	for _, g := range groups {
		if len(g) != len(groups[0]) || strings.Trim(g, "0123456789abcdef") != "" {
			return "", false
		}
	}
	t := strings.Join(groups, "")
	return t, len(t) == 12
}

// Colons writes the digits of a MAC as most people do.
func Colons(mac string) string {
	var parts []string
	for i := 0; i+2 <= len(mac); i += 2 {
		parts = append(parts, mac[i:i+2])
	}
	return strings.Join(parts, ":")
}

// devices writes a number of devices for people.
func devices(n int) string {
	if n == 1 {
		return "1 device"
	}
	return fmt.Sprintf("%d devices", n)
}
