package store

// Job is BulkJob.
//
// Deprecated: use BulkJob.
type Job = BulkJob
