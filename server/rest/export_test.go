package rest

// Eligibility is the table of which command is for which device.
var Eligibility = cells
