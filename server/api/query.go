package api

// DeviceQuery selects devices; empty fields select all.
type DeviceQuery struct {
	Q         string   `query:"q" maxLength:"200" doc:"all of a UUID, name, address, MAC or serial, or else a part of one; also state:failed reason:x amt:11.8 amt:>=16 net:10.0.0.0/8 suffix:x tag:x profile:x health:x seen:24h silent:7d"`
	Lifecycle []string `query:"lifecycle" maxItems:"18" doc:"any of, divided by commas"`
	Reason    string   `query:"reason" maxLength:"64"`
	Health    string   `query:"health" maxLength:"16"`
	Version   string   `query:"amt_version" maxLength:"32" doc:"11, 11.8 or a whole version"`
	Suffix    string   `query:"suffix" maxLength:"255"`
	Network   string   `query:"network" maxLength:"64" doc:"such as 10.20.0.0/16"`
	Profile   string   `query:"profile" maxLength:"64"`
	Tag       string   `query:"tag" maxLength:"64"`
	Order     string   `query:"order" enum:"uuid,last_seen,name" doc:"uuid when not given"`
	After     string   `query:"after" maxLength:"512" doc:"next of the page before"`
	Limit     int      `query:"limit" minimum:"0" maximum:"1000" doc:"0 means 100"`
}

// EventQuery selects events.
type EventQuery struct {
	After  int64  `query:"after" minimum:"0" doc:"only with a greater id"`
	Before int64  `query:"before" minimum:"0" doc:"only with a smaller id, for paging backwards"`
	UUID   string `query:"uuid" maxLength:"255" doc:"of one device: its UUID, name, address or MAC"`
	RunID  int64  `query:"run" minimum:"0"`
	Name   string `query:"name" maxLength:"64"`
	Newest bool   `query:"newest" doc:"newest first"`
	Limit  int    `query:"limit" minimum:"0" maximum:"1000" doc:"0 means 100"`
}
