package api

import "slices"

// Role is what a token may do. Roles do not contain each other, but for admin,
// who may do everything.
type Role string

const (
	Viewer       Role = "viewer"        // sees everything but passwords and the audit
	Operator     Role = "operator"      // also approves, retries, retires
	SecretReader Role = "secret-reader" // also reads one password at a time, with a reason
	PolicyAdmin  Role = "policy-admin"  // also changes what is wanted; reads no password
	KeyAdmin     Role = "key-admin"     // also handles provisioning certificates and keys; reads no password
	Auditor      Role = "auditor"       // reads the audit and nothing else
	Admin        Role = "admin"
)

// Roles lists all of them.
func Roles() []Role {
	return []Role{Viewer, Operator, SecretReader, PolicyAdmin, KeyAdmin, Auditor, Admin}
}

// lookers are the roles that see the fleet.
var lookers = []Role{Viewer, Operator, SecretReader, PolicyAdmin, KeyAdmin}

// grants says for every operation who may call it; Admin always may. A test
// holds it against the routes: neither may know more than the other.
var grants = map[string][]Role{
	"whoami":            {Viewer, Operator, SecretReader, PolicyAdmin, KeyAdmin, Auditor},
	"list-devices":      lookers,
	"get-device":        lookers,
	"why-device":        lookers,
	"list-events":       lookers,
	"stream-events":     lookers,
	"list-reasons":      {Viewer, Operator, SecretReader, PolicyAdmin, KeyAdmin, Auditor},
	"list-certificates": lookers,
	"get-summary":       lookers,
	"decode-hello":      lookers,
	"list-hellos":       lookers,

	"approve-device":    {Operator},
	"retry-device":      {Operator},
	"trust-device":      {Operator},
	"retire-device":     {Operator},
	"restore-device":    {Operator},
	"release-device":    {Operator},
	"quarantine-device": {Operator},
	"reject-device":     {Operator},

	"clear-failures-device": {Operator},

	"tag-device":            {Operator, PolicyAdmin},
	"untag-device":          {Operator, PolicyAdmin},
	"assign-profile-device": {Operator, PolicyAdmin},

	"list-certificate-requests": lookers,
	"get-certificate-request":   lookers,
	"get-certificate":           lookers,
	"advise-certificate":        lookers,
	"advise-names":              lookers,
	"change-root":               lookers,
	"get-root":                  lookers,
	"list-backups":              lookers,
	"check-certificate":         {KeyAdmin, Operator},

	"create-certificate-request": {KeyAdmin},
	"cancel-certificate-request": {KeyAdmin},
	"import-certificate":         {KeyAdmin},
	"activate-certificate":       {KeyAdmin},
	"deactivate-certificate":     {KeyAdmin},
	"replace-certificate":        {KeyAdmin},
	"renew-certificate":          {KeyAdmin},
	"remove-certificate":         {KeyAdmin},
	"restore-certificate":        {KeyAdmin},
	"create-backup":              {KeyAdmin},
	"get-backup":                 {KeyAdmin},
	"verify-backup":              {KeyAdmin},
	"confirm-backup":             {KeyAdmin},
	"restore-backup":             {KeyAdmin},
	"create-root":                {KeyAdmin},
	"issue-certificate":          {KeyAdmin},

	"get-device-ca":              lookers,
	"list-console-certificates":  lookers,
	"issue-console-certificate":  {KeyAdmin},
	"revoke-console-certificate": {KeyAdmin},

	"list-authorisations":   lookers,
	"import-authorisations": {Operator, PolicyAdmin},
	"remove-authorisation":  {Operator, PolicyAdmin},
	"name-device":           {Operator, PolicyAdmin},
	"address-device":        {Operator, PolicyAdmin},
	"adopt-device":          {Operator},
	"list-rules":            lookers,
	"apply-rules":           {PolicyAdmin},
	"test-rules":            lookers,
	"list-profiles":         lookers,
	"get-profile":           lookers,
	"apply-profile":         {PolicyAdmin},
	"list-profile-versions": lookers,

	"reveal-secret": {SecretReader},
	"list-secrets":  {Operator, SecretReader, KeyAdmin},
	"rotate-secret": {Operator, KeyAdmin},

	"unprovision-device": {Operator},
	"maintain-device":    {Operator},

	"list-jobs":   lookers,
	"get-job":     lookers,
	"start-job":   {Operator},
	"abort-job":   {Operator},
	"approve-job": {Operator},
	"resume-job":  {Operator},

	"list-keys":           {KeyAdmin},
	"rotate-key":          {KeyAdmin},
	"set-master-password": {KeyAdmin},

	"get-doctor": lookers,
	"run-doctor": {Operator, PolicyAdmin, KeyAdmin},

	"list-audit":   {Auditor},
	"verify-audit": {Auditor},
	"sign-audit":   {Auditor},
	"export-audit": {Auditor},

	"list-users":  {},
	"create-user": {},
	"change-user": {},

	"list-tokens":  {},
	"create-token": {},
	"revoke-token": {},
}

// May reports whether a role may call an operation.
func (r Role) May(operation string) bool {
	roles, known := grants[operation]
	return known && (r == Admin || slices.Contains(roles, r))
}

// Allowed are the roles that may call an operation, beside Admin; known is false
// where there is no such operation.
func Allowed(operation string) (roles []Role, known bool) {
	roles, known = grants[operation]
	return roles, known
}

// Operations lists what a role may call.
func (r Role) Operations() []string {
	out := []string{}
	for op := range grants {
		if r.May(op) {
			out = append(out, op)
		}
	}
	slices.Sort(out)
	return out
}

// Valid reports whether r is one of the roles.
func (r Role) Valid() bool { return slices.Contains(Roles(), r) }
