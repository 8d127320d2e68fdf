// What others put on a director: kube-proxy's two modes. Both rewrite addresses, and need
// connection tracking.

package datapath

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"lvs-controller/test/bench/guest"
	"lvs-controller/test/lab"
)

// The rules are those that kube-proxy makes for one Service with an external address,
// with clients from outside the cluster. Its mode IPVS writes them through iptables and
// ipset; here nft makes the same ones. Only packets to the real servers are measured. The
// answers pass such a node too, and cost about as much again.
func TestBenchPathPeers(t *testing.T) {
	b := guest.New(t)
	m := newMeter(b)
	defer m.close()
	largeTracking(t)
	for _, p := range []struct {
		name    string
		table   func(r *rig)
		entries func(r *rig) int
	}{
		{"ours, dr", nil, nil},
		{"kube-proxy, mode ipvs", masquerading, nil},
		{"kube-proxy, mode nftables", translating, tracked},
	} {
		w := base(b)
		w.factor, w.name, w.table, w.entries, w.memory = "peer", p.name, p.table, p.entries, true
		m.measure(w)
	}
}

// largeTracking gives connection tracking as many buckets as IPVS has.
func largeTracking(t *testing.T) {
	t.Helper()
	lab.Must(t, exec.Command("modprobe", "nf_conntrack").Run())
	for _, setting := range []string{"nf_conntrack_max=4194304", "nf_conntrack_buckets=1048576"} {
		if out, err := exec.Command("sysctl", "-qw", "net.netfilter."+setting).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// keepTracked makes flows last.
func (r *rig) keepTracked() {
	r.Helper()
	r.director.Run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=36000", "net.netfilter.nf_conntrack_udp_timeout_stream=36000")
}

// tracked counts the entries of connection tracking.
func tracked(r *rig) int {
	r.Helper()
	var n int
	var err error
	r.director.Do(func() {
		var text []byte
		if text, err = os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count"); err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
	})
	lab.Must(r.T, err)
	return n
}

// masquerading is kube-proxy's mode ipvs. ipvsadm makes the table, because the controller
// forwards in no way that rewrites addresses.
func masquerading(r *rig) {
	r.Helper()
	r.nft(fmt.Sprintf(`
table ip nat {
	set KUBE-CLUSTER-IP {
		type ipv4_addr . inet_proto . inet_service
		elements = { %s . udp . %d }
	}
	chain KUBE-SERVICES {
		ip saddr 127.0.0.0/8 return
		ip saddr != 10.244.0.0/16 ip daddr . meta l4proto . udp dport @KUBE-CLUSTER-IP jump KUBE-MARK-MASQ
		ip daddr . meta l4proto . udp dport @KUBE-CLUSTER-IP accept
	}
	chain KUBE-MARK-MASQ {
		meta mark set meta mark | 0x4000
	}
	chain KUBE-POSTROUTING {
		meta mark & 0x4000 != 0x4000 return
		meta mark set meta mark ^ 0x4000
		masquerade fully-random
	}
	chain PREROUTING {
		type nat hook prerouting priority dstnat
		jump KUBE-SERVICES
	}
	chain POSTROUTING {
		type nat hook postrouting priority srcnat
		jump KUBE-POSTROUTING
	}
}
table ip filter {
	chain KUBE-FORWARD {
		meta mark & 0x4000 == 0x4000 accept
		ct state related,established accept
	}
	chain FORWARD {
		type filter hook forward priority filter
		jump KUBE-FORWARD
	}
}
`, vip, port))
	r.keepTracked()
	r.director.Run("sysctl", "-qw", "net.ipv4.vs.conntrack=1")
	rows := fmt.Sprintf("-A -u %s:%d -s rr\n", vip, port)
	for _, a := range guest.AddressesFrom(firstServer, 10) {
		rows += fmt.Sprintf("-a -u %s:%d -r %s:%d -m -w 1\n", vip, port, a, port)
	}
	cmd := r.director.Command("ipvsadm", "-R")
	cmd.Stdin = strings.NewReader(rows)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("ipvsadm -R: %v: %s", err, out)
	}
	r.director.Run("ipvsadm", "--set", "0", "0", "36000")
}

// translating is kube-proxy's mode nftables.
func translating(r *rig) {
	r.Helper()
	var choices []string
	var endpoints strings.Builder
	for i, a := range guest.AddressesFrom(firstServer, 10) {
		choices = append(choices, fmt.Sprintf("%d : goto endpoint-%d", i, i))
		fmt.Fprintf(&endpoints, "\tchain endpoint-%d {\n\t\tip saddr %s jump mark-for-masquerade\n\t\tmeta l4proto udp dnat to %s:%d\n\t}\n", i, a, a, port)
	}
	r.nft(fmt.Sprintf(`
table ip kube-proxy {
	set cluster-ips {
		type ipv4_addr
		elements = { 10.96.0.1 }
	}
	map no-endpoint-services {
		type ipv4_addr . inet_proto . inet_service : verdict
	}
	map firewall-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
	}
	chain mark-for-masquerade {
		meta mark set meta mark | 0x4000
	}
	chain masquerading {
		meta mark & 0x4000 == 0 return
		meta mark set meta mark ^ 0x4000
		masquerade fully-random
	}
%[1]s	chain external-service {
		jump mark-for-masquerade
		goto service
	}
	chain service {
		numgen random mod 10 vmap { %[2]s }
	}
	map service-ips {
		type ipv4_addr . inet_proto . inet_service : verdict
		elements = { %[3]s . udp . %[4]d : goto external-service }
	}
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
	}
	chain firewall-check {
		ip daddr . meta l4proto . th dport vmap @firewall-ips
	}
	chain service-endpoints-check {
		ip daddr . meta l4proto . th dport vmap @no-endpoint-services
	}
	chain cluster-ips-check {
		ip daddr @cluster-ips reject
	}
	chain filter-prerouting {
		type filter hook prerouting priority dstnat - 10
		ct state new jump firewall-check
	}
	chain filter-input {
		type filter hook input priority filter - 110
		ct state new jump service-endpoints-check
	}
	chain filter-forward {
		type filter hook forward priority filter - 110
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}
	chain nat-prerouting {
		type nat hook prerouting priority dstnat
		jump services
	}
	chain nat-postrouting {
		type nat hook postrouting priority srcnat
		jump masquerading
	}
}
`, endpoints.String(), strings.Join(choices, ", "), vip, port))
	r.keepTracked()
}
