// From an event to the row in the kernel: the controller beside kube-proxy and
// keepalived, as tables and beside the goals.

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lvs-controller/test/bench/results"
	"lvs-controller/test/cluster"
	"lvs-controller/test/markdown"
)

const peersText = `
How long it takes until a change of the source is in the kernel. Each program has the
source that it has in production. Each service has ten real servers at the start, and
each event is one more. A real kube-apiserver runs on the host, without emulation; the
programs run in the virtual machine, one after the other.

- **Ours** watches pods: a pod becomes ready. A ready pod serves all services of a VIP;
  one more VIP has a single service, for the event that changes one service.
- **kube-proxy** v1.36 in IPVS mode watches Services and EndpointSlices: one EndpointSlice
  gets one more endpoint. Each Service has its own cluster address. A node that joins all
  services changes all EndpointSlices, with 16 requests at the same time.
- **keepalived** reads keepalived.conf: the new file is in place before the clock starts,
  with the signal SIGHUP. It runs only its checker, and its real servers have no checks.
- The clock stops when the kernel shows the row, or all rows. The same code asks the
  kernel for each program, every millisecond, with one dump of the service's real servers.
- The clock starts before the request to the API server is sent. So ours and kube-proxy
  include the API server; keepalived includes no source at all. "From the answer" is the same
  event from when the API server has answered the request: the change is there by then. A row
  that is there before the answer counts as 1 ms. For keepalived it is from the signal.
- "One service" is measured when the machine is idle. The services are evenly distributed
  over the table.
- "Second of two" is the event of a second service, 100 ms after the first one's. kube-proxy
  begins no pass before the last one ended and --ipvs-min-sync-period is over (default
  1 s). "min-sync-period 0" is kube-proxy without this time. A pass goes through all
  services, whatever has changed, and starts ipset and iptables many times; emulation makes
  the start of a process slow.
- kube-proxy's pass that repeats every 30 s is turned off (--ipvs-sync-period=1h). So is
  its setting of connection tracking limits, which belong to the machine.
- "From exec" is from the start of the program until all real servers are in the kernel.
  "Until idle" is from the start until the program has no more work: kube-proxy starts two
  processes of ipset for each service after the table is complete, and an event waits for
  the end of this pass. At 10,000 services, and for "min-sync-period 0", the sets are filled
  before kube-proxy starts, as they are when it starts again.
- Memory is that of all processes of the program at the end, in which a shared page counts
  once.
`

// peers runs what needs an API server with thousands of Services.
func (r *run) peers(ctx context.Context) error {
	timeout := 300
	if r.long {
		timeout = 1800
	}
	proxy := filepath.Join(r.kube, "kube-proxy")
	line := []string{"-bin", r.kube, "-binary", r.binary, "-pods", "0", "-timeout", strconv.Itoa(timeout), "-api-flag", "--service-cluster-ip-range=" + cluster.ServiceRange,
		"-test", strings.Join(r.test(filepath.Join(r.bin, "director.test"), guestFile, "-group", "bench-peers", "-kube-proxy", "/work/kube-proxy"), " "), "--", "-file", proxy}
	return command(ctx, os.Stdout, filepath.Join(r.bin, "e2e"), append(line, r.guest("peers.jsonl")...)...)
}

// peerColumns are the programs in the order of the tables.
var peerColumns = []string{"ours", "kube-proxy", "kube-proxy, min-sync-period 0", "keepalived"}

// peerTables has a table for each kind of event, and one for the start.
func peerTables(set results.Set) []string {
	return []string{
		peerTable(set, "one service", "single"),
		peerTable(set, "second of two", "second"),
		peerTable(set, "all services", "all"),
		peerStart(set),
	}
}

// peerTable compares the programs in one kind of event.
func peerTable(set results.Set, title, name string) string {
	t := markdown.Table{Head: []string{title, "services", "ms, median", "fastest", "slowest", "of", "times ours"}}
	answers := name == "single"
	if answers {
		t.Head = append(t.Head, "from the answer, ms", "times ours")
	}
	for _, services := range set.Values("peer "+name, "services") {
		params := results.Params{"services": services}
		for _, way := range peerColumns {
			r, ok := set.Find("peer "+name, way, params)
			if !ok {
				continue
			}
			row := []string{way, markdown.Count(services), number(r.Value), number(slices.Min(r.Samples)), number(slices.Max(r.Samples)), markdown.Count(len(r.Samples)), timesOurs(set, "peer "+name, params, way)}
			if a, ok := set.Find("peer answered", way, params); answers && ok {
				row = append(row, number(a.Value), timesOurs(set, "peer answered", params, way))
			} else if answers {
				row = append(row, "", "")
			}
			t.Add(row...)
		}
	}
	return t.String()
}

// peerStart is what each program needs until its table is complete, and its memory.
func peerStart(set results.Set) string {
	t := markdown.Table{Head: []string{"start and memory", "services", "from exec, ms", "times ours", "until idle, ms", "memory, MiB", "times ours"}}
	for _, services := range set.Values("peer start", "services") {
		params := results.Params{"services": services}
		for _, way := range peerColumns {
			start, okStart := set.Find("peer start", way, params)
			idle, okIdle := set.Find("peer ready", way, params)
			memory, okMemory := set.Find("peer memory", way, params)
			if !okStart || !okIdle || !okMemory {
				continue
			}
			t.Add(way, markdown.Count(services), number(start.Value), timesOurs(set, "peer start", params, way), number(idle.Value),
				number(memory.Value), timesOurs(set, "peer memory", params, way))
		}
	}
	return t.String()
}

// timesOurs is how many times ours a value is, "" if ours was not measured.
func timesOurs(set results.Set, name string, params results.Params, way string) string {
	if r, ok := ratio(set, name, params, way, "ours"); ok {
		return times(r)
	}
	return ""
}

// peerGoals sets the events beside what the project wants.
func peerGoals(set results.Set, t *markdown.Table) {
	params := results.Params{"services": 1000}
	for _, peer := range []struct{ way, what string }{{"kube-proxy", "kube-proxy"}, {"keepalived", "keepalived's reload"}} {
		if r, ok := ratio(set, "peer single", params, peer.way, "ours"); ok {
			t.Add(fmt.Sprintf("Event to row, one of 1,000 services, as fast as %s", peer.what), "≥ 20×", times(r))
		}
		if r, ok := ratio(set, "peer answered", params, peer.way, "ours"); ok {
			t.Add("… from the API server's answer", "≥ 20×", times(r))
		}
	}
}
