package api

import (
	"net/netip"
	"time"
)

// Profile is one version of what is wanted of a device.
type Profile struct {
	Name            string   `json:"name" yaml:"name"`
	Version         int      `json:"version" yaml:"version"`
	TLS             string   `json:"tls" yaml:"tls"`
	TrustedCN       []string `json:"trusted_cn,omitempty" yaml:"trusted_cn"`
	Unprotected     bool     `json:"unprotected,omitempty" yaml:"unprotected,omitempty"`
	AdminUser       string   `json:"admin_user" yaml:"admin_user"`
	MEBx            string   `json:"mebx" yaml:"mebx"`
	HostName        string   `json:"host_name" yaml:"host_name"`
	Domain          string   `json:"domain" yaml:"domain"`
	ExtendHours     int      `json:"extend_hours" yaml:"extend_hours"`
	CertificateDays int      `json:"certificate_days" yaml:"certificate_days"`
	PasswordDays    int      `json:"password_days" yaml:"password_days"`
	Passwords       string   `json:"passwords,omitempty" yaml:"passwords"`

	// What is wanted beyond ownership stands as the document has it.
	Network     any      `json:"network,omitempty" yaml:"network,omitempty"`
	Time        any      `json:"time,omitempty" yaml:"time,omitempty"`
	Redirection any      `json:"redirection,omitempty" yaml:"redirection,omitempty"`
	Consent     any      `json:"consent,omitempty" yaml:"consent,omitempty"`
	Power       any      `json:"power,omitempty" yaml:"power,omitempty"`
	Users       any      `json:"users,omitempty" yaml:"users,omitempty"`
	Required    []string `json:"required,omitempty" yaml:"required,omitempty"`
	Drift       string   `json:"drift,omitempty" yaml:"drift,omitempty"`
}

// ProfileChange is one key that two versions differ in, and what each says, as text.
type ProfileChange struct {
	Field string `json:"field"`
	From  string `json:"from"`
	To    string `json:"to"`
}

// ProfileRisk is something that a change of a profile could lose.
type ProfileRisk struct {
	Field string `json:"field" doc:"the key of the document"`
	Could string `json:"could" doc:"what could be lost, and what keeps it from that"`
}

// Rule gives the devices it fits a profile, a way to find their names and a
// domain. Rules stand in an order; the first that fits decides.
type Rule struct {
	Name     string     `json:"name" yaml:"name"`
	Disabled bool       `json:"disabled,omitempty" yaml:"disabled"`
	Match    RuleMatch  `json:"match" yaml:"match"`
	Assign   RuleAssign `json:"assign" yaml:"assign"`
}

// RuleMatch are a rule's conditions. All must hold; an empty one always does.
type RuleMatch struct {
	Networks []netip.Prefix `json:"networks,omitempty" yaml:"networks" doc:"any of: the network the hello came from"`
	Suffixes []string       `json:"suffixes,omitempty" yaml:"suffixes" doc:"any of: the device's DNS suffix or a parent of it"`
	AMT      string         `json:"amt,omitempty" yaml:"amt" doc:"AMT versions, such as 11 or 11.8 or >=12 <16.1"`
	Roots    []string       `json:"roots,omitempty" yaml:"roots" doc:"any of: a root the device announced, as its hash or a part of its name"`
	Tags     []string       `json:"tags,omitempty" yaml:"tags" doc:"all of"`
}

// RuleAssign is what a rule gives; empty fields leave the default.
type RuleAssign struct {
	Profile string   `json:"profile,omitempty" yaml:"profile"`
	Names   []string `json:"names,omitempty" yaml:"names" doc:"name sources in the order they are asked: assigned, reverse_dns, webhook, pattern"`
	Domain  string   `json:"domain,omitempty" yaml:"domain" doc:"the domain of names made by a pattern"`
	Pattern string   `json:"pattern,omitempty" yaml:"pattern" doc:"the host name pattern, instead of the profile's"`
}

// RuleTried says what became of one rule.
type RuleTried struct {
	Name string `json:"name"`
	Fits bool   `json:"fits"`
	Why  string `json:"why"`
}

// ProfileView is one version of a profile.
type ProfileView struct {
	Name      string     `json:"name"`
	Version   int        `json:"version" doc:"0: the configuration's, not stored"`
	Profile   Profile    `json:"profile"`
	CreatedBy string     `json:"created_by"`
	CreatedAt *time.Time `json:"created_at"`

	Changes []ProfileChange `json:"changes,omitempty" doc:"what it says otherwise than the version before: in a history, and in the answer to a new version; or otherwise than the version of against"`
	Devices int             `json:"devices,omitempty" doc:"in the answer to a new version: devices under management with this profile, which differ from it now and are brought to it by a rollout, a job that goes in waves"`
	Waves   []Wave          `json:"waves,omitempty" doc:"in the answer to a new version: how those devices go. The first device that is lost stops the rest"`
	Started int             `json:"started,omitempty" doc:"in the answer to a new version: runs that began at once, of devices that waited for the profile; in a dry run: that would begin"`
	Risks   []ProfileRisk   `json:"risks,omitempty" doc:"in the answer to a new version: what could be lost by it, and what keeps it from that"`
}

// ProfileList is the newest version of each profile.
type ProfileList struct {
	Profiles []ProfileView `json:"profiles"`
}

// ProfileQuery names a profile and, perhaps, a version.
type ProfileQuery struct {
	Name    string `path:"name" maxLength:"64"`
	Version int    `query:"version" minimum:"0" doc:"0 is the newest"`
	Against int    `query:"against" minimum:"0" doc:"say in changes what it says otherwise than this version"`
}

// NewProfile is what is wanted; what it does not say stays as in the built-in default.
type NewProfile struct {
	Document map[string]any `json:"document,omitempty"`
	Version  int            `json:"version,omitempty" minimum:"1" doc:"instead of a document: the older version to go back to, which becomes the newest"`
	DryRun   bool           `json:"dry_run,omitempty" doc:"check it, say what changes and for how many devices, and keep nothing"`
}

// ProfileHistoryQuery asks for a page of a profile's versions.
type ProfileHistoryQuery struct {
	Name   string `path:"name" maxLength:"64"`
	Before int    `query:"before" minimum:"0" doc:"only older versions than this"`
	Limit  int    `query:"limit" minimum:"0" maximum:"200" doc:"0 means 50"`
}

// ProfileHistory is a page of versions, newest first, each with what it changed.
type ProfileHistory struct {
	Versions []ProfileView `json:"versions"`
	Next     int           `json:"next" doc:"give it as before; 0 on the last page"`
}

// RuleList is the assignment rules in the order they are tried.
type RuleList struct {
	Rules []Rule `json:"rules"`
}

// RuleSet is the whole ordered list.
type RuleSet struct {
	Rules  []map[string]any `json:"rules" maxItems:"1000" doc:"name, disabled, match {networks, suffixes, amt, roots, tags}, assign {profile, names, domain, pattern}"`
	DryRun bool             `json:"dry_run,omitempty"`
}

// RulesReport says what a new list changes.
type RulesReport struct {
	DryRun  bool     `json:"dry_run"`
	Added   []string `json:"added"`
	Changed []string `json:"changed"`
	Removed []string `json:"removed"`
	Same    int      `json:"same"`
	Started int      `json:"started" doc:"runs that began at once, of devices that waited for what was changed; in a dry run: that would begin"`

	Moves []ProfileMove `json:"moves,omitempty" doc:"devices under management that these rules give another profile than they have, which a rollout brings them to"`
}

// ProfileMove is what becomes of managed devices that are given another profile.
type ProfileMove struct {
	From    string        `json:"from"`
	To      string        `json:"to"`
	Devices int           `json:"devices"`
	Waves   []Wave        `json:"waves" doc:"how they go. The first device that is lost stops the rest"`
	Risks   []ProfileRisk `json:"risks,omitempty" doc:"what could be lost by it, and what keeps it from that"`
}

// RuleVerdict says what the rules make of one device.
type RuleVerdict struct {
	UUID     string      `json:"uuid"`
	Rule     string      `json:"rule" doc:"the one that decides; empty: none fits"`
	Profile  string      `json:"profile"`
	Assigned bool        `json:"assigned" doc:"a person gave it this profile, whatever list and rules say"`
	Names    []string    `json:"names" doc:"name sources in the order they are asked"`
	Domain   string      `json:"domain"`
	FQDN     string      `json:"fqdn" doc:"the name assigned; empty leaves it to the sources"`
	By       string      `json:"by" doc:"the entry of the list of authorised devices that goes before the rules; empty: none"`
	Tried    []RuleTried `json:"tried" doc:"each rule asked, and why it did or did not fit"`
}
