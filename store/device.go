package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/provisiond/provisiond/amt"
)

const deviceColumns = `uuid, lifecycle, reason, detail, device_mode, health, amt_version, sku, realm, host, domain, fqdn,
	suffix, mac, serial, smbios_uuid, secure_dns, address, profile, profile_version, trust_table, certificate, tls_version,
	peer_fingerprint, tags, approved, first_seen, last_seen, provisioned_at, last_contact, window_until, next_retry,
	device_cert_not_after, password_changed_at, attempts, hello_count, hello_retry, admin_flag, fence, owner, lease_until,
	generation, record, assigned_profile, peer_verified, vouched, peer_seen, signed, heard_from, address_by, agent_address, good_address,
	claim_due`

func (d *Device) dest() []any {
	return []any{&d.UUID, &d.Lifecycle, &d.Reason, &d.Detail, &d.DeviceMode, &d.Health, versionOf{&d.Version}, &d.SKU,
		&d.Realm, &d.HostName, &d.Domain, &d.FQDN, &d.Suffix, &d.MAC, &d.Serial, &d.SMBIOSUUID, &d.SecureDNS,
		addrOf{&d.Address}, &d.Profile, &d.ProfileVersion, &d.TrustTable, &d.Certificate, &d.TLSVersion, &d.PeerFingerprint,
		jsonOf{&d.Tags}, &d.Approved, timeOf{&d.FirstSeen}, timeOf{&d.LastSeen}, timeOf{&d.ProvisionedAt},
		timeOf{&d.LastContact}, timeOf{&d.WindowUntil}, timeOf{&d.NextRetry}, timeOf{&d.DeviceCertNotAfter},
		timeOf{&d.PasswordChangedAt}, &d.Attempts, &d.HelloCount, &d.HelloRetry, &d.AdminFlag, &d.Fence, &d.Owner,
		timeOf{&d.LeaseUntil}, &d.Generation, jsonOf{&d.Record}, &d.AssignedProfile, &d.PeerVerified, &d.Vouched, &d.PeerSeen, &d.Signed,
		addrOf{&d.HeardFrom}, &d.AddressBy, addrOf{&d.AgentAddress}, addrOf{&d.GoodAddress}, timeOf{&d.ClaimDue}}
}

func (tx *Tx) scanDevice(s scanner) (Device, error) {
	var d Device
	err := s.Scan(d.dest()...)
	if err == nil {
		tx.settle(&d)
	}
	return d, err
}

// Device reads one device.
func (tx *Tx) Device(ctx context.Context, uuid amt.UUID) (Device, error) {
	var d Device
	if err := tx.one(ctx, "SELECT "+deviceColumns+" FROM devices WHERE uuid = $1", []any{uuid}, d.dest()...); err != nil {
		return d, fmt.Errorf("device %s: %w", uuid, err)
	}
	tx.settle(&d)
	return d, nil
}

// RealmHolder finds another device with this digest realm that is not retired,
// or returns ErrNotFound.
func (tx *Tx) RealmHolder(ctx context.Context, realm string, but amt.UUID) (amt.UUID, error) {
	var u amt.UUID
	err := tx.one(ctx, "SELECT uuid FROM devices WHERE realm = $1 AND realm <> '' AND uuid <> $2 AND lifecycle <> 'retired' ORDER BY uuid "+
		"LIMIT 1", []any{realm, but}, &u)
	return u, err
}

// ImportDevice makes the row of a device that no node has heard yet, with the
// event imported. ErrConflict: the device is there already, and stays as it is.
func (tx *Tx) ImportDevice(ctx context.Context, uuid amt.UUID, actor string, f DeviceFacts) error {
	n, err := tx.exec(ctx, "INSERT INTO devices (uuid, first_seen) VALUES ($1, {now}) ON CONFLICT DO NOTHING", uuid)
	if err := touched(n, err, ErrConflict); err != nil {
		return fmt.Errorf("import %s: %w", uuid, err)
	}
	if err := tx.UpdateDevice(ctx, uuid, f); err != nil {
		return err
	}
	return tx.Transition(ctx, Transition{UUID: uuid, To: Discovered, Event: "imported", Actor: actor})
}

// Cursor names this device's place in a list, for DeviceFilter.After.
func (d Device) Cursor(o Order) string {
	switch o {
	case ByLastSeen:
		return fmt.Sprintf("%d,%s", unixMilli(d.LastSeen), d.UUID)
	case ByName:
		return d.FQDN + "," + d.UUID.String()
	}
	return d.UUID.String()
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// A clause collects conditions and their numbered parameters.
type clause struct {
	and  []string
	args []any
}

// add appends a condition in which each ? stands for the next argument.
func (c *clause) add(cond string, args ...any) {
	for _, a := range args {
		c.args = append(c.args, a)
		cond = strings.Replace(cond, "?", fmt.Sprintf("$%d", len(c.args)), 1)
	}
	c.and = append(c.and, cond)
}

func (c *clause) where() string {
	if len(c.and) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.and, " AND ")
}

// like escapes what LIKE would read as a pattern.
func like(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(strings.ToLower(s))
}

// deviceClause turns a filter into conditions. On SQLite they use no index,
// since candidates has already decided along which index to read the list.
func (tx *Tx) deviceClause(f DeviceFilter) (*clause, error) {
	c := &clause{}
	if len(f.Lifecycle) > 0 {
		among(c, tx.noIndex("lifecycle"), f.Lifecycle)
	}
	if f.Reason != "" {
		c.add(tx.noIndex("reason")+" = ?", f.Reason)
	}
	if f.Health != "" {
		c.add("health = ?", f.Health)
	}
	if f.Version != "" {
		c.add(`(amt_version = ? OR amt_version LIKE ? ESCAPE '\')`, f.Version, like(f.Version)+".%")
	}
	if f.From > 0 {
		c.add("amt_major >= ?", f.From)
	}
	if f.To > 0 {
		c.add("amt_major > 0 AND amt_major <= ?", f.To)
	}
	if f.Suffix != "" {
		s := strings.ToLower(strings.Trim(f.Suffix, "."))
		c.add(`(lower(suffix) = ? OR lower(suffix) LIKE ? ESCAPE '\')`, s, "%."+like(s))
	}
	if f.Network.IsValid() {
		inNetwork(c, tx.noIndex("address_key"), f.Network)
	}
	if f.Profile != "" {
		c.add("profile = ?", f.Profile)
	}
	if f.Tag != "" {
		if err := tagged(c, f.Tag); err != nil {
			return nil, err
		}
	}
	if q := strings.TrimSpace(f.Query); q != "" {
		if whole := wholeText(q); whole != nil {
			whole(c, tx.noIndex)
		} else {
			partText(c, q)
		}
	}
	hour := "seen_hour"
	if f.Order != ByLastSeen {
		hour = tx.noIndex(hour)
	}
	if !f.Seen.IsZero() {
		c.add(hour+" >= ? AND last_seen >= ?", hourOf(f.Seen), f.Seen)
	}
	if !f.Silent.IsZero() {
		c.add(hour+" <= ? AND (last_seen IS NULL OR last_seen < ?)", hourOf(f.Silent), f.Silent)
	}
	return c, nil
}

// noIndex prefixes the column with + so that SQLite's planner will not use an index on it.
func (tx *Tx) noIndex(column string) string {
	if tx.pg != nil {
		return column
	}
	return "+" + column
}

func among[T any](c *clause, column string, values []T) {
	marks := make([]string, len(values))
	args := make([]any, len(values))
	for i, v := range values {
		marks[i], args[i] = "?", v
	}
	c.add(column+" IN ("+strings.Join(marks, ", ")+")", args...)
}

func partText(c *clause, q string) {
	p := "%" + like(q) + "%"
	c.add(`(CAST(uuid AS text) LIKE ? ESCAPE '\' OR lower(fqdn) LIKE ? ESCAPE '\' OR lower(host) LIKE ? ESCAPE '\'
		OR address LIKE ? ESCAPE '\' OR lower(mac) LIKE ? ESCAPE '\' OR lower(serial) LIKE ? ESCAPE '\')`, p, p, p, p, p, p)
}

func inNetwork(c *clause, column string, network netip.Prefix) {
	lo, hi := networkRange(network)
	c.add(column+" <> '' AND "+column+" >= ? AND "+column+" <= ?", lo, hi)
}

// wholeText is the condition for a text that is a whole UUID, address or MAC,
// which an index finds; nil for any other text.
func wholeText(q string) func(c *clause, column func(string) string) {
	if u, err := amt.ParseUUID(q); err == nil {
		return func(c *clause, column func(string) string) { c.add(column("uuid")+" = ?", u) }
	}
	if a, err := netip.ParseAddr(q); err == nil {
		a = a.Unmap().WithZone("")
		return func(c *clause, column func(string) string) {
			inNetwork(c, column("address_key"), netip.PrefixFrom(a, a.BitLen()))
		}
	}
	if m, err := net.ParseMAC(q); err == nil && len(m) == 6 {
		colons := m.String()
		forms := []string{colons, strings.ReplaceAll(colons, ":", "-"), strings.ReplaceAll(colons, ":", "")}
		for _, f := range forms[:3] {
			forms = append(forms, strings.ToUpper(f))
		}
		return func(c *clause, column func(string) string) {
			c.add(column("mac") + " <> ''")
			among(c, column("mac"), forms)
		}
	}
	return nil
}

func tagged(c *clause, tag string) error {
	t, err := jsonText(tag)
	if err == nil {
		c.add(`CAST(tags AS text) LIKE ? ESCAPE '\'`, "%"+strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(t)+"%")
	}
	return err
}

func (tx *Tx) epoch() string {
	if tx.pg != nil {
		return "timestamptz 'epoch'"
	}
	return "0"
}

// CountMatching counts the devices a filter selects, for a list's heading.
func (tx *Tx) CountMatching(ctx context.Context, f DeviceFilter) (int, error) {
	c, err := tx.deviceClause(f)
	if err != nil {
		return 0, err
	}
	var n int
	err = tx.one(ctx, "SELECT count(*) FROM devices"+c.where(), c.args, &n)
	return n, err
}

// CountDevices counts devices by lifecycle. The map has every lifecycle, if
// need be with 0.
func (tx *Tx) CountDevices(ctx context.Context) (map[Lifecycle]int, error) {
	out := map[Lifecycle]int{}
	for _, l := range Lifecycles() {
		out[l] = 0
	}
	return out, countBy(ctx, tx, out, "SELECT lifecycle, count(*) FROM devices GROUP BY lifecycle")
}

// A Column is one that CountBy can group devices by.
type Column string

const (
	ColumnLifecycle Column = "lifecycle"
	ColumnReason    Column = "reason"
	ColumnHealth    Column = "health"
	ColumnMajor     Column = "amt_major"
	ColumnVersion   Column = "amt_version"
	ColumnSuffix    Column = "suffix"
	ColumnProfile   Column = "profile"
	ColumnTLS       Column = "tls_version"
	// ColumnCertificate is the id of the provisioning certificate that set a device
	// up.
	ColumnCertificate Column = "certificate"
)

// CountBy counts devices by one column. It leaves out retired devices, under
// ColumnReason those without a reason, and under ColumnCertificate those whose
// set-up did not end.
func (tx *Tx) CountBy(ctx context.Context, col Column) (map[string]int, error) {
	switch col {
	case ColumnLifecycle, ColumnReason, ColumnHealth, ColumnMajor, ColumnVersion, ColumnSuffix, ColumnProfile, ColumnTLS, ColumnCertificate:
	default:
		return nil, fmt.Errorf("count devices: unknown column %q", col)
	}
	which := "lifecycle <> 'retired'"
	if col == ColumnReason {
		which += " AND reason <> ''" // an index holds exactly these rows
	}
	if col == ColumnCertificate {
		which += " AND provisioned_at IS NOT NULL" // the column is set as soon as a device takes the certificate
	}
	out := map[string]int{}
	return out, countBy(ctx, tx, out, "SELECT CAST("+string(col)+" AS text), count(*) FROM devices WHERE "+which+" GROUP BY "+string(col))
}

// networkRange is the first and last address_key of a network.
func networkRange(p netip.Prefix) (lo, hi string) {
	p = p.Masked()
	b := p.Addr().As16()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	last := b
	for i := bits; i < 128; i++ {
		last[i/8] |= 1 << (7 - i%8)
	}
	return fmt.Sprintf("%x", b), fmt.Sprintf("%x", last)
}

func addressKey(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	const hex = "0123456789abcdef"
	b := a.As16()
	var out [32]byte
	for i, x := range b {
		out[2*i], out[2*i+1] = hex[x>>4], hex[x&15]
	}
	return string(out[:])
}

// UpdateDevice writes what a run or a person learnt about a device; nil fields
// stay.
func (tx *Tx) UpdateDevice(ctx context.Context, uuid amt.UUID, f DeviceFacts) error {
	c := &clause{}
	set(c, "device_mode", f.DeviceMode)
	set(c, "health", f.Health)
	if f.Version != nil {
		c.add("amt_version = ?", *f.Version)
		c.add("amt_major = ?", f.Version.Major)
	}
	set(c, "sku", f.SKU)
	set(c, "realm", f.Realm)
	set(c, "host", f.HostName)
	set(c, "domain", f.Domain)
	set(c, "fqdn", f.FQDN)
	set(c, "suffix", f.Suffix)
	set(c, "mac", f.MAC)
	set(c, "serial", f.Serial)
	set(c, "smbios_uuid", f.SMBIOSUUID)
	set(c, "secure_dns", f.SecureDNS)
	if f.Address != nil {
		c.add("address = ?", *f.Address)
		c.add("address_key = ?", addressKey(*f.Address))
	}
	set(c, "address_by", f.AddressBy)
	set(c, "agent_address", f.AgentAddress)
	set(c, "good_address", f.GoodAddress)
	set(c, "claim_due", f.ClaimDue)
	set(c, "trust_table", f.TrustTable)
	set(c, "profile", f.Profile)
	set(c, "profile_version", f.ProfileVersion)
	set(c, "certificate", f.Certificate)
	set(c, "tls_version", f.TLSVersion)
	set(c, "peer_fingerprint", f.PeerFingerprint)
	set(c, "peer_verified", f.PeerVerified)
	set(c, "peer_seen", f.PeerSeen)
	if f.Tags != nil {
		tags := *f.Tags
		if tags == nil {
			tags = []string{}
		}
		t, err := jsonText(tags)
		if err != nil {
			return err
		}
		c.add("tags = ?", t)
	}
	if err := tx.regrant(ctx, uuid, f, c); err != nil {
		return fmt.Errorf("update device %s: %w", uuid, err)
	}
	set(c, "provisioned_at", f.ProvisionedAt)
	set(c, "last_contact", f.LastContact)
	set(c, "window_until", f.WindowUntil)
	set(c, "next_retry", f.NextRetry)
	set(c, "device_cert_not_after", f.DeviceCertNotAfter)
	set(c, "password_changed_at", f.PasswordChanged)
	set(c, "attempts", f.Attempts)
	set(c, "generation", f.Generation)
	set(c, "record", f.Record)
	if len(c.and) == 0 {
		return nil
	}
	c.args = append(c.args, uuid)
	n, err := tx.exec(ctx, "UPDATE devices SET "+strings.Join(c.and, ", ")+fmt.Sprintf(" WHERE uuid = $%d", len(c.args)), c.args...)
	return about(touched(n, err, ErrNotFound), "update device %s", uuid)
}

func set[T string | bool | int | int64 | time.Time | []byte | json.RawMessage | netip.Addr | AddressBy](c *clause, column string, v *T) {
	if v != nil {
		c.add(column+" = ?", *v)
	}
}

// Transition moves a device and writes the event that says why, both or
// neither. t.Data must hold no secret.
func (tx *Tx) Transition(ctx context.Context, t Transition) error {
	n, err := tx.exec(ctx, `UPDATE devices SET lifecycle = CASE WHEN CAST($2 AS text) = '' THEN lifecycle ELSE CAST($2 AS text) END,
		reason = $3, detail = $4, next_retry = $5 WHERE uuid = $1`, t.UUID, t.To, t.Reason, t.Detail, t.NextRetry)
	if err := touched(n, err, ErrNotFound); err != nil {
		return fmt.Errorf("move device %s to %s: %w", t.UUID, t.To, err)
	}
	if t.Event == "" {
		return fmt.Errorf("move device %s to %s: no event names the reason", t.UUID, t.To)
	}
	_, err = tx.AddEvent(ctx, Event{UUID: t.UUID, RunID: t.RunID, Name: t.Event, Reason: t.Reason, Detail: t.Detail, Actor: t.Actor,
		Data: t.evidence()})
	return err
}

// evidence is the event's data: t.Data, and where the device went.
func (t Transition) evidence() map[string]any {
	if t.To == "" {
		return t.Data
	}
	data := make(map[string]any, len(t.Data)+1)
	maps.Copy(data, t.Data)
	data["lifecycle"] = string(t.To)
	return data
}

// data is the evidence in the column's form.
func (t Transition) data() (any, error) {
	e := t.evidence()
	if len(e) == 0 {
		return nil, nil
	}
	text, err := jsonText(e)
	return text, about(err, "event %s", t.Event)
}
