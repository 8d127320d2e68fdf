// Pods that are not on hostNetwork, and that a port of their node leads to.

package director

import (
	"testing"
)

// The rules by which the portmap plug-in of a CNI leads a host port to a pod take the
// frames of a VIP in direct routing, too. With host_ports = true such a pod serves, for
// its own port alone, beside one on hostNetwork.
func TestKernelHostPorts(t *testing.T) {
	r := newTrafficRig(t)
	nodes := r.nodes
	nodes[0].Run("sysctl", "-qw", "net.ipv4.ip_forward=1")
	inside := r.lab.Behind(nodes[0], "pod", 1)
	inside.Serve(8080)
	nodes[1].Serve(80, 9000)
	for _, rule := range [][]string{
		{"add", "table", "ip", "portmap"},
		{"add", "chain", "ip", "portmap", "prerouting", "{ type nat hook prerouting priority dstnat; }"},
		{"add", "rule", "ip", "portmap", "prerouting", "fib daddr type local tcp dport 80 dnat to 10.1.1.2:8080"},
	} {
		nodes[0].Run(append([]string{"nft"}, rule...)...)
	}

	r.objects.pods = []pod{
		{name: "a", node: "node1", ips: []string{"10.0.0.11"}, podNetwork: true, hostPort: 80},
		{name: "b", node: "node2", ips: []string{"10.0.0.12"}},
	}
	r.objects.tcp = map[string]string{"9000": "ns/svc:80"}
	r.writeCluster()
	r.edgeConfig("announce = \"arp\"\nscheduler = \"rr\"\n")
	r.start()
	r.table("-A -t 10.0.0.100:80 -s rr", "-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 1",
		"-A -t 10.0.0.100:9000 -s rr", "-a -t 10.0.0.100:9000 -r 10.0.0.12:9000 -g -w 1")
	r.logged(1, "host_ports = true takes pods that have a hostPort")

	r.edgeConfig("announce = \"arp\"\nscheduler = \"rr\"\nhost_ports = true\n")
	r.process.Hangup()
	r.table("-A -t 10.0.0.100:80 -s rr", "-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1", "-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 1",
		"-A -t 10.0.0.100:9000 -s rr", "-a -t 10.0.0.100:9000 -r 10.0.0.12:9000 -g -w 1")
	if got := r.client.Curl(6, "http://10.0.0.100/"); got["pod"] != 3 || got["node2"] != 3 {
		t.Errorf("port 80: answers %v, want 3 from the pod and 3 from node2", got)
	}
	if got := r.client.Curl(4, "http://10.0.0.100:9000/"); got["node2"] != 4 {
		t.Errorf("port 9000: answers %v, want 4 from node2", got)
	}
}
