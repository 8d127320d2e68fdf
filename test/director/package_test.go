// The packages for Debian, installed, updated under load and removed, in the files of a
// whole Debian: its dpkg runs the scripts, and its systemd the service.

package director

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/lab"
)

// packageSize is how much load the updates get, and how many there are at least. -size
// says which.
type packageSize struct{ workers, requests, updates int }

var packageSizes = map[string]packageSize{
	"short": {workers: 2, requests: 300, updates: 2},
	"long":  {workers: 4, requests: 10000, updates: 6},
}

// An update of the package loses no request and no open connection, and after it the new
// version runs. So it is with the end of the service, a removal and a purge: the kernel
// goes on. What docs/releases.md says removes the rest does so.
func TestPackageUpgrade(t *testing.T) {
	p := newPackaged(t)
	size, known := packageSizes[*args.Size]
	if !known {
		t.Fatalf("-size %q is not short or long", *args.Size)
	}

	t.Log("step: install, configure, enable")
	p.dpkg("-i " + p.files[0])
	p.next = 1
	if out, _ := p.try("systemctl is-enabled lvs-controller || true; systemctl is-active lvs-controller"); out != "disabled\ninactive\n" {
		t.Errorf("after the installation the service is %q, want disabled and inactive", out)
	}
	p.configured()
	p.pods(1, 1)
	p.addresses = p.director.Start("ip", "monitor", "address")
	p.run("systemctl enable --now lvs-controller")
	p.active("start")
	p.holds("start", 1, 1)
	if got := p.client.Curl(4, "http://10.0.0.100/"); got["node11"] != 2 || got["node12"] != 2 {
		t.Errorf("answers %v, want 2 of each node", got)
	}

	t.Log("step: updates to the new version and back, under load")
	p.openTo("node12")
	load := p.client.StartLoad(p.vip, size.workers, 40*time.Millisecond)
	for p.updates < size.updates || load.Report().Requests < size.requests {
		p.round()
	}
	t.Logf("%d updates: %s", p.updates, load.Report())

	t.Log("step: an update with a mistake in the configuration")
	p.mistaken()

	t.Log("step: removed, the kernel goes on; installed again, the controller goes on")
	said := p.dpkg("-r lvs-controller")
	p.says("removal", said, "the kernel goes on forwarding", "lvs-controller -cleanup")
	p.stopped("removed", load)
	p.dpkg("-i " + p.files[p.next])
	p.next = 1 - p.next
	p.run("systemctl start lvs-controller")
	p.active("installed again")
	p.pods(1, 1, 1)
	p.holds("installed again", 1, 1, 1)
	p.goOn("installed again")

	t.Log("step: purged, the kernel goes on; another installation takes the table over")
	said = p.dpkg("-P lvs-controller")
	p.says("purge", said, "the kernel still forwards", "ipvsadm -Ln", "ip address show")
	p.run("! test -e /run/lvs-controller && ! test -e /var/lib/lvs-controller && ! test -e /etc/lvs-controller/config.toml && ! test -e /usr/sbin/lvs-controller")
	p.stopped("purged", load)
	p.holds("purged", 1, 1, 1)
	p.dpkg("-i " + p.files[p.next])
	p.configured()
	p.pods(1, 1, 1)
	p.run("systemctl enable --now lvs-controller")
	p.active("installed after a purge")
	p.holds("installed after a purge", 1, 1, 1)
	p.goOn("installed after a purge")
	p.keeps("the end")

	report := load.Stop()
	t.Logf("PACKAGE: %d of %d requests failed and 0 of %d open connections were lost in %d updates, a removal and a purge; %s",
		report.Failed(), report.Requests, len(p.streams), p.updates, report)
	if report.Failed() > 0 || report.Requests < size.requests {
		t.Errorf("%s\n%v", report, report.Faults)
	}

	t.Log("step: the documented end")
	p.run("systemctl stop lvs-controller && lvs-controller -config /etc/lvs-controller/config.toml -cleanup")
	p.dpkg("-P lvs-controller")
	if table := p.director.Table(); table != "" {
		t.Errorf("after -cleanup:\n%s", table)
	}
	if has := p.director.Run("ip", "address", "show", "dev", "eth0"); strings.Contains(has, "10.0.0.100") {
		t.Errorf("after -cleanup:\n%s", has)
	}
}

// round is one update, during which one pod becomes ready and another one not.
func (p *packaged) round() {
	p.Helper()
	weights := []int{1, 0, 1}
	if p.updates%2 == 1 {
		weights = []int{1, 1, 0}
	}
	was, _ := p.versions()
	// At times the change comes before the restart, at times while no process runs or after it.
	pause := time.Duration(p.updates%10) * 500 * time.Millisecond
	p.update(func() {
		time.Sleep(pause)
		p.pods(weights...)
	})
	when := fmt.Sprintf("update %d", p.updates)
	p.active(when)
	if now, _ := p.versions(); now == was {
		p.Errorf("%s: the process is of the version before it, %s", when, now)
	}
	p.holds(when, weights...)
	p.keeps(when)
	p.goOn(when)
	if p.updates == 1 {
		p.openTo("node13")
	}
}

// mistaken is an update with a mistake in config.toml: the old process goes on until the
// mistake is mended.
func (p *packaged) mistaken() {
	p.Helper()
	was, _ := p.versions()
	pid := p.property("MainPID")
	p.run("cp /etc/lvs-controller/config.toml /root/ && echo no_such_key = 1 >>/etc/lvs-controller/config.toml")
	said := p.update(func() {})
	p.says("a mistake", said, "does not accept config.toml", "no_such_key", "systemctl restart lvs-controller")
	process, file := p.versions()
	if now := p.property("MainPID"); now != pid || process != was || file == was {
		p.Errorf("with a mistake in config.toml the process is %s, was %s; its version %swas %sinstalled is %s", now, pid, process, was, file)
	}
	if state := p.property("ActiveState"); state != "active" {
		p.Errorf("with a mistake in config.toml the service is %s", state)
	}
	p.pods(1, 1, 1)
	p.holds("a mistake", 1, 1, 1)
	p.run("cp /root/config.toml /etc/lvs-controller/ && systemctl restart lvs-controller")
	p.active("the mistake is mended")
	p.holds("the mistake is mended", 1, 1, 1)
	p.goOn("the mistake is mended")
}

// stopped sees that the service has ended and that clients are served all the same.
func (p *packaged) stopped(when string, load *lab.Load) {
	p.Helper()
	if out, _ := p.try("pgrep -x lvs-controller || true; systemctl is-active lvs-controller"); out != "inactive\n" {
		p.Errorf("%s: the service is %s", when, out)
	}
	before := load.Report()
	p.goOn(when)
	lab.Within(p.pair.T, time.Minute, func() string {
		if now := load.Report(); now.Requests < before.Requests+100 {
			return fmt.Sprintf("%s: %s, after %s", when, now, before)
		}
		return ""
	})
	p.keeps(when)
}
