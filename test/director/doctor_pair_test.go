// The sub-command doctor on a pair of directors and its nodes, on a real kernel: what it
// warns of on a healthy pair is mended by the commands that it prints, and what is broken
// then is found.

package director

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lvs-controller/test/lab"
)

// doctored is what doctor finds on a host, and its exit code.
func doctored(t *testing.T, host *lab.Host, args ...string) (code int, text string) {
	t.Helper()
	began := time.Now()
	code, text, stderr := answer(t, host.Command(append([]string{controller(), "doctor"}, args...)...))
	if took := time.Since(began); stderr != "" || took > 30*time.Second {
		t.Errorf("doctor takes %s, and prints on stderr: %s", took, stderr)
	}
	return code, text
}

// complaints are the lines of text that are not OK, each with its commands, by check.
func complaints(text string) map[string][]string {
	found := make(map[string][]string)
	check := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "WARN  ") || strings.HasPrefix(line, "FAIL  "):
			check = strings.TrimSpace(line[6:22])
			found[check] = append(found[check], line)
		case !strings.HasPrefix(line, " "):
			check = ""
		case check != "":
			found[check] = append(found[check], strings.TrimSpace(line))
		}
	}
	return found
}

// carryOut runs the commands of one check. lvs-controller is the binary under test. Where a
// driver refuses a command, the next one in the remarks does it.
func carryOut(t *testing.T, host *lab.Host, lines []string) {
	t.Helper()
	refused := ""
	for _, line := range lines {
		if other, is := strings.CutPrefix(line, "# where the driver refuses: "); is && refused != "" {
			line, refused = other, ""
		}
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "WARN  ") || strings.HasPrefix(line, "FAIL  ") {
			continue
		}
		if refused != "" {
			break
		}
		if out, err := host.Try("sh", "-c", strings.ReplaceAll(line, "lvs-controller ", controller()+" ")); err != nil {
			refused = line + ": " + err.Error() + ": " + out
		}
	}
	if refused != "" {
		t.Fatalf("on %s a command fails: %s", host.Name, refused)
	}
}

// keepClock does what a time daemon does: it tells the kernel that the clock is right.
func keepClock(t *testing.T) {
	t.Helper()
	change := unix.Timex{Modes: unix.ADJ_STATUS | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR, Status: unix.STA_PLL, Maxerror: 1000, Esterror: 1000}
	if _, err := unix.Adjtimex(&change); err != nil {
		t.Fatal(err)
	}
}

func TestKernelDoctorPair(t *testing.T) {
	p := newPair(t)
	one, two := p.one, p.two
	for _, m := range []*twin{one, two} {
		m.write("config.toml", strings.Replace(m.read("config.toml"), `listen = "127.0.0.1:9652"`, `listen = "0.0.0.0:9652"`, 1))
		m.logged(1, "the configuration is reloaded")
	}
	// A machine that stands still for a while must not look like a director that dies.
	patient := []string{"-interval", "1s"}
	p.elect(patient, patient)
	const file = "/etc/keepalived/keepalived.conf"
	lab.Must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	lab.Must(t, os.WriteFile(file, []byte(one.read("keepalived.conf")), 0o600))
	t.Cleanup(func() { os.Remove(file) })
	examine := func(m *twin) (int, string) {
		return doctored(t, m.director, "-role", "director", "-config", filepath.Join(m.dir, "config.toml"), "-peer", m.peer.director.IPv4.String())
	}

	t.Log("step: what a virtual machine lacks is mended by the commands; then the pair is healthy")
	for _, m := range []*twin{one, two} {
		mended := make(map[string]bool)
		lab.Within(t, 60*time.Second, func() string { // an emulated machine does not answer each question in time
			code, text := examine(m)
			for check, lines := range complaints(text) {
				switch {
				case check == "peer" || check == "peer table" || mended[check]:
				case check == "clock":
					keepClock(t)
				default:
					t.Logf("%s: %s", m.director.Name, strings.Join(lines, "\n  "))
					mended[check] = true
					carryOut(t, m.director, lines)
				}
			}
			if code != 0 || !strings.Contains(text, " OK, 0 WARN, 0 FAIL\n") {
				return fmt.Sprintf("%s is healthy, and doctor says %d:\n%s", m.director.Name, code, text)
			}
			return ""
		})
	}

	t.Log("step: each thing that breaks is found, and the commands mend it")
	route := strings.TrimSpace(one.director.Run("ip", "route", "show", "default"))
	node := func(n string) *lab.Host { return one.lab.Find("node" + n) }
	for _, tt := range []struct {
		name, check, level, says string
		on                       *twin // that is examined
		broken, mend             func()
		mends                    *lab.Host // where the printed commands mend it; nil: mend does
	}{
		{name: "a node without the VIP", check: "nodes", level: "FAIL", says: "at the node 10.0.0.11", on: one, mends: node("11"),
			broken: func() { node("11").Run("ip", "address", "del", "10.0.0.100/32", "dev", "lo") }},
		{name: "a node that answers ARP", check: "VIP conflict", level: "FAIL", says: "a real server that answers ARP", on: one, mends: node("12"),
			broken: func() { node("12").Run("sysctl", "-w", "net/ipv4/conf/eth0/arp_ignore=0") }},
		{name: "two directors with the VIP", check: "VIP conflict", level: "FAIL", says: "two directors have the VIP", on: two,
			broken: func() { two.director.Run("ip", "address", "add", "10.0.0.100/32", "dev", "eth0") },
			mend:   func() { two.director.Run("ip", "address", "del", "10.0.0.100/32", "dev", "eth0") }},
		{name: "a real server behind a router", check: "real servers", level: "FAIL", says: "10.0.0.13 of edge is behind a router", on: one,
			broken: func() { one.director.Run("ip", "route", "add", "10.0.0.13/32", "via", "10.0.0.11") },
			mend:   func() { one.director.Run("ip", "route", "del", "10.0.0.13/32") }},
		{name: "a way that is too narrow", check: "MTU", level: "WARN", says: "1400 fit by eth0 to 10.0.0.12", on: one,
			broken: func() { one.director.Run("ip", "route", "add", "10.0.0.12/32", "dev", "eth0", "mtu", "1400") },
			mend:   func() { one.director.Run("ip", "route", "del", "10.0.0.12/32") }},
		{name: "a strict filter", check: "reverse path", level: "FAIL", says: "the default route leaves by lo", on: one, mends: one.director,
			broken: func() {
				one.director.Run("sysctl", "-w", "net/ipv4/conf/eth0/rp_filter=1")
				one.director.Run("ip", "route", "replace", "default", "dev", "lo")
			},
			mend: func() { one.director.Run("sh", "-c", "ip route replace "+route) }},
		{name: "a file of settings", check: "settings files", level: "WARN", says: "/etc/sysctl.d/10-doctor.conf:1", on: one, mends: one.director,
			broken: func() {
				lab.Must(t, os.MkdirAll("/etc/sysctl.d", 0o755))
				lab.Must(t, os.WriteFile("/etc/sysctl.d/10-doctor.conf", []byte("net.ipv4.vs.conn_reuse_mode = 1\n"), 0o644))
			}},
		{name: "a keepalived.conf without a VIP", check: "keepalived", level: "FAIL", says: "lacks 2001:db8::100", on: one,
			broken: func() {
				lab.Must(t, os.WriteFile(file, []byte(strings.Replace(one.read("keepalived.conf"), "2001:db8::100", "2001:db8::101", 1)), 0o600))
			},
			mend: func() { lab.Must(t, os.WriteFile(file, []byte(one.read("keepalived.conf")), 0o600)) }},
		{name: "a service of another program", check: "IPVS owners", level: "WARN", says: "1 service of no VIP", on: one, mends: one.director,
			broken: func() { one.director.Run("ipvsadm", "-A", "-t", "10.9.9.9:80") }},
		{name: "a drained director", check: "controller", level: "WARN", says: "an operator has drained", on: one, mends: one.director,
			broken: func() { one.subcommand("drain"); time.Sleep(time.Second) }},
		{name: "a peer that is away", check: "peer", level: "FAIL", says: "does not answer", on: one,
			broken: func() { two.process.Kill() },
			mend:   func() { two.start(); two.ready("ready") }},
	} {
		tt.broken()
		var lines []string
		lab.Within(t, 30*time.Second, func() string {
			code, text := examine(tt.on)
			lines = complaints(text)[tt.check]
			if len(lines) == 0 || !strings.HasPrefix(lines[0], tt.level) || !strings.Contains(strings.Join(lines, "\n"), tt.says) || tt.level == "FAIL" && code != 1 {
				return fmt.Sprintf("%s: exit code %d, no %s of %s with %q:\n%s", tt.name, code, tt.level, tt.check, tt.says, text)
			}
			return ""
		})
		if tt.mends != nil {
			carryOut(t, tt.mends, lines)
			lab.Within(t, 20*time.Second, func() string {
				_, text := examine(tt.on)
				if lines := complaints(text)[tt.check]; lines != nil {
					return tt.name + ": the commands do not mend it: " + strings.Join(lines, "\n")
				}
				return ""
			})
		}
		if tt.mend != nil {
			tt.mend()
		}
	}

	t.Log("step: no host has the VIP")
	one.killKeepalived()
	two.killKeepalived()
	one.director.Try("ip", "address", "del", "10.0.0.100/32", "dev", "eth0")
	two.director.Try("ip", "address", "del", "10.0.0.100/32", "dev", "eth0")
	if code, text := examine(one); code != 1 || !strings.Contains(strings.Join(complaints(text)["VIP"], "\n"), "10.0.0.100 of edge is on no device of this host, and no other host answers for it\nsystemctl start keepalived") {
		t.Errorf("exit code %d:\n%s", code, text)
	}
	one.process.Kill()
	two.process.Kill()
	if _, text := examine(one); complaints(text)["controller"] == nil || complaints(text)["peer"] == nil {
		t.Errorf("with neither controller:\n%s", text)
	}

	t.Log("step: a node")
	if code, text := doctored(t, node("11"), "-role", "node", "-vip", "10.0.0.100"); code != 0 || !strings.Contains(text, " OK, 0 WARN, 0 FAIL\n") {
		t.Errorf("a prepared node: exit code %d:\n%s", code, text)
	}
	node("11").Run("sysctl", "-w", "net/ipv4/conf/eth0/arp_announce=0")
	code, text := doctored(t, node("11"), "-role", "node", "-vip", "10.0.0.100")
	if code != 1 || complaints(text)["ARP settings"] == nil {
		t.Fatalf("a node without arp_announce: exit code %d:\n%s", code, text)
	}
	carryOut(t, node("11"), complaints(text)["ARP settings"])
	if code, text := doctored(t, node("11"), "-role", "node", "-vip", "10.0.0.100"); code != 0 {
		t.Errorf("the commands do not mend it: exit code %d:\n%s", code, text)
	}
}
