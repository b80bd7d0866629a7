package session

import (
	"context"
	"strconv"
	"time"

	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/wsman"
)

const timeService = "AMT_TimeSynchronizationService"

// Clock reads the device's clock, in seconds and UTC.
func (s *Session) Clock(ctx context.Context) (time.Time, error) {
	ta0, err := s.ta0(ctx)
	return time.Unix(int64(ta0), 0).UTC(), err
}

func (s *Session) ta0(ctx context.Context) (uint32, error) {
	out, err := s.client.Invoke(ctx, timeService, "GetLowAccuracyTimeSynch")
	if err != nil {
		return 0, recode(reason.ClockSyncFailed, err)
	}
	v, err := strconv.ParseUint(out.Child("Ta0").Text(), 10, 32)
	if err != nil {
		return 0, reason.Because(reason.WSMANInvalid, "the device's time is %q", clipText(out.Child("Ta0").Text()))
	}
	return uint32(v), nil
}

// SetClock sets the device's clock to ours and returns what it was. It always
// sets, even a right clock: before AMT 6, and later for TLS and Kerberos, the
// device refuses to commit unless somebody set its clock remotely.
//
// Ta0 is the device's time, Tm1 ours when Ta0 arrived, Tm2 ours just before the
// second call; the device moves by ((Tm1+Tm2)-(Ta0+Ta3))/2, so nothing may come
// between the two calls (amt/protocol.md 6.5).
func (s *Session) SetClock(ctx context.Context) (before time.Time, err error) {
	ta0, err := s.ta0(ctx)
	if err != nil {
		return time.Time{}, err
	}
	tm1 := s.now().Unix()
	before = time.Unix(int64(ta0), 0).UTC()
	tm2 := s.now().Unix()
	_, err = s.client.Invoke(ctx, timeService, "SetHighAccuracyTimeSynch",
		wsman.Arg{Name: "Ta0", Value: strconv.FormatUint(uint64(ta0), 10)},
		wsman.Arg{Name: "Tm1", Value: strconv.FormatInt(tm1, 10)},
		wsman.Arg{Name: "Tm2", Value: strconv.FormatInt(tm2, 10)})
	return before, recode(reason.ClockSyncFailed, err)
}
