package doctor

import "context"

// DescriptorsHint is what to do when the process may open too few files.
const DescriptorsHint = "LimitNOFILE=65536 in the unit, nofile of the container or ulimit -n; or less for hello.limits.connections, " +
	"api.connections and provisioning.workers"

// descriptors: may the process open as much as its configuration wants?
func (v *visit) descriptors(context.Context) []Check {
	const name = "descriptors"
	if v.c.Descriptors == nil {
		return one(name, Skip, "", "not known: only a running daemon knows what it may open")
	}
	few, known := v.c.Descriptors()
	switch {
	case !known:
		return one(name, Skip, "", "not known on this system")
	case few != "":
		return one(name, Warn, DescriptorsHint, "%s", few)
	}
	return one(name, Pass, "", "there are enough for all connections that the configuration allows")
}
