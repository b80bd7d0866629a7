package api

import "time"

// JobRequest says what to do with which devices.
type JobRequest struct {
	Kind    string   `json:"kind" enum:"maintain,rotate,unprovision,retire,approve,reject,retry,clear-failures,quarantine,release,restore,tag,untag,assign-profile"`
	Query   string   `json:"query,omitempty" maxLength:"200" doc:"which devices, as in the list of devices"`
	Devices []string `json:"devices,omitempty" maxItems:"10000" doc:"UUIDs, names, addresses or MACs, instead of a query"`
	All     bool     `json:"all,omitempty" doc:"instead of either: all devices that the kind can be done to"`

	Task string `json:"task,omitempty" maxLength:"64" doc:"maintain: clock, name, cert, tls, password, settings, divided by commas; check looks and changes nothing; empty is what is due"`
	Mode string `json:"mode,omitempty" enum:"full,partial,decommission" doc:"unprovision; decommission is full, and retired once the device shows that it is gone"`
	Change
	Note      string     `json:"note,omitempty" maxLength:"500"`
	PerMinute int        `json:"per_minute,omitempty" minimum:"0" maximum:"100000" doc:"devices begun a minute; 0: no cap, or maintenance.per_minute for a kind that goes in waves"`
	Canary    *int       `json:"canary,omitempty" minimum:"0" maximum:"100000" doc:"maintain, rotate, unprovision: after the first device is proved, so many more have to be before the rest; maintenance.canary without"`
	NotBefore *time.Time `json:"not_before,omitempty" doc:"when it begins; at once without"`

	DryRun       bool   `json:"dry_run,omitempty" doc:"say what would be done, and do nothing"`
	Confirm      string `json:"confirm,omitempty" maxLength:"64" doc:"for kinds that cannot be undone, and for any kind over more than 5 devices: the text the dry run asks for, such as unprovision 12. A kind that can be undone takes the bare number as well, or yes, whatever the number is by then"`
	NeedApprover bool   `json:"need_approver,omitempty" doc:"wait until another user approves"`
}

// Job is a bulk operation as it stands.
type Job struct {
	ID           int64          `json:"id" doc:"0 in a dry run"`
	Kind         string         `json:"kind"`
	Query        string         `json:"query"`
	Task         string         `json:"task"`
	Mode         string         `json:"mode"`
	Tags         []string       `json:"tags,omitempty"`
	Profile      string         `json:"profile,omitempty"`
	Note         string         `json:"note"`
	State        string         `json:"state" doc:"draft waits for an approver; waiting, running, done, aborted; stopped waits for a person, and detail says why"`
	Detail       string         `json:"detail" doc:"why it was stopped, or ended early"`
	Target       string         `json:"target,omitempty" doc:"of a rollout: the profile and version that its devices are brought to"`
	Cause        string         `json:"cause,omitempty" doc:"of a rollout: a version, an assignment, or rules"`
	PerMinute    int            `json:"per_minute"`
	Waves        []Wave         `json:"waves,omitempty" doc:"of a kind that goes in waves: one device, some, the rest. Each begins when the one before is proved"`
	NotBefore    *time.Time     `json:"not_before"`
	NeedApprover bool           `json:"need_approver"`
	CreatedBy    string         `json:"created_by"`
	ApprovedBy   string         `json:"approved_by"`
	CreatedAt    *time.Time     `json:"created_at"`
	FinishedAt   *time.Time     `json:"finished_at"`
	StoppedAt    *time.Time     `json:"stopped_at"`
	Devices      int            `json:"devices"`
	Counts       map[string]int `json:"counts" doc:"devices by waiting, running, handed_over, done, failed, skipped"`
	Lately       int            `json:"lately,omitempty" doc:"further devices that this maker's jobs of this kind reach within a day with nobody's approval: counted together with these for jobs.second_approver_above"`
	Sample       []string       `json:"sample,omitempty" doc:"the first devices of a dry run"`
	Confirm      string         `json:"confirm,omitempty" doc:"what has to be typed to start it"`
}

// Wave is one wave of a job.
type Wave struct {
	Name    string `json:"name" doc:"first, canary or rest"`
	Devices int    `json:"devices" doc:"how many it is about"`
	Done    int    `json:"done" doc:"proved, in the first two: the change was made, and a login of its own succeeded after it"`
	Running int    `json:"running"`
}

// JobList is a page of jobs.
type JobList struct {
	Jobs []Job `json:"jobs"`
}

// JobResult is one device's part.
type JobResult struct {
	UUID      string     `json:"uuid"`
	FQDN      string     `json:"fqdn"`
	State     string     `json:"state" doc:"waiting, running, handed_over, done, failed, skipped or forged; handed over is one that was given its command and whose run has not ended, forged one that was written into the database and counts for nothing"`
	RunID     int64      `json:"run_id"`
	Wave      int        `json:"wave,omitempty" doc:"1 first, 2 canary, 3 rest"`
	Detail    string     `json:"detail"`
	UpdatedAt *time.Time `json:"updated_at"`
}

// JobDetail is a job with a page of its devices.
type JobDetail struct {
	Job
	Results []JobResult `json:"results"`
	Next    string      `json:"next" doc:"give it as after to get the next page; empty on the last"`
}

// JobsInput selects jobs.
type JobsInput struct {
	State string `query:"state" enum:"draft,waiting,running,stopped,done,aborted"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000"`
}

// OneJob names a job and a page of its devices.
type OneJob struct {
	ID    int64  `path:"id"`
	State string `query:"state" enum:"waiting,running,handed_over,done,failed,skipped"`
	After string `query:"after" maxLength:"64"`
	Limit int    `query:"limit" minimum:"0" maximum:"1000"`
}

// KindRollout are jobs that the server makes: they bring devices to the newest
// version of their profile.
const KindRollout = "rollout"

// Destructive kinds ask for a typed confirmation, whatever the number.
func Destructive(kind string) bool { return kind == "unprovision" || kind == "retire" }
