// The rig of the test of the packages: a director with the files of a Debian of its own,
// whose dpkg and systemd are the true ones, before three nodes and a client.

package director

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/args"
	"lvs-controller/test/lab"
)

// debianFiles unpacks the tar $0 and makes it the root of everything: systemd and dpkg know
// no other. The folder $1 has the packages. A container has neither devices nor a /sys to
// write to, so that there is no udev. What a timer would start, no test waits for.
const debianFiles = `
mkdir system
mount -t tmpfs -o mode=0755 system system
tar -x -p -f "$0" -C system
cp -r "$1" system/packages
mount -t proc proc system/proc
mount -t sysfs -o ro sysfs system/sys
mount -t cgroup2 none system/sys/fs/cgroup
mount -t tmpfs -o mode=0755 dev system/dev
while read -r name major minor; do
	mknod -m 0666 system/dev/$name c $major $minor
done <<END
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
END
ln -s /proc/self/fd system/dev/fd
ln -s pts/ptmx system/dev/ptmx
for u in timers.target systemd-sysctl.service systemd-modules-load.service; do
	ln -s /dev/null system/etc/systemd/system/$u
done
echo 00000000000000000000000000000001 >system/etc/machine-id
touch ready
cd system
mount --move . /
exec chroot . env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=basic.target --show-status=no
`

// packaged is a director that has its controller from a package.
type packaged struct {
	*systemd
	*pair                  // the client and its open connections
	files     [2]string    // the packages, old and new
	next      int          // which of them the next update installs
	addresses *lab.Process // says which address comes or goes
	starts    int          // how often the service has been started
	updates   int          // how often a package has been installed over the other one
}

// newPackaged makes the network and starts systemd. No package is installed.
func newPackaged(t *testing.T) *packaged {
	r := newRigOf(t, "package")
	if *args.System == "" || *args.Debs == "" {
		t.Fatal("-group package needs -system and -packages")
	}
	vip := netip.MustParseAddrPort("10.0.0.100:80")
	p := &packaged{pair: &pair{T: t, client: r.lab.Host("client", 3), vip: vip}}
	for i, name := range []string{"old", "new"} {
		found, err := filepath.Glob(filepath.Join(*args.Debs, name, "*.deb"))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s of -packages has %q, want one package: %v", name, found, err)
		}
		p.files[i] = filepath.Join("/packages", name, filepath.Base(found[0]))
	}
	for n := range 3 {
		node := r.lab.Host("node"+strconv.Itoa(11+n), 11+n)
		node.Serve(80, 443, 10254)
		node.Run(controller(), "realserver", "-vip", vip.Addr().String(), "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
	}
	p.systemd = startMachine(r, "lvs-controller", debianFiles, *args.System, *args.Debs)
	// From here on the rig's files are those that the controller of the package reads.
	r.dir = fmt.Sprintf("/proc/%s/root/etc/lvs-controller", p.pid)
	return p
}

// dpkg runs it, and returns what it and the packages say.
func (p *packaged) dpkg(arguments string) string {
	p.Helper()
	return p.run("export DEBIAN_FRONTEND=noninteractive; exec dpkg " + arguments + " 2>&1")
}

// update installs the other package over the one that is there, and meanwhile does
// something else. It returns what dpkg says.
func (p *packaged) update(meanwhile func()) string {
	p.Helper()
	type result struct {
		said string
		err  error
	}
	done := make(chan result, 1)
	line := "export DEBIAN_FRONTEND=noninteractive; exec dpkg -i --force-downgrade " + p.files[p.next] + " 2>&1"
	go func() {
		said, err := p.try(line)
		done <- result{said, err}
	}()
	meanwhile()
	r := <-done
	if r.err != nil {
		p.Fatalf("dpkg: %v\n%s\n%s", r.err, r.said, p.written())
	}
	p.next = 1 - p.next
	p.updates++
	return r.said
}

// versions are those of the process that runs and of the file that is installed.
func (p *packaged) versions() (process, file string) {
	p.Helper()
	return p.run("/proc/" + p.property("MainPID") + "/exe version"), p.run("/usr/sbin/lvs-controller version")
}

// active sees that the service runs, that its process is of the installed version, and that
// it was started once more than before, by an order.
func (p *packaged) active(when string) {
	p.Helper()
	p.starts++
	if state := p.property("ActiveState") + " " + p.property("SubState") + " " + p.property("NRestarts"); state != "active running 0" {
		p.Errorf("%s: the service is %s, want active running 0\n%s", when, state, p.written())
	}
	// SD_MESSAGE_UNIT_STARTED of systemd.
	started := p.run("journalctl --sync; journalctl --quiet --output=cat UNIT=lvs-controller.service MESSAGE_ID=39f53479d3a045ac8e11786248231fbf | wc -l")
	if strings.TrimSpace(started) != strconv.Itoa(p.starts) {
		p.Errorf("%s: the service was started %s times, want %d\n%s", when, strings.TrimSpace(started), p.starts, p.written())
	}
	if process, file := p.versions(); process != file {
		p.Errorf("%s: the process is %swant %s", when, process, file)
	}
}

// pods gives the nodes' pods these weights: 1 ready, 0 not ready, -1 not there.
func (p *packaged) pods(weights ...int) {
	p.Helper()
	p.objects.pods = nil
	for i, weight := range weights {
		name := "node" + strconv.Itoa(11+i)
		if weight >= 0 {
			p.objects.pods = append(p.objects.pods, pod{name: name, node: name, ips: []string{p.systemd.lab.Find(name).IPv4.String()}, notReady: weight == 0})
		}
	}
	p.writeCluster()
}

// holds waits until the kernel's table is exactly that of these weights, on both ports.
func (p *packaged) holds(when string, weights ...int) {
	p.Helper()
	var lines []string
	for _, port := range []int{80, 443} {
		lines = append(lines, fmt.Sprintf("-A -t 10.0.0.100:%d -s rr", port))
		for i, weight := range weights {
			if weight >= 0 {
				lines = append(lines, fmt.Sprintf("-a -t 10.0.0.100:%d -r 10.0.0.%d:%d -g -w %d", port, 11+i, port, weight))
			}
		}
	}
	want := lab.SortTable(strings.Join(lines, "\n"))
	lab.Within(p.pair.T, time.Minute, func() string {
		if got := p.director.Table(); got != want {
			return fmt.Sprintf("%s: ipvsadm -Sn (-want +got):\n%s\n%s", when, cmp.Diff(want, got), p.written())
		}
		return ""
	})
}

// openTo opens connections to both ports until a node has one from each.
func (p *packaged) openTo(node string) {
	p.Helper()
	vip := p.vip
	defer func() { p.vip = vip }()
	for _, port := range []uint16{80, 443} {
		p.vip = netip.AddrPortFrom(vip.Addr(), port)
		before := len(p.streams)
		lab.Within(p.pair.T, time.Minute, func() string {
			p.open(2)
			if !slices.ContainsFunc(p.streams[before:], func(s *lab.Stream) bool {
				from, _, _ := s.State()
				return from == node
			}) {
				return "no connection to port " + strconv.Itoa(int(port)) + " comes to " + node
			}
			return ""
		})
	}
}

// keeps sees that the VIP has never left the device.
func (p *packaged) keeps(when string) {
	p.Helper()
	if said := p.addresses.Log(); strings.Contains(said, "Deleted") {
		p.Errorf("%s: an address left the device:\n%s", when, said)
	}
	if has := p.director.Run("ip", "address", "show", "dev", "eth0"); !strings.Contains(has, "inet 10.0.0.100/32") {
		p.Errorf("%s: the VIP is not on the device:\n%s", when, has)
	}
}

// configured writes config.toml with init, as the package asks for, and has the cluster come
// from a file: there is no API server.
func (p *packaged) configured() {
	p.Helper()
	p.run("lvs-controller init -vip 10.0.0.100 -interface eth0 -announce arp && " +
		"sed -i 's|^kubeconfig = .*|cluster_file = \"cluster.json\"|' /etc/lvs-controller/config.toml && lvs-controller check")
}

// says fails unless a text has each of the words.
func (p *packaged) says(when, text string, words ...string) {
	p.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			p.Errorf("%s: no %q in:\n%s", when, word, text)
		}
	}
}
