package api

// Action is the body of a command; it may be left out.
type Action struct {
	Note    string `json:"note,omitempty" maxLength:"500" doc:"why, for the timeline and the audit"`
	Address string `json:"address,omitempty" maxLength:"64" doc:"approve: where the device was seen that is to be let in; refused when its UUID says hello from elsewhere by now"`
}

// Change is what the commands tag, untag and assign-profile take.
type Change struct {
	Tags    []string `json:"tags,omitempty" maxItems:"50" doc:"tag, untag: which ones"`
	Profile string   `json:"profile,omitempty" maxLength:"64" doc:"assign-profile: its name; - lets list and rules decide again"`
}

// ChangeBody says what to change and why.
type ChangeBody struct {
	Change
	Note string `json:"note,omitempty" maxLength:"500" doc:"why, for the timeline and the audit"`
}

// NewAddress is where a device is called from now on.
type NewAddress struct {
	Address string `json:"address" maxLength:"64" doc:"such as 10.20.3.7"`
	Note    string `json:"note,omitempty" maxLength:"500" doc:"why, for the timeline and the audit"`
}

// NewName is a device's name; empty takes the assigned one away.
type NewName struct {
	FQDN string `json:"fqdn" maxLength:"255"`
	Note string `json:"note,omitempty" maxLength:"500"`
}

// Adoption is a password known from elsewhere.
type Adoption struct {
	Password string `json:"password" minLength:"1" maxLength:"32" doc:"of the profile's admin user; kept sealed, and tried once"`
	Vouch
	Note string `json:"note,omitempty" maxLength:"500"`
}

// Named says what a device is called now.
type Named struct {
	UUID    string `json:"uuid"`
	FQDN    string `json:"fqdn"`
	Started int    `json:"started" doc:"runs that began at once"`
}

// UnprovisionBody says how much, and is confirmed with the UUID.
type UnprovisionBody struct {
	Mode    string `json:"mode" enum:"full,partial,decommission" doc:"partial keeps users and names, and the device says hello again; decommission is full, and the device is retired once it shows that it is gone"`
	Confirm string `json:"confirm" maxLength:"64" doc:"the device's UUID or name once more"`
	Note    string `json:"note,omitempty" maxLength:"500"`
}

// MaintainBody says what to look at.
type MaintainBody struct {
	Task string `json:"task,omitempty" maxLength:"64" doc:"clock, name, cert, tls, password, settings, divided by commas; check looks and changes nothing; empty is what is due"`
	Note string `json:"note,omitempty" maxLength:"500"`
}

// RevealBody says which one and why.
type RevealBody struct {
	Kind   string `json:"kind" pattern:"^(admin|mebx|user:[!-~]{1,16})$" patternDescription:"admin, mebx or user:NAME"`
	Reason string `json:"reason" minLength:"3" maxLength:"500" doc:"kept in the audit for ever"`
}

// Vouch is a person's word for the certificate that a device shows. Without it a
// password that a device may hold is answered to its known key alone.
type Vouch struct {
	Fingerprint string `json:"fingerprint,omitempty" maxLength:"128" doc:"SHA-256 of the certificate that the device shows, in hexadecimal digits: passwords are answered to whoever shows it"`
	TrustFirst  bool   `json:"trust_first,omitempty" doc:"instead: to whoever answers first, as ssh does with a new host; the audit keeps it"`
}

// Retry may carry a word for the device's certificate.
type Retry struct {
	Vouch
	Note string `json:"note,omitempty" maxLength:"500" doc:"why, for the timeline and the audit"`
}
