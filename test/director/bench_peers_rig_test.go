// The programs that TestBenchPeers compares: their configurations, their processes, and
// how an event reaches each.

package director

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"lvs-controller/test/args"
	"lvs-controller/test/bench/guest"
	"lvs-controller/test/cluster"
	"lvs-controller/test/lab"
)

const (
	peerNamespace = "peers"
	peerNode      = "director" // the Node that kube-proxy is on
)

var (
	joiner     = netip.MustParseAddr("10.1.1.1")   // the first real server that joins
	oneAddress = netip.MustParseAddr("10.0.0.101") // of the service that others do not share real servers with
)

// peerNodes are the real servers that each service has at the start.
func peerNodes() []netip.Addr { return guest.AddressesFrom(guest.Node, peerServers) }

func texts(addresses []netip.Addr) []string {
	var all []string
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return all
}

// peerWays are measured in this order at each size.
var peerWays = []struct {
	name  string
	joins func(b *peerBench) joins
	make  func(b *peerBench, h *lab.Host, j joins) peer
}{
	{"ours", ownJoins, newOurs},
	{"keepalived", reloadJoins, newKeepalived},
	{"kube-proxy", proxyJoins, newProxy},
	{"kube-proxy without min-sync-period", eagerJoins, newEagerProxy},
}

func ownJoins(b *peerBench) joins {
	return guest.LongOr(b.Benchmark, joins{5, 9, 5}, joins{2, 3, 1})
}

// reloadJoins are fewer where each takes many seconds.
func reloadJoins(b *peerBench) joins {
	if b.count >= manyServices {
		return joins{single: 5}
	}
	return ownJoins(b)
}

func proxyJoins(b *peerBench) joins {
	if b.count >= manyServices {
		return joins{single: 5}
	}
	return guest.LongOr(b.Benchmark, joins{5, 5, 5}, joins{single: 2, second: 1})
}

// eagerJoins is for the size at which the goals are.
func eagerJoins(b *peerBench) joins {
	if b.count != 1000 {
		return joins{}
	}
	return joins{single: 5, second: 5}
}

// running is a program and its log.
type running struct {
	*testing.T
	cmd *exec.Cmd
	out string
}

// launch starts a program inside h.
func (b *peerBench) launch(h *lab.Host, cmd *exec.Cmd) *running {
	b.Helper()
	out, err := os.Create(filepath.Join(b.TempDir(), "log"))
	lab.Must(b.T, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	// As in guest.UntilWhole.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	b.StartIn(h, cmd)
	return &running{b.T, cmd, out.Name()}
}

func (r *running) kill() {
	r.cmd.Process.Kill()
	r.cmd.Wait()
}

func (r *running) log() string {
	text, _ := os.ReadFile(r.out)
	return string(text[max(0, len(text)-4000):])
}

// memory is the resident memory of the program's processes, in MiB. Of a page that n of
// them share, each has an n-th.
func (r *running) memory() float64 {
	r.Helper()
	sum := 0
	for pids := []string{strconv.Itoa(r.cmd.Process.Pid)}; len(pids) > 0; pids = pids[1:] {
		text, err := os.ReadFile("/proc/" + pids[0] + "/smaps_rollup")
		lab.Must(r.T, err)
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); f[0] == "Pss:" {
				kb, err := strconv.Atoi(f[1])
				lab.Must(r.T, err)
				sum += kb
			}
		}
		children, err := filepath.Glob("/proc/" + pids[0] + "/task/*/children")
		lab.Must(r.T, err)
		for _, file := range children {
			text, err := os.ReadFile(file)
			lab.Must(r.T, err)
			pids = append(pids, strings.Fields(string(text))...)
		}
	}
	return float64(sum) / 1024
}

// ours follows pods. Each of its ready pods serves all services of VIP "edge"; a service
// can get a real server alone because it is the only one of VIP "one".
type ours struct {
	*peerBench
	dir, namespace string
}

func newOurs(b *peerBench, h *lab.Host, j joins) peer {
	o := &ours{b, b.TempDir(), fmt.Sprintf("ours-%d", b.count)}
	ctx := b.Context()
	b.relay(b.T, h)
	lab.Must(b.T, b.admin.CreateNamespace(ctx, o.namespace))
	create := func(vip string, a netip.Addr, ready bool) {
		name := o.pod(vip, a)
		lab.Must(b.T, b.admin.CreatePod(ctx, o.namespace, name, name, map[string]string{"app": vip}, true, nil))
		lab.Must(b.T, b.admin.SetPodStatus(ctx, o.namespace, name, ready, a.String()))
	}
	for _, a := range peerNodes() {
		create("edge", a, true)
		create("one", a, true)
	}
	for i, a := range guest.AddressesFrom(joiner, j.all+j.services()) {
		create(map[bool]string{true: "edge", false: "one"}[i < j.all], a, false)
	}
	for vip, services := range map[string]int{"edge": b.count, "one": 1} {
		ports := make(map[string]string, services)
		for _, s := range guest.Services(guest.Address, services) {
			ports[strconv.Itoa(int(s.Port()))] = "default/backend:80"
		}
		lab.Must(b.T, b.admin.SetConfigMap(ctx, o.namespace, vip, ports))
	}
	return o
}

func (o *ours) pod(vip string, a netip.Addr) string {
	return vip + "-" + strings.ReplaceAll(a.String(), ".", "-")
}

func (o *ours) name() string { return "ours" }

func (o *ours) services() []netip.AddrPort {
	return append(guest.Services(guest.Address, o.count), netip.AddrPortFrom(oneAddress, guest.Port))
}

func (o *ours) single(int) int { return o.count }

func (o *ours) start(h *lab.Host) *running {
	o.Helper()
	r := &rig{T: o.T, dir: o.dir}
	r.write("kubeconfig", string(cluster.Kubeconfig(fmt.Sprintf("https://127.0.0.1:%d", o.info.Port), o.info.CA, o.info.AdminToken)))
	text := fmt.Sprintf("kubeconfig = \"kubeconfig\"\ninterface = \"eth0\"\nlisten = \"127.0.0.1:9652\"\nstate_dir = %q\ncache_dir = %q\n",
		filepath.Join(o.dir, "state"), filepath.Join(o.dir, "cache"))
	for _, vip := range []struct {
		name    string
		address netip.Addr
	}{{"edge", guest.Address}, {"one", oneAddress}} {
		text += fmt.Sprintf("[[vip]]\nname = %[1]q\naddresses = [%[2]q]\nscheduler = \"rr\"\nports = []\nnamespace = %[3]q\nselector = \"app=%[1]s\"\ntcp_services = %[1]q\n", vip.name, vip.address, o.namespace)
	}
	r.write("config.toml", text)
	return o.launch(h, exec.Command(controller(), "-config", filepath.Join(o.dir, "config.toml")))
}

func (o *ours) join(i int, server netip.Addr) func() {
	vip := "one"
	if i == everyService {
		vip = "edge"
	}
	return func() {
		if err := o.admin.SetPodStatus(o.Context(), o.namespace, o.pod(vip, server), true, server.String()); err != nil {
			o.Error(err)
		}
	}
}

// keepalived reads a file. Only its checker runs, and the real servers have no checks.
type keepalived struct {
	*peerBench
	config  string
	process *running
}

func newKeepalived(b *peerBench, h *lab.Host, _ joins) peer {
	return &keepalived{peerBench: b, config: filepath.Join(b.TempDir(), "keepalived.conf")}
}

func (k *keepalived) name() string { return "keepalived" }

func (k *keepalived) services() []netip.AddrPort { return guest.Services(guest.Address, k.count) }

func (k *keepalived) single(n int) int { return n % k.count }

func (k *keepalived) start(h *lab.Host) *running {
	k.Helper()
	k.write()
	dir := filepath.Dir(k.config)
	k.process = k.launch(h, exec.Command("keepalived", "--check", "--dont-fork", "--log-console",
		"--use-file", k.config, "--pid", filepath.Join(dir, "pid"), "--checkers_pid", filepath.Join(dir, "checkers")))
	return k.process
}

// write makes the file with the real servers that are wanted now.
func (k *keepalived) write() {
	k.Helper()
	var s strings.Builder
	for i, service := range k.services() {
		fmt.Fprintf(&s, "virtual_server %s %d {\n\tlvs_sched rr\n\tlvs_method DR\n\tprotocol TCP\n", service.Addr(), service.Port())
		for _, a := range k.servers(i) {
			fmt.Fprintf(&s, "\treal_server %s %d {\n\t\tweight 1\n\t}\n", a, service.Port())
		}
		s.WriteString("}\n")
	}
	lab.Must(k.T, os.WriteFile(k.config+".new", []byte(s.String()), 0o644))
	lab.Must(k.T, os.Rename(k.config+".new", k.config))
}

func (k *keepalived) join(int, netip.Addr) func() {
	k.write()
	return func() {
		if err := k.process.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			k.Error(err)
		}
	}
}

// proxy follows Services and EndpointSlices.
type proxy struct {
	*peerBench
	dir   string
	eager bool // without a least time between two passes
}

func newProxy(b *peerBench, h *lab.Host, _ joins) peer {
	p := &proxy{peerBench: b, dir: b.TempDir()}
	lab.Must(b.T, b.control.SetEndpoints(b.Context(), p.endpoints(everyService)))
	b.relay(b.T, h)
	if b.count >= manyServices {
		p.fillSets(h)
	}
	return p
}

func newEagerProxy(b *peerBench, h *lab.Host, j joins) peer {
	p := newProxy(b, h, j).(*proxy)
	p.eager = true
	p.fillSets(h)
	return p
}

// createNode makes the Node that kube-proxy asks for its address.
func (p *plane) createNode(t *testing.T) {
	t.Helper()
	lab.Must(t, p.admin.Create(t.Context(), "/api/v1/nodes", cluster.Object{"metadata": cluster.Object{"name": peerNode}}, nil))
	addresses := []cluster.Object{{"type": "InternalIP", "address": "10.0.0.2"}}
	lab.Must(t, p.admin.Patch(t.Context(), "/api/v1/nodes/"+peerNode+"/status", cluster.Object{"status": cluster.Object{"addresses": addresses}}, nil))
}

// fillSets makes the ipsets as a kube-proxy that ran before has left them. Without them
// the first pass starts two processes of ipset for each service.
func (p *proxy) fillSets(h *lab.Host) {
	p.Helper()
	s := "create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem 65536\ncreate KUBE-IPVS-IPS hash:ip family inet hashsize 1024 maxelem 65536\n"
	for _, service := range p.services() {
		s += fmt.Sprintf("add KUBE-CLUSTER-IP %s,tcp:%d\nadd KUBE-IPVS-IPS %[1]s\n", service.Addr(), service.Port())
	}
	cmd := h.Command("ipset", "restore")
	cmd.Stdin = strings.NewReader(s)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.Fatalf("ipset restore: %v: %s", err, out)
	}
}

func (p *proxy) name() string {
	if p.eager {
		return "kube-proxy, min-sync-period 0"
	}
	return "kube-proxy"
}

func (p *proxy) services() []netip.AddrPort {
	all := make([]netip.AddrPort, p.count)
	for i := range all {
		all[i] = netip.AddrPortFrom(cluster.ServiceAddress(i), cluster.ServicePort)
	}
	return all
}

func (p *proxy) single(n int) int { return n % p.count }

func (p *proxy) start(h *lab.Host) *running {
	p.Helper()
	kubeconfig := filepath.Join(p.dir, "kubeconfig")
	lab.Must(p.T, os.WriteFile(kubeconfig, cluster.Kubeconfig(fmt.Sprintf("https://127.0.0.1:%d", p.info.Port), p.info.CA, p.info.AdminToken), 0o600))
	// Its pass every 30 s would be measured too, at random. The connection tracking is
	// the machine's.
	flags := []string{"--proxy-mode=ipvs", "--ipvs-scheduler=rr", "--kubeconfig=" + kubeconfig, "--hostname-override=" + peerNode, "--cluster-cidr=10.244.0.0/16",
		"--ipvs-sync-period=1h", "--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s", "--v=2"}
	if p.eager {
		flags = append(flags, "--ipvs-min-sync-period=0s")
	}
	return p.launch(h, exec.Command(*args.Proxy, flags...))
}

// endpoints are those that services[i], or all, shall have.
func (p *proxy) endpoints(i int) cluster.Services {
	s := cluster.Services{Namespace: peerNamespace, First: i, Last: i + 1, Endpoints: texts(p.servers(i))}
	if i == everyService {
		s.First, s.Last = 0, p.count
	}
	return s
}

// join has one EndpointSlice changed from here. All are changed on the host, by many
// requests at the same time.
func (p *proxy) join(i int, _ netip.Addr) func() {
	s := p.endpoints(i)
	set := p.admin.SetEndpoints
	if i == everyService {
		set = p.control.SetEndpoints
	}
	return func() {
		if err := set(p.Context(), s); err != nil {
			p.Error(err)
		}
	}
}
