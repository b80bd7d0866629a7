package session

import (
	"context"
	"crypto/md5"
	"encoding/base64"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

const authorization = "AMT_AuthorizationService"

// SetMEBxPassword sets the password of the machine's own setup screen. It
// travels in clear inside TLS. amt.StatusNotPermitted means that MEBx's policy
// forbids it, mostly because somebody changed it by hand before.
func (s *Session) SetMEBxPassword(ctx context.Context, pw amt.Secret) error {
	_, err := s.client.Invoke(ctx, setupService, "SetMEBxPassword", wsman.Arg{Name: "Password", Value: pw.Reveal(), Secret: true})
	return recode(reason.MEBxPasswordRejected, err)
}

// SetAdminPassword makes user the administrator over the network. Only a digest
// of the password travels, with the realm that the device itself named. From
// then on this session answers a challenge with the new password first: the
// device forgets all logins when its list of users changes.
func (s *Session) SetAdminPassword(ctx context.Context, user, realm string, pw amt.Secret) error {
	_, err := s.client.Invoke(ctx, authorization, "SetAdminAclEntryEx",
		wsman.Arg{Name: "Username", Value: user},
		wsman.Arg{Name: "DigestPassword", Value: digestPassword(user, realm, pw), Secret: true})
	if err != nil {
		return recode(reason.AdminPasswordRejected, err)
	}
	s.client.Adopt(Login{Name: "candidate", User: user, Password: pw})
	return nil
}

// digestPassword is base64 of the 16 raw bytes of MD5(user:realm:password), not
// of their hexadecimal form (amt/protocol.md 6.6).
func digestPassword(user, realm string, pw amt.Secret) string {
	sum := md5.Sum([]byte(user + ":" + realm + ":" + pw.Reveal()))
	return base64.StdEncoding.EncodeToString(sum[:])
}
