package api

import "time"

// SecretList is what is known of a device's passwords, without the passwords.
type SecretList struct {
	Secrets []SecretInfo `json:"secrets"`
}

// SecretInfo is one password without its value.
type SecretInfo struct {
	Generation  int        `json:"generation"`
	Kind        string     `json:"kind"`
	State       string     `json:"state" doc:"candidate: made here; active: the device answered to it; retired: kept"`
	CreatedAt   *time.Time `json:"created_at"`
	SentAt      *time.Time `json:"sent_at" doc:"when it was first about to leave for the device"`
	SentTo      string     `json:"sent_to"`
	ActivatedAt *time.Time `json:"activated_at"`
	RetiredAt   *time.Time `json:"retired_at"`
	RunID       int64      `json:"run_id"`
}

// KeyList says what is sealed under which data key.
type KeyList struct {
	Keys []KeyInfo `json:"keys"`
	// Left is how many secrets still lie under older keys.
	Left int `json:"left"`
}

// KeyInfo is one data key.
type KeyInfo struct {
	ID      uint32 `json:"id"`
	Current bool   `json:"current"`
	Secrets int    `json:"secrets"`
}

// MasterBody is a domain's digest master password.
type MasterBody struct {
	Domain   string `json:"domain" maxLength:"255" doc:"DNS domain of the devices; * is for all"`
	Password string `json:"password" minLength:"8" maxLength:"256"`
}

// MasterSet says that it is kept.
type MasterSet struct {
	Domain string `json:"domain"`
}
