package session

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

// A User is one entry of a device's list of users, beside its administrator, whom no
// list shows.
type User struct {
	Handle  string
	Name    string // of a digest user; "" of a Kerberos one
	SID     []byte // of a Kerberos user or group
	Access  int    // 0 through the machine's own operating system, 1 over the network, 2 both
	Realms  []int  // sorted
	Enabled bool
}

// mostEntries bounds what a device may claim of its list: tools offer 7 digest and 32
// Kerberos entries.
const mostEntries = 64

// noSuchIndex is PT_STATUS_INVALID_INDEX.
const noSuchIndex amt.Status = 35

// Users reads the list. Accounts of the firmware's own ($$…) and entries that it does
// not show are left out.
func (s *Session) Users(ctx context.Context) (users []User, err error) {
	var handles []string
	for start, total := 1, 1; start <= min(total, mostEntries); {
		out, err := s.client.Invoke(ctx, authorization, "EnumerateUserAclEntries",
			wsman.Arg{Name: "StartIndex", Value: strconv.Itoa(start)})
		if status := amt.Status(0); errors.As(err, &status) && status == noSuchIndex {
			break // an empty list has no first entry
		}
		if err != nil {
			return nil, err
		}
		total, _ = strconv.Atoi(out.Child("TotalCount").Text())
		before := len(handles)
		for h := range out.All("Handles") {
			handles = append(handles, clipText(h.Text()))
		}
		if len(handles) == before {
			break
		}
		start += len(handles) - before
	}
	for _, h := range handles[:min(len(handles), mostEntries)] {
		u, err := s.user(ctx, h)
		switch {
		case err == nil && !strings.HasPrefix(u.Name, "$$"):
			users = append(users, u)
		case err != nil && (!refused(err) || passes(err) && !absent(err)):
			return nil, err
		}
	}
	return users, nil
}

func (s *Session) user(ctx context.Context, handle string) (User, error) {
	n, err := s.client.Invoke(ctx, authorization, "GetUserAclEntryEx", wsman.Arg{Name: "Handle", Value: handle})
	if err != nil {
		return User{}, err
	}
	u := User{Handle: handle, Name: clipText(n.Child("DigestUsername").Text()), Enabled: true}
	if sid := n.Child("KerberosUserSid").Text(); sid != "" {
		u.SID, _ = base64.StdEncoding.DecodeString(sid)
	}
	u.Access, _ = strconv.Atoi(n.Child("AccessPermission").Text())
	for r := range n.All("Realms") {
		if v, err := strconv.Atoi(r.Text()); err == nil {
			u.Realms = append(u.Realms, v)
		}
	}
	slices.Sort(u.Realms)
	state, err := s.client.Invoke(ctx, authorization, "GetAclEnabledState", wsman.Arg{Name: "Handle", Value: handle})
	if err != nil {
		if refused(err) {
			return u, nil // older firmware has no such state
		}
		return u, err
	}
	if on := state.Child("Enabled").Bool(); on != nil {
		u.Enabled = *on
	}
	return u, nil
}

// PutUser adds a user, or changes the one with this handle. pw is a digest user's
// password, of which a digest travels, made with the device's own realm; firmware
// does not say whether a change without one keeps the old one (UNSURE), so there is
// always one.
func (s *Session) PutUser(ctx context.Context, u User, realm string, pw amt.Secret) error {
	method := "AddUserAclEntryEx"
	var args []wsman.Arg
	if u.Handle != "" {
		method, args = "UpdateUserAclEntryEx", []wsman.Arg{{Name: "Handle", Value: u.Handle}}
	}
	if u.Name != "" {
		args = append(args, wsman.Arg{Name: "DigestUsername", Value: u.Name},
			wsman.Arg{Name: "DigestPassword", Value: digestPassword(u.Name, realm, pw), Secret: true})
	} else {
		args = append(args, wsman.Arg{Name: "KerberosUserSid", Value: base64.StdEncoding.EncodeToString(u.SID)})
	}
	args = append(args, wsman.Arg{Name: "AccessPermission", Value: strconv.Itoa(u.Access)})
	for _, r := range u.Realms {
		args = append(args, wsman.Arg{Name: "Realms", Value: strconv.Itoa(r)})
	}
	_, err := s.client.Invoke(ctx, authorization, method, args...)
	return recode(reason.ACLApplyFailed, err)
}

// RemoveUser takes a user off the list.
func (s *Session) RemoveUser(ctx context.Context, handle string) error {
	_, err := s.client.Invoke(ctx, authorization, "RemoveUserAclEntry", wsman.Arg{Name: "Handle", Value: handle})
	return recode(reason.ACLApplyFailed, err)
}

// EnableUser lets a user log in, or not.
func (s *Session) EnableUser(ctx context.Context, handle string, on bool) error {
	_, err := s.client.Invoke(ctx, authorization, "SetAclEnabledState", wsman.Arg{Name: "Handle", Value: handle},
		wsman.Arg{Name: "Enabled", Value: strconv.FormatBool(on)})
	return recode(reason.ACLApplyFailed, err)
}
