// The sub-command doctor on real kernels: it finds what is wrong, changes nothing, and
// the commands that it prints mend it.

package director

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// doctor is a host to examine, with a directory that each user may read.
type doctor struct {
	*testing.T
	host   *lab.Host
	dir    string
	binary string
}

func newDoctor(t *testing.T, host *lab.Host) *doctor {
	t.Helper()
	dir, err := os.MkdirTemp("", "lvs-doctor-")
	lab.Must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	lab.Must(t, os.Chmod(dir, 0o755))
	binary, err := os.ReadFile(controller())
	lab.Must(t, err)
	d := &doctor{t, host, dir, filepath.Join(dir, "lvs-controller")}
	lab.Must(t, os.WriteFile(d.binary, binary, 0o755))
	return d
}

// examine runs doctor as of a director for a device, behind the words of before.
func (d *doctor) examine(device string, before ...string) (code int, text string) {
	d.Helper()
	config := filepath.Join(d.dir, "config.toml")
	lab.Must(d.T, os.WriteFile(config, fmt.Appendf(nil, "interface = %q\n[[vip]]\nname = \"a\"\naddresses = [\"10.0.0.100\"]\nports = [80]\n", device), 0o644))
	code, text, stderr := answer(d.T, d.host.Command(append(before, d.binary, "doctor", "-role", "director", "-config", config)...))
	if stderr != "" {
		d.Errorf("doctor prints on stderr: %s", stderr)
	}
	return code, text
}

// wants looks for lines in text.
func (d *doctor) wants(text string, lines ...string) {
	d.Helper()
	for _, line := range lines {
		if !strings.Contains(text, line+"\n") {
			d.Fatalf("there is no line %q in:\n%s", line, text)
		}
	}
}

// commands are those of the findings of one check.
func commandsOf(check, text string) (commands []string) {
	ours := false
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, " ") {
			ours = strings.HasPrefix(line[min(6, len(line)):], check+" ")
		} else if ours {
			commands = append(commands, strings.TrimSpace(line))
		}
	}
	return commands
}

func TestHostDoctor(t *testing.T) {
	of(t, "host")
	requireRoot(t)
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	d := newDoctor(t, l.Namespace("director"))
	d.host.Run("ip", "link", "add", "up0", "numrxqueues", "4", "numtxqueues", "4", "type", "veth", "peer", "name", "end0")
	// With IPv6 the ends would send packets, which the rings count.
	d.host.Run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/up0/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/end0/disable_ipv6")
	d.host.Run("ip", "link", "set", "up0", "up")
	d.host.Run("ip", "link", "set", "end0", "up")
	d.host.Run("ip", "tuntap", "add", "tap0", "mode", "tap", "multi_queue")
	d.host.Run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/send_redirects; echo 1 > /proc/sys/net/ipv4/conf/up0/send_redirects")
	cpus := runtime.NumCPU()

	code, text := d.examine("up0")
	d.wants(text, "OK    configuration     "+filepath.Join(d.dir, "config.toml")+" is valid", "OK    uplink            up0",
		fmt.Sprintf("OK    receive queues    up0: 4 queues, RPS off: %d of %d CPUs take packets", min(4, cpus), cpus),
		"OK    send queues       up0: 4 queues, XPS off", "OK    LRO               up0: off",
		`WARN  kernel settings   net/ipv4/conf/up0/send_redirects is "1", want "0"`)
	if code != 1 || !strings.Contains(text, "\nFAIL  VIP               10.0.0.100 of a is on no device of this host, and no other host answers for it\n") || strings.Count(text, "\nFAIL") != 1 {
		t.Errorf("exit code %d, and not the VIP alone fails:\n%s", code, text)
	}
	if _, again := d.examine("up0"); commandsOf("kernel settings", again) == nil {
		t.Errorf("doctor changed a setting:\n%s", again)
	}
	asUser := []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"}
	userCode, userText := d.examine("up0", asUser...)
	d.wants(userText, "WARN  rights            without CAP_NET_RAW: other hosts are not asked for the VIPs, nor nodes over the data path")
	if withoutRights(userText) != withoutRights(text) || userCode != 0 {
		t.Errorf("as another user: exit code %d\n%sas root:\n%s", userCode, userText, text)
	}
	for _, command := range commandsOf("kernel settings", text) {
		d.host.Run("sh", "-c", command)
	}
	_, text = d.examine("up0")
	if commands := commandsOf("kernel settings", text); commands != nil {
		t.Errorf("the commands do not mend the kernel settings:\n%s", text)
	}

	if code, text = d.examine("gone0"); code != 1 {
		t.Errorf("exit code %d without the uplink", code)
	}
	d.wants(text, "FAIL  uplink            there is no device gone0")
	_, text = d.examine("tap0")
	d.wants(text, "OK    GRO               tap0: on")
	if cpus == 1 {
		return // one queue is enough
	}
	d.wants(text, fmt.Sprintf("WARN  receive queues    tap0: 1 queue, RPS off: 1 of %d CPUs take packets", cpus))
	for _, command := range commandsOf("receive queues", text) {
		if command, is := strings.CutPrefix(command, "# where the driver refuses: "); is || strings.HasPrefix(command, "for ") {
			d.host.Run("sh", "-c", command)
		}
	}
	_, text = d.examine("tap0")
	d.wants(text, fmt.Sprintf("OK    receive queues    tap0: 1 queue, RPS to %d CPUs: %[1]d of %[1]d CPUs take packets", cpus))
}

// withoutRights leaves out what changes by itself, what the segment is asked for, and
// the sum.
func withoutRights(text string) string {
	var kept []string
	ours := false
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, " ") {
			ours = slices.ContainsFunc([]string{"budget ", "backlog ", "directories ", "rights ", "VIP "}, func(check string) bool {
				return strings.HasPrefix(line[min(6, len(line)):], check)
			})
		}
		if !ours && !strings.Contains(line, " OK, ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// A connection table that is too small, with the command that mends it; and the cards
// below a VLAN over a bond.
func TestKernelDoctor(t *testing.T) {
	r := newRig(t)
	d := newDoctor(t, r.director)
	const file = "/etc/modprobe.d/lvs-controller.conf"
	before, err := os.ReadFile(file)
	lab.Must(t, err)
	load := func(parameters string) {
		t.Helper()
		// The kernel takes a namespace down some time after its end, with the services in it.
		lab.Within(t, time.Minute, func() string {
			if out, err := r.director.Try("sh", "-c", "modprobe -r $(lsmod | awk '/^ip_vs_/ { print $1 }') ip_vs"); err != nil {
				return out + err.Error()
			}
			return ""
		})
		r.director.Run("sh", "-c", "modprobe ip_vs "+parameters)
	}
	t.Cleanup(func() {
		lab.Must(t, os.WriteFile(file, before, 0o644))
		load("")
	})
	lab.Must(t, os.Remove(file))
	load("conn_tab_bits=12")
	code, text := d.examine("eth0")
	d.wants(text, "OK    uplink            eth0")
	if !strings.Contains(text, "\nWARN  connection table  2^12 buckets") {
		t.Fatalf("exit code %d, a table of 2^12 buckets:\n%s", code, text)
	}
	commands := commandsOf("connection table", text)
	if len(commands) != 2 || !strings.HasPrefix(commands[0], "echo 'options ip_vs conn_tab_bits=") {
		t.Fatalf("commands %q", commands)
	}
	r.director.Run("sh", "-c", commands[0])
	load("")
	if _, text = d.examine("eth0"); !strings.Contains(text, "\nOK    connection table  2^") {
		t.Errorf("after %s\n%s", commands[0], text)
	}

	r.director.Run("ip", "link", "add", "bond0", "type", "bond")
	for _, card := range []string{"c0", "c1"} {
		r.director.Run("ip", "link", "add", card, "type", "veth", "peer", "name", card+"-end")
		r.director.Run("ip", "link", "set", card, "master", "bond0")
	}
	r.director.Run("ip", "link", "add", "link", "bond0", "name", "bond0.7", "type", "vlan", "id", "7")
	for _, device := range []string{"c0-end", "c1-end", "c0", "c1", "bond0", "bond0.7"} {
		r.director.Run("ip", "link", "set", device, "up")
	}
	_, text = d.examine("bond0.7")
	d.wants(text, "OK    uplink            bond0.7, over bond0, c0, c1", "OK    LRO               bond0: off", "OK    LRO               c1: off",
		"WARN  GRO               c1: off: each packet of an upload passes IPVS alone")
	if strings.Contains(text, "GRO               bond0:") {
		t.Errorf("a bond counts as a card:\n%s", text)
	}
}
