package provision

import (
	"context"
	"maps"

	"github.com/provisiond/provisiond/amt"
	"github.com/provisiond/provisiond/amt/reason"
	"github.com/provisiond/provisiond/amt/session"
)

// The simulation's firmware keeps classes as fields by name, and knows of none what
// they mean. A class it does not have is answered as CIM has it.

func newClasses() map[string]map[string][]string {
	return map[string]map[string][]string{
		"AMT_GeneralSettings":            {"PingResponseEnabled": {"true"}, "IdleWakeTimeout": {"1"}},
		"AMT_TimeSynchronizationService": {"LocalTimeSyncEnabled": {"0"}},
		"AMT_RedirectionService":         {"EnabledState": {"32768"}, "ListenerEnabled": {"false"}},
		"CIM_KVMRedirectionSAP":          {"EnabledState": {"3"}},
		"IPS_OptInService":               {"OptInRequired": {"1"}, "CanModifyOptInPolicy": {"1"}},
	}
}

var errNoClass = &reason.Error{Code: reason.WSMANFault, Err: stateUnsupported}

func (c *simSession) Instance(_ context.Context, class, id string) (in *session.Instance, err error) {
	err = c.call("get "+class, false, func(d *simDevice) error {
		fields, is := d.classes[class]
		if !is {
			return errNoClass
		}
		in = session.NewInstance(class, id, maps.Clone(fields))
		return nil
	})
	return in, err
}

func (c *simSession) Instances(_ context.Context, class string) (all []*session.Instance, err error) {
	return nil, c.call("enumerate "+class, false, func(*simDevice) error { return errNoClass })
}

func (c *simSession) Put(_ context.Context, in *session.Instance) error {
	return c.call("put "+in.Class, true, func(d *simDevice) error {
		if d.classes[in.Class] == nil {
			return errNoClass
		}
		d.classes[in.Class] = maps.Collect(in.Fields())
		return nil
	})
}

func (c *simSession) Invoke(_ context.Context, class, method string, args ...session.Arg) error {
	return c.call(method, true, func(d *simDevice) error {
		fields := d.classes[class]
		switch {
		case fields == nil:
			return errNoClass
		case method == "RequestStateChange":
			fields["EnabledState"] = []string{args[0].Value}
		case method == "EnableLocalTimeSync":
			fields["LocalTimeSyncEnabled"] = []string{map[string]string{"true": "1", "false": "2"}[args[0].Value]}
		default:
			return &reason.Error{Code: reason.WSMANFault, Err: amt.StatusInvalidParameter}
		}
		return nil
	})
}

func (c *simSession) InvokeOn(_ context.Context, _ *session.Instance, method string, _ ...session.Arg) error {
	return c.call(method, true, func(*simDevice) error { return errNoClass })
}

func (c *simSession) Users(context.Context) ([]session.User, error) {
	return nil, c.call("users", false, func(*simDevice) error { return errNoClass })
}

func (c *simSession) PutUser(context.Context, session.User, string, amt.Secret) error {
	return errNoClass
}
func (c *simSession) RemoveUser(context.Context, string) error       { return errNoClass }
func (c *simSession) EnableUser(context.Context, string, bool) error { return errNoClass }
