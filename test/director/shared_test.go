// One address that several [[vip]] share, on the kernel.

package director

import (
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// Two VIPs share an address: each port goes to the real servers of its own. A port that
// both take from a ConfigMap stays with the one that has it, whatever the order of the
// file is and though the controller starts again, until that one wants it no more; then it
// changes without a lost request.
func TestKernelSharedAddress(t *testing.T) {
	r := newRig(t)
	client := r.lab.Host("client", 3)
	for n, name := range map[int]string{11: "node11", 12: "node12"} {
		node := r.lab.Host(name, n)
		node.Serve(80, 25, 9000)
		node.Run(controller(), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
	}
	const (
		web  = "[[vip]]\nname = \"web\"\naddresses = [\"10.0.0.100\"]\nannounce = \"arp\"\nports = [80]\nscheduler = \"rr\"\ntcp_services = \"tcp-services\"\n"
		mail = "[[vip]]\nname = \"mail\"\naddresses = [\"10.0.0.100\"]\nannounce = \"arp\"\nports = [25]\nscheduler = \"wlc\"\nselector = \"\"\nreal_servers = [{ address = \"10.0.0.12\" }]\n"
		both = "tcp_services = \"ingress-nginx/tcp-services\"\n"

		web80   = "-A -t 10.0.0.100:80 -s rr\n-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 1\n"
		mail25  = "-A -t 10.0.0.100:25 -s wlc\n-a -t 10.0.0.100:25 -r 10.0.0.12:25 -g -w 1\n"
		web9k   = "-A -t 10.0.0.100:9000 -s rr\n-a -t 10.0.0.100:9000 -r 10.0.0.11:9000 -g -w 1"
		mail9k  = "-A -t 10.0.0.100:9000 -s wlc\n-a -t 10.0.0.100:9000 -r 10.0.0.12:9000 -g -w 1"
		drained = "[vip.drain]\ntimeout = \"5s\"\n"
	)
	r.objects.pods = []pod{{name: "a", node: "n1", ips: []string{"10.0.0.11"}}}
	r.objects.tcp = map[string]string{"9000": "default/db:5432"}
	r.writeCluster()
	config := func(vips ...string) { r.write("config.toml", r.configHead()+strings.Join(vips, "")) }
	config(web, drained, mail+both, drained)
	r.start()
	served := func(port uint16) {
		t.Helper()
		lab.Within(t, 10*time.Second, func() string {
			if client.Knock(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.100"), port), time.Second) {
				return ""
			}
			return "no answer\n" + r.process.Log()
		})
	}

	t.Log("step: both want port 9000, and web is the first in the file")
	r.table(web80+mail25, web9k)
	r.logged(1, "vip mail: port 10.0.0.100:9000/tcp belongs to VIP web, which is before it in the file")
	for _, port := range []uint16{80, 25, 9000} {
		served(port)
	}

	t.Log("step: mail is the first in the file")
	config(mail+both, drained, web, drained)
	r.logged(1, "vip mail: port 10.0.0.100:9000/tcp belongs to VIP web, which has it already")
	r.table(web80+mail25, web9k)

	t.Log("step: the controller starts again")
	r.process.Kill()
	r.start()
	r.logged(1, "vip mail: port 10.0.0.100:9000/tcp belongs to VIP web, which has it already")
	r.table(web80+mail25, web9k)

	t.Log("step: web wants the port no more")
	load := client.StartLoad(netip.MustParseAddrPort("10.0.0.100:9000"), 2, 20*time.Millisecond)
	config(mail+both, drained, strings.Replace(web, "tcp_services = \"tcp-services\"\n", "", 1), drained)
	r.table(web80+mail25, mail9k)
	time.Sleep(500 * time.Millisecond)
	if report := load.Stop(); report.Failed() > 0 || report.Requests == 0 {
		t.Errorf("the port went to another VIP: %s, %v", report, report.Faults)
	}

	t.Log("step: web is gone, and the address stays")
	config(mail, drained)
	r.table(mail25)
	served(25)
	if on := r.director.Run("ip", "-4", "address", "show", "dev", "eth0"); !strings.Contains(on, "10.0.0.100/32") {
		t.Errorf("the address is gone:\n%s", on)
	}
	lab.Must(t, r.process.Signal(syscall.SIGTERM))
}
