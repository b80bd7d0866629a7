package amt

import (
	"fmt"
	"strconv"
	"strings"
)

// Version is a firmware release: 11.8.50, with the build number if it is known
// (AMT reports it apart, in CIM_SoftwareIdentity "Build Number").
type Version struct {
	Major, Minor, Hotfix, Build int
}

// ParseVersion reads one to four numbers divided by dots.
func ParseVersion(s string) (Version, error) {
	parts := strings.Split(strings.TrimSpace(s), ".")
	if len(parts) > 4 {
		return Version{}, fmt.Errorf("AMT version %q: want numbers such as 11.8.50", Clip(s))
	}
	var n [4]int
	for i, p := range parts {
		v, err := strconv.Atoi(p)
		if err != nil || v < 0 || v > 1<<20 {
			return Version{}, fmt.Errorf("AMT version %q: want numbers such as 11.8.50", Clip(s))
		}
		n[i] = v
	}
	return Version{n[0], n[1], n[2], n[3]}, nil
}

// IsZero means that the version is unknown.
func (v Version) IsZero() bool { return v == Version{} }

// AtLeast reports whether v is major.minor or later. An unknown version is not.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// String leaves an unknown build out: 11.8.50 or 11.8.50.3425.
func (v Version) String() string {
	switch {
	case v.IsZero():
		return ""
	case v.Build != 0:
		return fmt.Sprintf("%d.%d.%d.%d", v.Major, v.Minor, v.Hotfix, v.Build)
	}
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Hotfix)
}

func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

func (v *Version) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*v = Version{}
		return nil
	}
	w, err := ParseVersion(string(b))
	if err == nil {
		*v = w
	}
	return err
}
