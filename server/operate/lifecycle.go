package operate

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/server/api"
	"github.com/provisiond/provisiond/store"
)

// eligibility is the one table of which command is for which device, whoever
// gives it: a person to one device, or a job to many.
//
//   - yes: it can be done.
//   - named: the same, but a query that names no state leaves such devices out, so
//     that nobody lets in what is kept out, or calls what nobody has asked for, by
//     looking for something else.
//   - idle: nothing is left to do, and the answer says so.
//   - Any other word is a refusal; refusals has its sentence, and its code is the
//     word after device_.
const eligibility = `
                     approve  reject       retry         adopt        trust        clear-failures  quarantine  release       restore        retire  maintain     rotate       unprovision  assign-profile  tag  untag  address
discovered           yes      yes          named         yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
pending_approval     yes      yes          not_approved  yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
pending_identity     idle     yes          yes           yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
pending_certificate  idle     yes          yes           yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
queued               idle     not_waiting  yes           yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
provisioning         idle     not_waiting  yes           yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
verifying            idle     not_waiting  yes           yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
provisioned          idle     not_waiting  managed       managed      yes          not_failed      yes         named         not_taken_out  yes     yes          yes          yes          yes             yes  yes  yes
drifted              idle     not_waiting  managed       managed      yes          not_failed      yes         named         not_taken_out  yes     yes          yes          yes          yes             yes  yes  yes
maintaining          idle     not_waiting  managed       managed      yes          not_failed      yes         named         not_taken_out  yes     yes          yes          yes          yes             yes  yes  yes
failed               idle     not_waiting  yes           yes          yes          yes             yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
dormant              yes      yes          yes           yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
quarantined          named    idle         quarantined   quarantined  quarantined  not_failed      idle        yes           yes            yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
external             idle     not_waiting  yes           yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
credentials_unknown  idle     not_waiting  yes           yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
unprovisioning       idle     not_waiting  leaving       leaving      yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  yes          yes             yes  yes  yes
unprovisioned        yes      not_waiting  left          yes          yes          not_failed      yes         not_kept_out  not_taken_out  yes     not_managed  not_managed  not_managed  yes             yes  yes  yes
retired              retired  retired      retired       retired      retired      retired         retired     retired       yes            idle    retired      retired      retired      retired         yes  yes  yes
`

// refusals are the words of the table: what stands in the way and the next move.
// A %[1]s is the device's UUID, a %[2]s where it stands, a %[3]s the command.
var refusals = map[string]string{
	"retired":       "it is retired; take it back first: provctl device restore %[1]s",
	"quarantined":   "it is kept out; let it go on first: provctl device release %[1]s",
	"not_approved":  "it waits for approval: provctl device approve %[1]s",
	"managed":       "it is under management already; %[3]s is for one that is not. To have it looked at now: provctl maintain %[1]s --task check",
	"not_managed":   "it is %[2]s, not under management; why: provctl device why %[1]s",
	"leaving":       "it is going back to factory settings; to tell it so once more: provctl unprovision %[1]s --mode full, and if the machine is gone for good: provctl device retire %[1]s",
	"left":          "it is back at factory settings, and a person decides whether it is set up again: provctl device approve %[1]s",
	"not_waiting":   "it is %[2]s, and does not wait to be let in; to keep it out: provctl device quarantine %[1]s",
	"not_failed":    "it is %[2]s; only of a device that failed are failures forgotten",
	"not_kept_out":  "it is %[2]s; only a quarantined device is released, or one under management that looks like another machine",
	"not_taken_out": "it is %[2]s; only a retired or quarantined device is restored",
}

// tableVerbs are the commands of the table, cells what it says of each.
var tableVerbs, cells = readEligibility(eligibility)

func readEligibility(text string) ([]string, map[string]map[store.Lifecycle]string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	verbs, cells := strings.Fields(lines[0]), map[string]map[store.Lifecycle]string{}
	for _, v := range verbs {
		cells[v] = map[store.Lifecycle]string{}
	}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		for i, word := range f[1:] {
			cells[verbs[i]][store.Lifecycle(f[0])] = word
		}
	}
	return verbs, cells
}

// Eligible are the lifecycles that a query finds devices of for a command when it
// names none.
func Eligible(verb string) []store.Lifecycle { return lifecyclesOf(verb, "yes") }

// eligibleWhenNamed are the lifecycles of devices that a command does something to.
func eligibleWhenNamed(verb string) []store.Lifecycle { return lifecyclesOf(verb, "yes", "named") }

func lifecyclesOf(verb string, words ...string) (list []store.Lifecycle) {
	for _, l := range store.Lifecycles() {
		if slices.Contains(words, cells[verb][l]) {
			list = append(list, l)
		}
	}
	return list
}

// Refusal says why a command is not for a device as it stands, nil when it is.
func Refusal(verb string, d store.Device) *Refused {
	word := cells[verb][d.Lifecycle]
	if word == "quarantined" && d.Reason == reason.Rejected {
		return Refuse("device_quarantined", "it was turned away: provctl device approve %s lets it in after all", d.UUID)
	}
	if said, is := refusals[word]; is {
		return Refuse("device_"+word, said, d.UUID, d.Lifecycle, verb)
	}
	switch {
	case d.Reason == reason.UUIDInvalid && (verb == "approve" || verb == "release"):
		return Refuse(string(reason.UUIDInvalid), "its UUID %s is a placeholder that many machines carry, so it would let in whoever comes first; give the machine a UUID of its own", d.UUID)
	case d.Reason == reason.UUIDDuplicate && verb == "approve" && d.AddressBy != store.ByOperator:
		return Refuse(string(reason.UUIDDuplicate), "two machines carry this UUID; say which one it is: provctl device address %[1]s ADDRESS, and approve it then; or give the other a UUID of its own, then: provctl device release %[1]s", d.UUID)
	case d.Lifecycle == store.Quarantined && verb == "reject" && d.Reason != reason.Rejected:
		return Refuse("device_quarantined", "it is kept out already; take it out for good: provctl device retire %s", d.UUID)
	case d.Lifecycle.Managed() && verb == "release" && !anotherFace(d.Reason):
		return Refuse("device_not_kept_out", refusals["not_kept_out"], d.UUID, d.Lifecycle)
	case d.Lifecycle == store.Discovered && verb == "retry" && !d.Address.IsValid(), verb == "adopt" && !d.Address.IsValid():
		return Refuse(api.CodeNoAddress, "where it is is not known: give its address with provctl device address or import, or wait for its hello")
	case d.Lifecycle == store.Discovered && verb == "retry" && !d.Approved && !onlyListed(d) && !takenOut(d):
		return Refuse("device_not_approved", "its next hello is looked at as if it were the first; to let it in now: provctl device approve %s", d.UUID)
	}
	return nil
}

// Offered reports whether a command does something to a device as it is shown.
func Offered(verb string, d api.Device) bool {
	word := cells[verb][store.Lifecycle(d.Lifecycle)]
	of := store.Device{Lifecycle: store.Lifecycle(d.Lifecycle), Reason: reason.Code(d.Reason), Approved: d.Approved,
		HelloCount: d.HelloCount, DeviceMode: d.DeviceMode}
	of.Address, _ = netip.ParseAddr(d.Address)
	if d.LastContact != nil {
		of.LastContact, of.Generation = *d.LastContact, 1 // with a password, or none was made
	}
	if d.LastSeen != nil {
		of.LastSeen = *d.LastSeen
	}
	return (word == "yes" || word == "named") && Refusal(verb, of) == nil
}

// standing says what a lifecycle means to somebody who asks why.
var standing = map[store.Lifecycle]string{
	store.Discovered:         "said hello and has not been looked at yet",
	store.PendingApproval:    "waits for somebody to approve it",
	store.PendingIdentity:    "waits for a name or a profile",
	store.PendingCertificate: "waits for a provisioning certificate that it trusts",
	store.Queued:             "waits for a free worker",
	store.Provisioning:       "is being set up right now",
	store.Verifying:          "has been set up and is being checked",
	store.Provisioned:        "is under management",
	store.Drifted:            "is under management but differs from its profile",
	store.Maintaining:        "is under management and is being worked on",
	store.Failed:             "is not under management: the last attempt failed",
	store.Dormant:            "is not under management and has fallen silent",
	store.Quarantined:        "is kept out",
	store.External:           "was set up by somebody else",
	store.CredentialsUnknown: "takes none of the passwords known here",
	store.Unprovisioning:     "is going back to factory settings",
	store.Unprovisioned:      "is back at factory settings",
	store.Retired:            "is retired: it is kept for the records only",
}

// takenOut reports whether the device was under management when it was last
// met, with a password of ours, and has said no hello since from where it is: it
// will say none now either.
func takenOut(d store.Device) bool {
	silent := !d.LastSeen.After(d.LastContact) || d.HeardFrom.IsValid() && d.HeardFrom != d.Address
	return d.DeviceMode == amt.StatePost.String() && d.Generation > 0 && silent
}

// anotherFace are the reasons of a managed device that looked like another
// machine at its last contact, so that it was told nothing.
func anotherFace(code reason.Code) bool {
	switch code {
	case reason.TLSPinnedKeyChanged, reason.IdentityConflict, reason.UUIDDuplicate, reason.RealmChanged:
		return true
	}
	return false
}

// mayBeManaged reports whether a device waits for a person because somebody said
// hello in its name, and holds a password of ours unless it lost its setup.
func mayBeManaged(d store.Device) bool {
	return d.Generation > 0 && (d.Lifecycle == store.PendingApproval && d.Reason == reason.ReappearedUnprovisioned ||
		d.Lifecycle == store.Quarantined && d.Reason == reason.UUIDDuplicate)
}

// onlyListed reports whether all that is known of a device is what an import
// said.
func onlyListed(d store.Device) bool {
	return d.Lifecycle == store.Discovered && d.HelloCount == 0 && d.LastContact.IsZero()
}

// lostSetup reports whether a managed device was found without its setup.
func lostSetup(d store.Device) bool {
	return d.Lifecycle.Managed() && d.Reason == reason.ReappearedUnprovisioned
}

// listens reports whether a setup window means anything to the device: it waits
// for its setup.
func listens(d store.Device) bool {
	switch d.Lifecycle {
	case store.Retired, store.Unprovisioning, store.External, store.CredentialsUnknown:
		return false
	case store.Unprovisioned: // at factory settings it is silent until somebody begins its setup there
		return d.Reason != "" || d.DeviceMode == amt.StateIn.String()
	}
	return !d.Lifecycle.Managed() && !((d.Lifecycle == store.Discovered || d.Lifecycle == store.Quarantined) && takenOut(d))
}

// suffixMatters reports whether a device is where it is for its suffix's sake or
// its roots'.
func suffixMatters(d store.Device) bool {
	switch d.Reason {
	case reason.TLSClientCertRefused, reason.TLSSuffixRejected, reason.NoCertForSuffix, reason.RootNotTrusted,
		reason.DHCPOption15Missing, reason.DHCPOption15Mismatch:
		return true
	}
	return false
}
