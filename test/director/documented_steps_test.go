// The commands of the documentation, run as they are printed, one after the other.

package director

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lvs-controller/test/lab"
)

// documentedConfigs are what the pages have in config.toml: of the pair, with its VIP under
// keepalived, and of directors behind a router.
const (
	documentedHead = "cluster_file = \"cluster.json\"\ninterface = \"eth0\"\naudit_interval = \"2s\"\n"
	documentedPair = documentedHead + "listen = \":9652\"\n" + pairHead + "[[vip]]\nname = \"edge\"\naddresses = [\"10.135.22.77\"]\nports = [\"80/tcp\", \"443/tcp\"]\nnotrack = true\n" + pairScheduler
)

const ready = `lvs-controller ready -listen 127.0.0.1:9652`

// documentedSteps are in the order of a life: a director, its node, a pair, and two
// directors behind a router.
var documentedSteps = []documentedStep{
	{on: "client", lines: "lvs-controller help", want: `(?s)Usage:.*realserver`},
	{on: "client", lines: "lvs-controller version", want: `(?s)\Alvs-controller .*^go +go1\.`},
	{on: "director", lines: "install -m 0644 install/lvs-controller.modprobe /etc/modprobe.d/lvs-controller.conf", after: "grep -q ^options.ip_vs.conn_tab_bits= /etc/modprobe.d/lvs-controller.conf"},
	{on: "director", lines: "echo ip_vs > /etc/modules-load.d/ip_vs.conf", after: "modprobe -a $(cat /etc/modules-load.d/ip_vs.conf)"},
	{on: "director", lines: "cat /sys/class/net/eth0/address", want: `^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`},

	// A node.
	{on: "node", lines: "lvs-controller realserver -vip ADDR", with: []string{"ADDR", "10.135.22.77"}, after: "ip address show dev lo | grep 10.135.22.77/32"},
	{on: "node", lines: "lvs-controller realserver -vip ADDR -tunnel TYPE", with: []string{"ADDR", "10.135.22.77", "TYPE", "ipip"}, after: "ip -d link show type ipip | grep ipip"},
	{on: "node", lines: "lvs-controller realserver -vip 10.0.0.100,2001:db8::100,10.0.0.200,2001:db8::200", after: "ip address show dev lo | grep 2001:db8::200/128",
		before: "lvs-controller realserver -vip 10.135.22.77 -remove"},
	{on: "node", lines: "lvs-controller realserver -vip ADDR", with: []string{"ADDR", "10.135.22.77"}, before: "lvs-controller realserver -vip 10.0.0.100,2001:db8::100,10.0.0.200,2001:db8::200 -remove"},
	{on: "node", lines: "install -m 0755 install/realserver.sh /usr/local/sbin/realserver.sh", before: "lvs-controller realserver -vip 10.135.22.77 -remove", after: "test -x /usr/local/sbin/realserver.sh"},
	{on: "node", lines: "/usr/local/sbin/realserver.sh start 10.135.22.77", after: "/usr/local/sbin/realserver.sh status 10.135.22.77 && lvs-controller realserver -vip 10.135.22.77 -check"},
	{on: "node", lines: "/usr/local/sbin/realserver.sh stop 10.135.22.77", after: "! ip address show dev lo | grep 10.135.22.77"},
	{on: "node", lines: "lvs-controller realserver -watch -listen 127.0.0.1:9653", want: `^lvs_node_prepared 1$`,
		with: []string{"-watch", "-watch -vip 10.135.22.77", "9653", "9653 2>/dev/null & for n in $(seq 100); do curl -s http://127.0.0.1:9653/metrics | grep -x 'lvs_node_prepared 1' && break; sleep 0.2; done; kill $!; wait $!"}},
	{on: "node", lines: "mkdir -p /etc/lvs-controller\necho 10.135.22.77 > /etc/lvs-controller/vips\ninstall -m 0644 install/realserver.service /etc/systemd/system/realserver.service\nsystemctl enable --now realserver",
		before: "lvs-controller realserver -vip 10.135.22.77 -remove", after: "ip address show dev lo | grep 10.135.22.77/32 && grep 1 /proc/sys/net/ipv4/conf/eth0/arp_ignore"},
	{on: "node", lines: "systemctl disable --now realserver\nlvs-controller realserver -remove -vips-file /etc/lvs-controller/vips", after: "! ip address show dev lo | grep 10.135.22.77 && grep 0 /proc/sys/net/ipv4/conf/eth0/arp_ignore && systemctl enable --now realserver"},
	{on: "node", lines: "lvs-controller realserver -remove -owner /etc/lvs-controller/vips", before: "systemctl stop realserver", after: "! ip address show dev lo | grep 10.135.22.77 && systemctl start realserver"},

	// A director, before its controller runs and after that.
	{on: "director", lines: "lvs-controller check", want: `config\.toml.* valid`},
	{on: "director", lines: "lvs-controller check -explain", want: `(?s)\[\[vip\]\]\nname = "edge"\n.*\n# .*config\.toml: valid`},
	{on: "director", lines: "lvs-controller diff", code: 3, want: `\+ service .* new virtual service`},
	{on: "director", lines: "lvs-controller diff -o ipvsadm > lines.txt", code: 3, after: "grep -- '-A -t 10.135.22.77:443 -s mh' lines.txt"},
	{on: "director", lines: "ipvsadm -R < lines.txt", after: "ipvsadm -Sn | grep -- '-a -t 10.135.22.77:443 -r 10.135.22.31:443 -g -w 1'"},
	{on: "director", lines: "systemctl enable --now lvs-controller", after: ready},
	{on: "director", lines: "systemctl status lvs-controller", want: `active \(running\)`},
	{on: "director", lines: "grep -e Cap -e NoNewPrivs /proc/PID/status", with: []string{"PID", `"$(cat "$LAB/director/lvs-controller.unit")"`}, want: `(?s)^CapEff:\t0000000000003000$.*^NoNewPrivs:\t1$`},
	{on: "director", lines: "lvs-controller status", want: `(?s)\Aready\n.*edge 10\.135\.22\.77 80/tcp,443/tcp .*\n  10\.135\.22\.31 .* pod ingress-a ready`},
	{on: "director", lines: "lvs-controller status -o json", want: `"version": ?1`},
	{on: "director", lines: "lvs-controller ready", want: `^ready$`},
	{on: "director", lines: ready, want: `^ready$`},
	{on: "director", lines: "curl --unix-socket /run/lvs-controller/control.sock http://controller/readyz", want: `^(ok|ready)$`},
	{on: "director", lines: "curl --unix-socket /run/lvs-controller/control.sock 'http://controller/debug/pprof/profile?seconds=10' > cpu", with: []string{"seconds=10", "seconds=1"}, after: "gzip -t <cpu"},
	{on: "director", lines: "curl -sN --unix-socket /run/lvs-controller/control.sock http://controller/events", with: []string{"-sN", "-sN -m 12", "/events", "/events?after=0"}, code: 28, want: `"kind":"server_added","vip":"edge"`,
		before: "ipvsadm -d -t 10.135.22.77:443 -r 10.135.22.31:443"}, // which the next audit repairs
	{on: "director", lines: "curl -X POST --unix-socket /run/lvs-controller/control.sock 'http://localhost/log-level?level=warn'", want: `^ok$`,
		after: "curl -X POST --unix-socket /run/lvs-controller/control.sock 'http://localhost/log-level?level=info'"},
	{on: "director", lines: "echo $((0x$(sha256sum config.toml | cut -c 1-12)))", want: `^\d+$`}, // compared below
	{on: "client", lines: "ssh -N -L 9652:127.0.0.1:9652 root@director", want: `<html`},
	{on: "director", lines: "ip address", want: `10\.135\.22\.2/24`},

	// A change is looked at before it is made.
	{on: "director", lines: "ipvsadm -Sn > saved.txt", after: "grep 10.135.22.77:80 saved.txt"},
	{on: "director", lines: "ipvsadm -Sn", want: `-a -t 10\.135\.22\.77:80 -r 10\.135\.22\.31:80 -g -w 1`},
	{on: "client", lines: "kubectl get pods,configmaps -A -o json > captured.json", after: "grep ingress-a captured.json"},
	{on: "client", lines: "kubectl get pods,configmaps,nodes -A -o json", want: `ingress-a`},
	{on: "client", lines: "lvs-controller diff -config config.toml -cluster-file captured.json -table saved.txt", want: `\Anot compared: [^\n]*\n\z`,
		before: "cp $LAB/director/home/saved.txt . && cp --remove-destination $LAB/director/etc/lvs-controller/config.toml config.toml"},
	{on: "client", lines: "ssh director ipvsadm -Sn | lvs-controller diff -config config.toml -cluster-file captured.json -table -", code: 3, want: `scheduler mh → rr`,
		before: `sed -i 's/^scheduler.*/scheduler = "rr"/; /^flags/d' config.toml`},
	{on: "client", lines: "sed '/^# ---$/,$s/^# //' install/rbac.yaml | kubectl apply -f -", want: `(?s)^Role$.*^ClusterRole$.*^ClusterRoleBinding$`},

	// What keepalived and ipvsadm have is imported.
	{on: "director", lines: "lvs-controller import /etc/keepalived/keepalived.conf > new.toml\nlvs-controller check -config new.toml", want: `new\.toml: valid, 1 VIP`,
		before: `mkdir -p /etc/keepalived; printf 'virtual_server 10.135.22.99 80 {\nprotocol TCP\nlvs_sched wlc\nlvs_method DR\nreal_server 10.135.22.31 80 { }\n}\n' > /etc/keepalived/keepalived.conf`},
	{on: "director", lines: "ipvsadm -Sn | lvs-controller diff -config new.toml -table -", code: 3, want: `\+ 10\.135\.22\.31 `, after: "rm /etc/keepalived/keepalived.conf"},
	{on: "director", lines: "ipvsadm -Sn | lvs-controller import -ipvsadm > new.toml", after: "lvs-controller check -config new.toml && ipvsadm -Sn | lvs-controller diff -config new.toml -table -"},

	{on: "client", lines: "curl -s http://10.135.22.31/ | sha256sum", want: `^389b46f0445738f6b517def165c3e490efa2eb8825c695b8ac8221565e78e4fa  -$`},

	// What other programs do is repaired.
	{on: "director", lines: "ipvsadm -C", after: "ipvsadm -Sn | grep -- '-a -t 10.135.22.77:80'"},
	{on: "director", lines: "nft flush ruleset", before: "nft list table inet lvs-controller-notrack", after: "nft list table inet lvs-controller-notrack"},
	{on: "director", lines: "systemctl reload nftables", after: "nft list table inet lvs-controller-notrack"},
	{on: "director", lines: "ipvsadm -Ln", want: `10\.135\.22\.77:443`},
	{on: "director", lines: "ipvsadm -Lnc", want: `IPVS connection entries`},
	{on: "director", lines: "ipvsadm -l --daemon", want: `(?s)master sync daemon .*backup sync daemon`},

	// Tuning. A virtual device has no channels that could be set, and no interrupts.
	{on: "director", lines: "for q in /sys/class/net/eth0/queues/rx-*; do echo ff > $q/rps_cpus; done", with: []string{"ff", "3"}, after: "grep 3 /sys/class/net/eth0/queues/rx-0/rps_cpus"},
	{on: "director", lines: "ethtool -l eth0", want: `(?i)channel parameters for eth0`},
	{on: "director", lines: "ethtool -L eth0 combined 8", code: 1, want: `(?i)(not supported|invalid|requested channel count)`},
	{on: "director", lines: "ethtool -K DEVICE lro off", with: []string{"DEVICE", "eth0"}, after: "ethtool -k eth0 | grep 'large-receive-offload: off'"},
	{on: "director", lines: "ethtool -K CARD gro on", with: []string{"CARD", "eth0"}, after: "ethtool -k eth0 | grep 'generic-receive-offload: on'"},
	{on: "director", lines: "nft add rule inet filter input ct state untracked ip daddr 10.135.22.77 tcp dport '{ 80, 443 }' accept",
		before: "nft add table inet filter; nft add chain inet filter input '{ type filter hook input priority 0; }'", after: "nft list chain inet filter input | grep untracked"},
	{on: "director", lines: "iptables -I INPUT -d 10.135.22.77 -p tcp -m multiport --dports 80,443 -m conntrack --ctstate UNTRACKED -j ACCEPT", after: "iptables -S INPUT | grep UNTRACKED"},
	{on: "director", lines: "cat /proc/sys/net/netfilter/nf_conntrack_count", want: `^\d+$`},
	// Debian's 6.1 has no such list.
	{on: "director", lines: "nft list hooks", want: `ipv4_conntrack_in|\A\z`},
	{on: "director", lines: "sysctl --system", want: `Applying /etc/sysctl\.d/50-lvs-director\.conf`, before: "echo net.ipv4.conf.eth0.log_martians=0 >/etc/sysctl.d/50-lvs-director.conf"},

	{on: "director", lines: "grep eth0 /proc/interrupts", with: []string{"eth0", "timer"}, want: `timer`},
	// On a tmpfs: the interrupts are those of the whole machine.
	{on: "director", lines: "echo 0 > /proc/irq/24/smp_affinity_list\necho 1 > /proc/irq/25/smp_affinity_list", before: "ls /proc/irq/*/smp_affinity_list; mount -t tmpfs tmpfs /proc/irq; mkdir /proc/irq/24 /proc/irq/25",
		after: "grep 1 /proc/irq/25/smp_affinity_list; umount /proc/irq"},

	// A pair.
	{on: "director", lines: "apt install keepalived", want: `keepalived`},
	{on: "peer", lines: "lvs-controller check\nsystemctl enable --now lvs-controller", after: ready},
	{on: "director", lines: "lvs-controller keepalived -peer 10.135.22.3 > new.conf", after: "grep 10.135.22.3 new.conf"},
	{on: "peer", lines: "lvs-controller keepalived -peer 10.135.22.2 > new.conf", after: "grep 10.135.22.2 new.conf"},
	{on: "director", lines: "keepalived --config-test -f $PWD/new.conf && install -m 0644 new.conf /etc/keepalived/keepalived.conf\nsystemctl enable --now keepalived", after: "ip address show dev eth0 | grep 10.135.22.77/32"},
	{on: "peer", lines: "keepalived --config-test -f $PWD/new.conf && install -m 0644 new.conf /etc/keepalived/keepalived.conf\nsystemctl enable --now keepalived", after: "sleep 3; ! ip address show dev eth0 | grep 10.135.22.77"},
	{on: "director", lines: "ip address show dev eth0", want: `10\.135\.22\.77/32`, patient: true},
	{on: "client", lines: "curl http://10.135.22.77/", want: `^node$`, patient: true},
	{on: "director", lines: "lvs-controller keepalived -peer ADDR", with: []string{"ADDR", "10.135.22.3"}, want: `virtual_ipaddress`},
	{on: "director", lines: "lvs-controller doctor", want: `(?s)OK    VIP  .*OK    nodes  .* 0 FAIL$`, patient: true},
	{on: "director", lines: "lvs-controller doctor -peer 10.135.22.3", want: `(?s)OK    keepalived  .*OK    peer  .*10\.135\.22\.3:9652 is ready`, patient: true},
	{on: "director", lines: "lvs-controller doctor -config /etc/lvs-controller/config.toml", want: `^OK    keepalived  `, patient: true},
	{on: "peer", lines: "cd /etc/keepalived\nlvs-controller keepalived -peer 10.135.22.2 -priority 150 > new.conf && mv new.conf keepalived.conf\nsystemctl reload keepalived", after: "ip address show dev eth0 | grep 10.135.22.77/32"},
	{on: "peer", lines: "cd /etc/keepalived\nlvs-controller keepalived -peer 10.135.22.2 > new.conf && mv new.conf keepalived.conf\nsystemctl reload keepalived", after: "sleep 3; ip address show dev eth0 | grep 10.135.22.77/32"},
	{on: "peer", lines: "lvs-controller drain", want: `\Adrained: this director is not ready, and announces no VIP`, after: "! ip address show dev eth0 | grep 10.135.22.77"},
	{on: "peer", lines: "lvs-controller drain -undo", want: `\Anot drained any more\n\z`, after: "lvs-controller ready"},
	{on: "director", lines: "ip address show dev eth0", want: `10\.135\.22\.77/32`, patient: true},
	{on: "peer", lines: "touch /var/lib/lvs-controller/drained", after: "lvs-controller ready 2>&1 | grep '^NOT READY: drained by the operator since '"},
	{on: "peer", lines: "lvs-controller drain -undo", after: "lvs-controller ready"},
	{on: "peer", lines: "lvs-controller ready; echo $?", want: "\\ANOT READY: the uplink eth0 has no carrier\n1\n\\z", patient: true, cut: true, with: []string{"lvs", "set +e; lvs"}},

	// The connection table is made anew, for which no director of this kernel may have one.
	{on: "peer", lines: "systemctl stop lvs-controller\nlvs-controller -config /etc/lvs-controller/config.toml -cleanup", before: "systemctl stop keepalived", after: "[ -z \"$(ipvsadm -Sn)\" ]"},
	{on: "director", lines: "lvs-controller drain\nsystemctl stop lvs-controller\nlvs-controller -cleanup\nmodprobe -r $(lsmod | awk '/^ip_vs_/ { print $1 }') ip_vs\nsystemctl start lvs-controller\nlvs-controller drain -undo", after: ready,
		before: "systemctl stop keepalived"},
	{on: "director", lines: "systemctl start lvs-controller", before: "systemctl stop lvs-controller", after: ready},

	// Directors behind a router.
	{on: "bird", lines: "apt install bird2\ninstall -m 0640 -g bird bird.conf /etc/bird/bird.conf\nsystemctl enable --now bird lvs-controller", want: `bird`, after: "ip address show dev lvs0 | grep 10.135.77.1/32"},
	{on: "bird", lines: "birdc show protocols", want: `router4 .*Established`, patient: true},
	{on: "router", lines: "birdc show route", want: `10\.135\.77\.1/32`, patient: true},
	{on: "router", lines: "ip route show 10.135.77.1", want: `10\.135\.77\.1.* 10\.135\.22\.4`, patient: true},
	{on: "bird", lines: "systemctl restart lvs-controller", after: "ip address show dev lvs0 | grep 10.135.77.1/32"},
	{on: "frr", lines: "apt install frr\nsed -i 's/^\\(bgpd\\|bfdd\\)=no/\\1=yes/' /etc/frr/daemons\ninstall -m 0640 -o frr -g frr frr.conf /etc/frr/frr.conf\nsystemctl restart frr\nsystemctl enable --now lvs-controller",
		after: "ip address show dev lvs0 | grep 10.135.77.1/32"},
	{on: "frr", lines: "vtysh -c 'show bgp summary' -c 'show bfd peers brief'", want: `(?s)10\.135\.22\.1 .*10\.135\.22\.5.*10\.135\.22\.1 .*up`, patient: true},
	{on: "frr", lines: "vtysh -c 'show ip route connected'", want: `10\.135\.77\.1/32 .*lvs0`, patient: true},
	{on: "frr", lines: "ip address show dev lvs0", want: `10\.135\.77\.1/32`},
}

// documentedRouter is the configuration of the router's bird.
const documentedRouter = `router id 10.135.22.1;
protocol device { }
protocol kernel { merge paths on; ipv4 { import none; export where source = RTS_BGP; }; }
protocol bfd { interface "eth0" { interval 300 ms; multiplier 3; }; }
template bgp director { local as 65000; bfd; hold time 9; keepalive time 3; connect delay time 1; connect retry time 5; error wait time 1, 10; }
protocol bgp one from director { neighbor 10.135.22.4 as 65077; ipv4 { import all; export none; }; }
protocol bgp two from director { neighbor 10.135.22.5 as 65077; ipv4 { import all; export none; }; }
`

// Each command of README.md and docs/ does what the page says, as it is printed there.
func TestKernelDocumentedCommands(t *testing.T) {
	w := newDocumentedWorld(t)
	page := documentation(t)["high-availability.md"]
	active := regexp.MustCompile("(?s)```toml\n(\\[\\[vip\\]\\]\n[^`]*announce  = \"dummy\".*?)```").FindStringSubmatch(page)
	if active == nil {
		t.Fatal("high-availability.md has no block for directors behind a router")
	}
	for host, text := range map[string]string{"director": documentedPair, "peer": documentedPair, "bird": documentedHead + active[1], "frr": documentedHead + active[1]} {
		lab.Must(t, os.WriteFile(filepath.Join(w.dir, host, "etc/lvs-controller/config.toml"), []byte(text), 0o644))
	}
	lab.Must(t, os.WriteFile(filepath.Join(w.dir, "router/etc/bird/bird.conf"), []byte(documentedRouter), 0o644))
	if code, out := w.shell("router", "systemctl start bird"); code != 0 {
		t.Fatal(out)
	}
	w.settings()
	keepClock(t)
	for _, s := range documentedSteps {
		w.run(s)
		if strings.HasPrefix(s.lines, "echo $((0x") {
			w.sameHash(s)
		}
	}
}

// sameHash compares what the line of docs/metrics.md prints with the metric.
func (w *documentedWorld) sameHash(s documentedStep) {
	w.Helper()
	_, printed := w.shell(s.on, s.lines)
	_, metrics := w.shell(s.on, "curl -s http://127.0.0.1:9652/metrics")
	if want := "\nlvs_config_hash " + strings.TrimSpace(printed) + "\n"; !strings.Contains(metrics, want) {
		w.Errorf("/metrics has no line %q: %q", want, regexp.MustCompile(`lvs_config_hash .*`).FindAllString(metrics, -1))
	}
}

// settings looks for the kernel settings of the files that the pages show. Those of the
// whole machine are absent in a namespace: then the tests do not run in a guest.
func (w *documentedWorld) settings() {
	w.Helper()
	if _, err := os.Stat("/proc/sys/net/core/netdev_rss_key"); err != nil {
		if os.Getenv("LVS_REQUIRE_ALL") != "" {
			w.Error("not in the first network namespace: ", err)
		}
		return
	}
	found := 0
	for page, text := range documentation(w.T) {
		for _, block := range regexp.MustCompile("(?s)```sysctl\n(.*?)```").FindAllStringSubmatch(text, -1) {
			for _, m := range regexp.MustCompile(`(?m)^([a-z_.0-9]+) = \d+\b`).FindAllStringSubmatch(block[1], -1) {
				found++
				if _, err := os.Stat("/proc/sys/" + strings.ReplaceAll(m[1], ".", "/")); err != nil {
					w.Errorf("%s: %v", page, err)
				}
			}
		}
	}
	if found < 4 {
		w.Errorf("%d settings found, want more", found)
	}
}
