package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/provisiond/provisiond/store"
)

const (
	silence     = 24 * time.Hour // after which devices that wait are too quiet
	manySubnets = 10             // that are named
	probePath   = "/probe"       // the hello port's own page
)

// networks looks for parts of the network from which nothing is heard although
// it should be: one of provisioning.networks without a single hello while others
// have some, and subnets where devices still wait to be set up and have been
// quiet for a day. Firmware that cannot find the server looks just like firmware
// that is switched off, so this warns and never fails.
func (v *visit) networks(context.Context) []Check {
	const name = "networks"
	s, answer, ok := v.known(name)
	if !ok {
		return answer
	}
	if len(s.Subnets) == 0 {
		return one(name, Skip, "", "no device has been heard of yet")
	}
	if len(v.c.Networks) == 0 {
		return one(name, Warn, "provisioning: {networks: [10.20.0.0/16]}",
			"devices have been heard from %s, and provisioning.networks allows none of them", plural(len(s.Subnets), "subnet"))
	}
	status := Pass
	table := [][]string{{"NETWORK", "DEVICES", "NOT SET UP", "LAST HELLO"}}
	var silent []string
	for _, n := range v.c.Networks {
		sum := store.SubnetCount{}
		for _, c := range s.Subnets {
			if !n.Overlaps(c.Subnet) {
				continue
			}
			sum.Devices, sum.Waiting = sum.Devices+c.Devices, sum.Waiting+c.Waiting
			if c.LastHello.After(sum.LastHello) {
				sum.LastHello = c.LastHello
			}
			if c.Waiting > 0 && v.now.Sub(c.LastHello) > silence {
				silent = append(silent, fmt.Sprintf("%s: %s not set up, %s", c.Subnet, plural(c.Waiting, "device"),
					v.lastHello(c.LastHello)))
			}
		}
		if sum.Devices == 0 {
			status = Warn
		}
		table = append(table, []string{n.String(), fmt.Sprint(sum.Devices), fmt.Sprint(sum.Waiting), v.lastHello(sum.LastHello)})
	}
	head := "hellos come from every network of provisioning.networks"
	if status == Warn {
		head = "from some of provisioning.networks no hello ever came"
	}
	if len(silent) > 0 {
		status = Warn
		head += fmt.Sprintf("; %s silent for more than a day while devices there are not set up",
			plural(len(silent), "subnet")+" "+is(len(silent)))
	}
	lines := []string{head, lined(table)}
	if more := len(silent) - manySubnets; more > 0 {
		silent = append(silent[:manySubnets], fmt.Sprintf("and %d more", more))
	}
	lines = append(lines, silent...)
	hint := ""
	if status == Warn {
		hint = "on a machine of such a network, as its devices would:" + FromClient(v.c.Zones) +
			"\nno answer: DNS, or a firewall in front of TCP 9971. An answer: option 15 of that scope, machines that are off, or a setup " +
			"window that is over (ten seconds without power open it again)"
	}
	return one(name, status, hint, "%s", strings.Join(lines, "\n"))
}

func (v *visit) lastHello(t time.Time) string {
	if t.IsZero() {
		return "never a hello"
	}
	return ageWords(v.now.Sub(t)) + " ago"
}

// FromClient is what to type on a machine of a device network: does the name
// lead anywhere, does the hello port take a connection from there, and from
// which address does it see it come?
func FromClient(zones []string) string {
	zone := "corp.example.com"
	if len(zones) > 0 {
		zone = strings.ToLower(strings.TrimSuffix(zones[0], "."))
	}
	host := firmwareName + "." + zone
	return paste(
		"Windows PowerShell", []string{"Resolve-DnsName " + host, "(Invoke-WebRequest -UseBasicParsing http://" + host + ":9971" +
			probePath + ").Content"},
		"Linux", []string{"getent ahosts " + host, "timeout 5 bash -c 'exec 3<>/dev/tcp/" + host + `/9971; printf "GET ` + probePath +
			` HTTP/1.0\r\n\r\n" >&3; cat <&3'`},
		"in a browser", []string{"http://" + host + ":9971" + probePath},
	)
}
