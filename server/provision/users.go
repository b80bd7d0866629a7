package provision

import (
	"context"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
	"github.com/provisiond/provisiond/server/profile"
	"github.com/provisiond/provisiond/store"
)

// users are the accounts beside the administrator. A digest user's password is made
// here, of this device only, and durable before the device hears it; it counts once
// the device has let that user in. What an attempt that was cut off left behind is
// found by trying the passwords that may have arrived.
var users = setting{
	name:  "users",
	wants: func(s *profile.Sections) bool { return s.Users != nil },
	differs: func(ctx context.Context, r *Run) ([]string, error) {
		todo, err := r.usersToDo(ctx)
		words := make([]string, len(todo))
		for i, t := range todo {
			words[i] = t.says
		}
		return words, err
	},
	write: func(ctx context.Context, r *Run) error {
		for range 2 { // one that is to be disabled is added first
			todo, err := r.usersToDo(ctx)
			if err != nil {
				return err
			}
			for _, t := range todo {
				if err := t.do(ctx, r); err != nil {
					return err
				}
			}
		}
		return nil
	},
}

// userTask is one difference of the list of users, and what ends it.
type userTask struct {
	says string
	do   func(context.Context, *Run) error
}

// usersToDo reads the list of users and says how it differs from the profile.
func (r *Run) usersToDo(ctx context.Context) (todo []userTask, err error) {
	have, err := r.Device.Users(ctx)
	if err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	one := func(name string, want session.User, enabled *bool, is func(session.User) bool) error {
		i := slices.IndexFunc(have, is)
		if i < 0 {
			todo = append(todo, userTask{name + " is missing", func(ctx context.Context, r *Run) error { return r.putUser(ctx, want) }})
			return nil
		}
		u := have[i]
		wanted[u.Handle] = true
		want.Handle = u.Handle
		if enabled != nil && *enabled != u.Enabled {
			todo = append(todo, userTask{fmt.Sprintf("%s is enabled: %t", name, u.Enabled),
				func(ctx context.Context, r *Run) error { return r.Device.EnableUser(ctx, u.Handle, *enabled) }})
		}
		put := userTask{do: func(ctx context.Context, r *Run) error { return r.putUser(ctx, want) }}
		switch {
		case u.Access != want.Access:
			put.says = fmt.Sprintf("%s has access %d, not %d", name, u.Access, want.Access)
		case !slices.Equal(u.Realms, want.Realms):
			put.says = fmt.Sprintf("%s has realms %v, not %v", name, u.Realms, want.Realms)
		case want.Name != "" && u.Enabled && want.Access > 0:
			known, err := r.userKnown(ctx, want.Name)
			if err != nil {
				return err
			}
			if !known {
				put.says = "no password of " + name + " is known"
			}
		}
		if put.says != "" {
			todo = append(todo, put)
		}
		return nil
	}
	for _, d := range r.Profile.Users.Digest {
		want := session.User{Name: d.Name, Access: profile.Accesses[d.Access], Realms: realmNumbers(d.Realms)}
		if err := one(d.Name, want, d.Enabled, func(u session.User) bool { return u.Name == d.Name }); err != nil {
			return nil, err
		}
	}
	for _, k := range r.Profile.Users.Kerberos {
		sid, _ := profile.SIDBytes(k.SID)
		want := session.User{SID: sid, Access: profile.Accesses[k.Access], Realms: realmNumbers(k.Realms)}
		if err := one(first(k.Account, k.SID), want, nil,
			func(u session.User) bool { return string(u.SID) == string(sid) && len(sid) > 0 }); err != nil {
			return nil, err
		}
	}
	for _, u := range have {
		if name := first(u.Name, fmt.Sprintf("the user with SID %x", u.SID)); r.Profile.Users.Exclusive && !wanted[u.Handle] {
			todo = append(todo, userTask{name + " is not of the profile",
				func(ctx context.Context, r *Run) error { return r.Device.RemoveUser(ctx, u.Handle) }})
		}
	}
	return todo, nil
}

func realmNumbers(words []string) []int {
	var list []int
	for _, w := range words {
		list = append(list, profile.Realms[w])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// putUser adds or changes a user. A digest user gets a new password with that.
func (r *Run) putUser(ctx context.Context, u session.User) error {
	var pw store.UserPassword
	if u.Name != "" {
		secret, err := amt.NewAdminPassword(r.e.Rand)
		if err != nil {
			return reason.Because(reason.InternalError, "make a password: %w", err)
		}
		t0 := r.e.Clock.Now()
		if pw, err = r.e.Store.StageUser(ctx, r.lease.Lease, u.Name, secret); err != nil {
			return storeError("store a user's password before the device hears it", err)
		}
		r.lease.extend(t0.Add(r.e.Lease))
		r.Job.Users = append([]store.UserPassword{pw}, r.Job.Users...)
	}
	if err := r.Device.PutUser(ctx, u, r.Identity.Realm, pw.Password); err != nil {
		return err
	}
	if u.Name == "" || u.Access == 0 {
		return nil // nobody comes in that way over the network
	}
	in, err := r.userLetIn(ctx, pw)
	if err == nil && !in {
		return reason.Because(reason.WSMANFault, "the device took the user %s and does not let it in: %w", u.Name,
			amt.StatusInvalidPassword)
	}
	return err
}

// userKnown reports whether a password of a user is known to be right. Where none is,
// those that may have arrived are tried, the newest first.
func (r *Run) userKnown(ctx context.Context, name string) (bool, error) {
	tries := 0
	for _, c := range r.Job.Users {
		if c.Name != name {
			continue
		}
		if c.State == store.CredentialActive {
			return true, nil
		}
		if tries++; c.State != store.CredentialCandidate || tries > mostTries {
			continue
		}
		if in, err := r.userLetIn(ctx, c); in || err != nil {
			return in, err
		}
	}
	return false, nil
}

// mostTries is how many passwords of a user are tried in one attempt: firmware counts
// wrong ones.
const mostTries = 2

// userLetIn logs a user in on a connection of its own, and notes the password as the
// right one. The device may refuse the question that follows: that is a login too.
func (r *Run) userLetIn(ctx context.Context, c store.UserPassword) (bool, error) {
	d, err := r.meetAgain(ctx)
	r.lease.guard(r.Device)
	if err != nil {
		return false, err
	}
	defer func() { _ = d.Close() }()
	d.SetDeadline(r.deadline())
	if err := r.greetUser(d, c); err != nil {
		return false, err
	}
	_, err = d.State(ctx)
	switch {
	case codeOf(err) == reason.AuthFailed:
		return false, nil
	case err != nil && !session.Refused(err):
		return false, err
	}
	for i := range r.Job.Users {
		if u := &r.Job.Users[i]; u.Name == c.Name && u.State == store.CredentialActive {
			u.State = store.CredentialRetired
		} else if u.ID == c.ID {
			u.State = store.CredentialActive
		}
	}
	r.usersIn = append(slices.DeleteFunc(r.usersIn, func(id int64) bool { return id == c.ID }), c.ID)
	r.log.Info("user.let_in", zap.String("user", c.Name), zap.Int("generation", c.Generation))
	return true, nil
}
