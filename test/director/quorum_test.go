// A VIP below its quorum, by probes of a UDP service and with events, on a real kernel.

package director

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// quorumConfig is a VIP with three real servers that answer at UDP port 514.
func quorumConfig(more string) string {
	return `[[vip]]
name = "edge"
addresses = ["10.0.0.100"]
announce = "arp"
ports = [80]
neighbour_check = false
real_servers = [{ address = "10.0.0.11" }, { address = "10.0.0.12" }, { address = "10.0.0.13" }]
sorry_server = "10.0.0.14"
[vip.health]
interval = "1s"
fall = 2
quorum = 2
` + more + `[vip.health.udp]
port = 514
send = "hello"
answer = "node"
`
}

// Fewer real servers than the quorum withdraw the VIP from this director, or give its
// clients to the sorry server. All that fail at once change nothing.
func TestKernelQuorum(t *testing.T) {
	r := newRig(t)
	nodes := make(map[int]*lab.Host)
	for n := 11; n <= 14; n++ {
		nodes[n] = r.lab.Host("node"+strconv.Itoa(n), n)
		nodes[n].Serve(80)
		nodes[n].ServeUDP(nodes[n].IPv4, 514)
		nodes[n].Run(controller(), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
	}
	answers := func(n int, yes bool) { // what comes from its UDP port leaves the node
		action := "add"
		if yes {
			action = "del"
		}
		nodes[n].Run("ip", "rule", action, "ipproto", "udp", "sport", "514", "blackhole")
	}
	r.write("config.toml", r.configHead()+quorumConfig(""))
	client := r.lab.Host("client", 3)
	r.start()
	r.ready("ready")
	socket := filepath.Join(r.dir, "state", "control.sock")
	events := r.director.Start("curl", "-sN", "--unix-socket", socket, "http://controller/events?after=0")
	event := func(want string) {
		t.Helper()
		lab.Within(t, 10*time.Second, func() string {
			if !strings.Contains(events.Log(), want) {
				return fmt.Sprintf("no event with %s:\n%s", want, events.Log())
			}
			return ""
		})
	}
	served := func(what string, want bool, by ...string) {
		t.Helper()
		lab.Within(t, 10*time.Second, func() string {
			on := strings.Contains(r.director.Run("ip", "-4", "address", "show", "dev", "eth0"), "10.0.0.100/")
			if on != want {
				return fmt.Sprintf("%s: the director has the VIP: %t, want %t\n%s", what, on, want, r.process.Log())
			}
			if !want {
				return ""
			}
			sum := 0
			got := client.Curl(6, "http://10.0.0.100/")
			for _, name := range by {
				if got[name] == 0 {
					return fmt.Sprintf("%s: %v, want answers of %v", what, got, by)
				}
				sum += got[name]
			}
			if sum != 6 {
				return fmt.Sprintf("%s: %v, want answers of %v alone", what, got, by)
			}
			return ""
		})
	}
	served("all answer", true, "node11", "node12", "node13")

	t.Log("step: two of three do not answer")
	answers(12, false)
	served("one does not", true, "node11", "node13")
	event(`"kind":"server_edited","vip":"edge","address":"10.0.0.100","service":"80/tcp","server":"10.0.0.12","old_weight":1,"new_weight":0,"change":"weight 1 → 0","reason":"static, but datagram to 10.0.0.12:514: no answer in 500ms, draining"`)
	answers(13, false)
	served("two do not", false)
	event(`"kind":"quorum_lost","vip":"edge","family":"IPv4"`)
	event(`"kind":"vip_withdrawn","vip":"edge","family":"IPv4","address":"10.0.0.100"`)
	r.logged(1, `msg="fewer real servers in service than the quorum" vip=edge family=IPv4 in_service=1 quorum=2 below_quorum=withdraw`)

	t.Log("step: a restart does not forget it")
	r.process.Kill()
	r.start()
	r.ready("ready")
	time.Sleep(time.Second)
	served("after a restart", false)
	events = r.director.Start("curl", "-sN", "--unix-socket", socket, "http://controller/events?after=0")

	t.Log("step: they answer again")
	answers(12, true)
	answers(13, true)
	served("all answer again", true, "node11", "node12", "node13")
	event(`"kind":"quorum_regained","vip":"edge","family":"IPv4"`)

	t.Log("step: all fail at once")
	for n := 11; n <= 13; n++ {
		answers(n, false)
	}
	event(`"kind":"all_probes_fail","vip":"edge","family":"IPv4"`)
	served("all fail", true, "node11", "node12", "node13")
	for n := 11; n <= 13; n++ {
		answers(n, true)
	}
	event(`"kind":"not_all_probes_fail","vip":"edge","family":"IPv4"`)

	t.Log("step: the sorry server instead")
	r.write("config.toml", r.configHead()+quorumConfig("below_quorum = \"sorry\"\nhysteresis = 1\n"))
	event(`"kind":"reloaded"`)
	answers(12, false)
	answers(13, false)
	served("two do not answer", true, "node14")
	answers(13, true)
	time.Sleep(4 * time.Second)
	served("as many as the quorum, less than its hysteresis", true, "node14")
	answers(12, true)
	served("all answer at last", true, "node11", "node12", "node13")
}
