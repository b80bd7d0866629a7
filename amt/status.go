package amt

import (
	"errors"
	"fmt"
	"slices"
)

// Status is PT_STATUS: what a method says in ReturnValue, with HTTP 200 around
// it (intel/lms StatusCodeDefinitions.h; go-wsman-messages constants.go).
type Status uint32

const (
	StatusSuccess            Status = 0
	StatusInternalError      Status = 1
	StatusNotReady           Status = 2
	StatusInvalidName        Status = 12
	StatusNotPermitted       Status = 16
	StatusMaxLimitReached    Status = 23
	StatusInvalidState       Status = 32
	StatusInvalidParameter   Status = 36
	StatusFlashWriteLimit    Status = 38
	StatusTooManyConnections Status = 46
	StatusDisabledByPolicy   Status = 1024
	StatusInvalidPassword    Status = 2054
	StatusDataMissing        Status = 2057
	StatusDuplicate          Status = 2058
	StatusKeysMissing        Status = 2060
	StatusGeneratingKeys     Status = 2061
	StatusInvalidKey         Status = 2062
	StatusInvalidCert        Status = 2063
	StatusCertKeyNotMatch    Status = 2064
	StatusUnsupported        Status = 2066
	StatusNotFound           Status = 2068
	StatusAuditFail          Status = 2075
	StatusBlockingComponent  Status = 2076
	StatusOperationUnderWay  Status = 2082
)

var statusNames = map[Status]string{
	0: "SUCCESS", 1: "INTERNAL_ERROR", 2: "NOT_READY", 3: "INVALID_PT_MODE", 4: "INVALID_MESSAGE_LENGTH",
	9: "INVALID_REGISTRATION_DATA", 10: "APPLICATION_DOES_NOT_EXIST", 11: "NOT_ENOUGH_STORAGE", 12: "INVALID_NAME",
	16: "NOT_PERMITTED", 17: "NOT_OWNER", 23: "MAX_LIMIT_REACHED", 24: "INVALID_AUTH_TYPE", 25: "AUTHENTICATION_FAILED",
	26: "INVALID_DHCP_MODE", 27: "INVALID_IP_ADDRESS", 28: "INVALID_DOMAIN_NAME", 29: "UNSUPPORTED_VERSION",
	30: "REQUEST_UNEXPECTED", 31: "INVALID_TABLE_TYPE", 32: "INVALID_PROVISIONING_STATE", 33: "UNSUPPORTED_OBJECT",
	34: "INVALID_TIME", 35: "INVALID_INDEX", 36: "INVALID_PARAMETER", 37: "INVALID_NETMASK", 38: "FLASH_WRITE_LIMIT_EXCEEDED",
	41: "PROPOSE_ANOTHER_VERSION", 42: "INVALID_PID_FORMAT", 43: "INVALID_PPS_FORMAT", 44: "BIST_COMMAND_BLOCKED",
	45: "CONNECTION_FAILED", 46: "CONNECTION_TOO_MANY", 47: "RNG_GENERATION_IN_PROGRESS", 48: "RNG_NOT_READY",
	49: "CERTIFICATE_NOT_READY", 1024: "DISABLED_BY_POLICY", 2049: "UNSUPPORTED_OEM_NUMBER", 2050: "UNSUPPORTED_BOOT_OPTION",
	2051: "INVALID_COMMAND", 2052: "INVALID_SPECIAL_COMMAND", 2053: "INVALID_HANDLE", 2054: "INVALID_PASSWORD",
	2055: "INVALID_REALM", 2056: "STORAGE_ACL_ENTRY_IN_USE", 2057: "DATA_MISSING", 2058: "DUPLICATE",
	2059: "EVENT_LOG_FROZEN", 2060: "PKI_MISSING_KEYS", 2061: "PKI_GENERATING_KEYS", 2062: "INVALID_KEY",
	2063: "INVALID_CERT", 2064: "CERT_KEY_NOT_MATCH", 2065: "MAX_KERB_DOMAIN_REACHED", 2066: "UNSUPPORTED",
	2067: "INVALID_PRIORITY", 2068: "NOT_FOUND", 2069: "INVALID_CREDENTIALS", 2070: "INVALID_PASSPHRASE",
	2072: "NO_ASSOCIATION", 2075: "AUDIT_FAIL", 2076: "BLOCKING_COMPONENT", 2081: "USER_CONSENT_REQUIRED",
	2082: "OPERATION_IN_PROGRESS",
}

// String is Intel's name with the number: "DATA_MISSING (2057)".
func (s Status) String() string {
	if n, ok := statusNames[s]; ok {
		return fmt.Sprintf("%s (%d)", n, uint32(s))
	}
	return fmt.Sprintf("status %d", uint32(s))
}

// Error lets a status other than success travel as an error.
func (s Status) Error() string { return "the device answered " + s.String() }

// Answered reports whether err is a device's own answer, one of these if any is named.
func Answered(err error, one ...Status) bool {
	s, ok := errors.AsType[Status](err)
	return ok && (len(one) == 0 || slices.Contains(one, s))
}

// A StatusClass says what a caller should do about a Status.
type StatusClass int

const (
	ClassOK      StatusClass = iota
	ClassWait                // busy: the same call may succeed in some seconds
	ClassReuse               // the thing is already there: enumerate and reuse it
	ClassFlash               // flash write limit: wait much longer or stop
	ClassChanged             // the state is not the one we expected: read it again
	ClassRefused             // the device will not do this
)

// Class sorts a status by what helps against it (amt/protocol.md 6.13).
func (s Status) Class() StatusClass {
	switch s {
	case 0:
		return ClassOK
	case 2, 46, 47, 48, 49, 2061, 2082:
		return ClassWait
	case 2058:
		return ClassReuse
	case 38:
		return ClassFlash
	case 16, 32:
		return ClassChanged
	}
	return ClassRefused
}

// Passes reports whether a refusal ends by itself: the same call may succeed
// later, nobody doing anything.
func (s Status) Passes() bool {
	return s == StatusInternalError || s.Class() == ClassWait || s.Class() == ClassFlash
}
