// What churns in a soak: the cluster, the configuration, the nodes, and other programs on
// the director. Each method that changes an input returns how many changes that were.

package director

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"lvs-controller/test/lab"
)

const (
	soakNodes   = 30
	soakPorts   = 600   // of which each can be in the ConfigMap
	soakStatic  = 20    // of the VIP with one mark, of which each can be in config.toml
	soakServing = 10    // pods that are ready at any time, and half as many whose probes pass
	soakFirst   = 9000  // of soakPorts
	soakMarked  = 20000 // of soakStatic
	soakForeign = "10.0.0.200"
)

// soak is a director whose inputs change all the time.
type soak struct {
	*rig
	random  *rand.Rand
	nodes   *lab.Host
	healthy [soakNodes]atomic.Bool // what a node's probes are answered
	state   [soakNodes]podState
	born    [soakNodes]int // which pod of that node it is
	ports   map[int]bool   // of the ConfigMap
	marked  map[int]bool   // of config.toml
	mail    mailSettings
	foreign map[int]bool // services of another program
	done    map[string]int
	log     string // file
	lives   int    // of the process
	said    map[string]int
}

// podState is the state of the pod on a node.
type podState int

const (
	podAbsent podState = iota
	podReady
	podNotReady
	podTerminating
	podStates
)

// mailSettings are of the VIP with one mark.
type mailSettings struct {
	scheduler string
	weight    int
	persists  bool
}

func (s *soak) address(node int) string { return fmt.Sprintf("10.0.0.%d", 11+node) }

// newSoak makes the hosts. The nodes share a namespace: what they do beside their answers
// to probes does not matter here.
func newSoak(r *rig, seed uint64) *soak {
	s := &soak{
		rig: r, random: rand.New(rand.NewPCG(seed, 0)), nodes: r.lab.Host("nodes", 11),
		ports: make(map[int]bool), marked: map[int]bool{soakMarked: true}, foreign: make(map[int]bool),
		mail: mailSettings{scheduler: "rr", weight: 1}, done: make(map[string]int), said: make(map[string]int),
		log: filepath.Join(r.dir, "log"),
	}
	for n := 1; n < soakNodes; n++ {
		s.nodes.Batch(fmt.Sprintf("addr add %s/24 dev eth0", s.address(n)))
	}
	for n := range s.state {
		s.healthy[n].Store(true)
		s.state[n] = podReady
	}
	s.nodes.Serve(80)
	s.serveProbes()
	s.nodes.Run(controller(), "realserver", "-vip", "10.0.0.100,10.0.0.101", "-uplink", "eth0", "-state", filepath.Join(r.dir, "nodes.json"))
	return s
}

// serveProbes answers at the port of ingress-nginx, as each node's health says.
func (s *soak) serveProbes() {
	var (
		listener net.Listener
		err      error
	)
	s.nodes.Do(func() { listener, err = net.Listen("tcp", ":10254") })
	lab.Must(s.T, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at, err := netip.ParseAddrPort(r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
		if err != nil {
			panic(err)
		}
		node := int(at.Addr().Unmap().As4()[3]) - 11
		if node < 0 || node >= soakNodes || !s.healthy[node].Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})}
	go server.Serve(listener)
	s.Cleanup(func() { server.Close() })
}

// run starts the controller. Its log goes to a file, which is emptied now and then.
func (s *soak) run() {
	s.lives++
	s.process = s.director.Start("sh", "-c", `exec "$0" "$@" >>"$LOG" 2>&1`, controller(), "-config", filepath.Join(s.dir, "config.toml"))
}

// serving counts the pods that are ready, and those of them whose probes pass.
func (s *soak) serving() (ready, healthy int) {
	for n, state := range s.state {
		if state == podReady {
			ready++
			if s.healthy[n].Load() {
				healthy++
			}
		}
	}
	return ready, healthy
}

// movePods changes the pods of some nodes.
func (s *soak) movePods(share float64) (changes int) {
	for n := range s.state {
		if s.random.Float64() >= share {
			continue
		}
		next := podState(s.random.IntN(int(podStates)))
		ready, healthy := s.serving()
		if next == s.state[n] || s.state[n] == podReady && (ready <= soakServing || s.healthy[n].Load() && healthy <= soakServing/2) {
			continue
		}
		if s.state[n] == podAbsent || s.state[n] == podTerminating {
			s.born[n]++ // a pod does not come back from there: this is another one
		}
		s.state[n] = next
		changes++
	}
	return changes
}

// movePorts adds and removes entries of the ConfigMap.
func (s *soak) movePorts(share float64) (changes int) {
	return s.toggle(s.ports, soakFirst, soakPorts, share)
}

// toggle changes which of n numbers from first on are in set.
func (s *soak) toggle(set map[int]bool, first, n int, share float64) (changes int) {
	for p := first; p < first+n; p++ {
		if s.random.Float64() < share {
			changes++
			if set[p] {
				delete(set, p)
			} else {
				set[p] = true
			}
		}
	}
	return changes
}

// failProbes changes what nodes answer to probes.
func (s *soak) failProbes(share float64) (changes int) {
	for n := range s.state {
		if s.random.Float64() >= share {
			continue
		}
		_, healthy := s.serving()
		if was := s.healthy[n].Load(); !was || s.state[n] != podReady || healthy > soakServing/2 {
			s.healthy[n].Store(!was)
			changes++
		}
	}
	return changes
}

// editConfig changes keys of the VIP with one mark.
func (s *soak) editConfig() (changes int) {
	changes = s.toggle(s.marked, soakMarked+1, soakStatic-1, 0.1) // its first port stays
	before := s.mail
	switch s.random.IntN(3) {
	case 0:
		s.mail.scheduler = []string{"rr", "wrr", "lc"}[s.random.IntN(3)]
	case 1:
		s.mail.weight = 1 + s.random.IntN(3)
	case 2:
		s.mail.persists = !s.mail.persists
	}
	if s.mail != before {
		changes++
	}
	return changes
}

// putInputs writes both files.
func (s *soak) putInputs() {
	s.putCluster()
	s.putConfig()
}

func (s *soak) putCluster() {
	s.objects.pods = s.objects.pods[:0]
	for n, state := range s.state {
		if state != podAbsent {
			s.objects.pods = append(s.objects.pods, pod{
				name: fmt.Sprintf("n%d-%d", n, s.born[n]), node: fmt.Sprint("n", n), ips: []string{s.address(n)},
				notReady: state == podNotReady, terminating: state == podTerminating,
			})
		}
	}
	s.objects.tcp = make(map[string]string, len(s.ports))
	for p := range s.ports {
		s.objects.tcp[fmt.Sprint(p)] = "default/db:5432"
	}
	s.writeCluster()
}

func (s *soak) putConfig() {
	const probes = "[vip.health]\ninterval = \"1s\"\n[vip.health.http]\n[vip.drain]\ntimeout = \"1s\"\n"
	var ports []string
	for _, p := range slices.Sorted(maps.Keys(s.marked)) {
		ports = append(ports, fmt.Sprint(p))
	}
	mail := fmt.Sprintf("ports = [%s]\nscheduler = %q\nweight = %d\n", strings.Join(ports, ", "), s.mail.scheduler, s.mail.weight)
	persistence := ""
	if s.mail.persists {
		persistence = "[vip.persistence]\ntimeout = \"5m\"\n"
	}
	s.write("config.toml", s.configHead()+"\n[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.100\"]\nscheduler = \"wrr\"\nannounce = \"arp\"\nports = [80]\ntcp_services = \"tcp-services\"\nremoval_brake = 0\n"+probes+
		"\n[[vip]]\nname = \"mail\"\naddresses = [\"10.0.0.101\"]\none_mark = true\nnotrack = true\nremoval_brake = 0\n"+mail+persistence+probes)
}

// otherPrograms adds and removes services of another program with ipvsadm.
func (s *soak) otherPrograms() (changes int) {
	var lines []string
	for range 10 {
		p := 1 + s.random.IntN(50)
		if s.foreign[p] {
			lines = append(lines, fmt.Sprintf("-D -t %s:%d", soakForeign, p))
			delete(s.foreign, p)
		} else {
			lines = append(lines, fmt.Sprintf("-A -t %s:%d -s rr", soakForeign, p))
			s.foreign[p] = true
		}
	}
	s.ipvsadm(lines)
	return len(lines)
}

// meddle changes with ipvsadm what is the controller's. A line about a row that is not
// there at the moment changes nothing, and does not count.
func (s *soak) meddle() (changes int) {
	table := strings.Split(strings.TrimSpace(s.director.Table()), "\n")
	var lines []string
	for range 5 {
		line := table[s.random.IntN(len(table))]
		if strings.Contains(line, soakForeign) {
			continue
		}
		switch {
		case strings.HasPrefix(line, "-A"):
			line, _, _ = strings.Cut(strings.Replace(line, "-A", "-D", 1), " -s ")
		case s.random.IntN(2) == 0:
			line = strings.Replace(line, "-a", "-e", 1) + "0" // ten times its weight
		default:
			line, _, _ = strings.Cut(strings.Replace(line, "-a", "-d", 1), " -g ")
		}
		lines = append(lines, line)
	}
	for _, line := range lines {
		if _, err := s.director.Try(append([]string{"ipvsadm"}, strings.Fields(line)...)...); err == nil {
			changes++
		}
	}
	return changes
}

// ipvsadm carries out lines, all of them.
func (s *soak) ipvsadm(lines []string) {
	s.Helper()
	c := s.director.Command("ipvsadm", "-R")
	c.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := c.CombinedOutput(); err != nil {
		s.Fatalf("ipvsadm -R: %v: %s\n%s", err, out, strings.Join(lines, "\n"))
	}
}
