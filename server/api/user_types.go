package api

import "time"

// TokenList is every token, revoked ones too.
type TokenList struct {
	Tokens []Token `json:"tokens"`
}

// NewToken says who a token is for and what it may do.
type NewToken struct {
	Name string `json:"name" pattern:"^[a-z0-9][a-z0-9._-]{0,62}$" patternDescription:"lower-case letters, digits, dots, hyphens and underscores" doc:"appears in the audit, with the user"`
	User string `json:"user,omitempty" maxLength:"63" doc:"whose it is; without, the user of the token's own name, who is made when there is none"`
	Role string `json:"role" enum:"viewer,operator,secret-reader,policy-admin,key-admin,auditor,admin" doc:"one of the user's"`
	Days int    `json:"days,omitempty" minimum:"0" maximum:"3650" doc:"how long it is good for; 0 for ever"`
}

// User is a person or a service. Tokens and console logins are a user's.
type User struct {
	Name       string     `json:"name"`
	Roles      []string   `json:"roles" doc:"what a token of this user may be given"`
	Tokens     int        `json:"tokens" doc:"good ones"`
	Sessions   int        `json:"sessions" doc:"console logins that are good"`
	CreatedBy  string     `json:"created_by"`
	CreatedAt  *time.Time `json:"created_at"`
	DisabledAt *time.Time `json:"disabled_at"`
}

// UserList is every user, disabled ones too.
type UserList struct {
	Users []User `json:"users"`
}

// NewUser says who it is and what its tokens may be given.
type NewUser struct {
	Name  string   `json:"name" pattern:"^[a-z0-9][a-z0-9._-]{0,62}$" patternDescription:"lower-case letters, digits, dots, hyphens and underscores" doc:"appears in the audit"`
	Roles []string `json:"roles" minItems:"1" maxItems:"7" enum:"viewer,operator,secret-reader,policy-admin,key-admin,auditor,admin"`
}

// UserChange changes what is named. Tokens that the user may no longer have
// are revoked, and the console logins made with them end.
type UserChange struct {
	Roles    []string `json:"roles,omitempty" maxItems:"7" enum:"viewer,operator,secret-reader,policy-admin,key-admin,auditor,admin"`
	Disabled *bool    `json:"disabled,omitempty" doc:"true ends all tokens and logins at once; false lets new ones be made"`
}
