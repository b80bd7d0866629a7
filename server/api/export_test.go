package api

// Eligibility is the table of which command is for which device.
var Eligibility = cells

// Clean makes a text of a device harmless to show.
var Clean = clean
