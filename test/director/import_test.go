// What `import` makes of a keepalived.conf serves the table that keepalived itself makes.

package director

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// importedConf has no checkers, so that keepalived serves all its real servers.
const importedConf = `$WEB= \
    delay_loop 5 \
    lvs_sched wlc \
    lvs_method DR \
    persistence_timeout \
    persistence_granularity 255.255.255.0 \
    protocol TCP \
    real_server 10.0.0.11 80 { \
        weight 3 \
        uthreshold 1000 \
        lthreshold 10 \
    } \
    real_server 10.0.0.12 8080 { \
        uthreshold 1000 \
        lthreshold 10 \
    } \
    sorry_server 10.0.0.13 80

global_defs {
    router_id import
}

virtual_server 10.0.0.100 80 {
    $WEB
}

virtual_server 10.0.0.100 443
{
    $WEB
}

virtual_server_group farm {
    10.0.0.101-103 53
    10.0.0.104/31 53
}

virtual_server group farm {
    lb_algo sh
    sh-port
    lb_kind DR
    ops
    real_server 10.0.0.11 53 { }
    real_server 10.0.0.12 53 { weight 7 }
}

virtual_server 2001:db8::100 5000 {
    lvs_sched mh
    mh-port
    mh-fallback
    lvs_method TUN type gue port 6081 csum
    persistence_timeout 60
    persistence_granularity 64
    protocol SCTP
    real_server 2001:db8::11 5000 { }
}

virtual_server 10.0.0.110 80 {
    lb_kind TUN
    protocol TCP
    real_server 10.0.0.11 80 { }
}
`

// Real keepalived makes its table of the file; the configuration that is imported from the
// file, and the one from the table, change nothing in it.
func TestKernelImport(t *testing.T) {
	r := newRig(t)
	conf := filepath.Join(r.dir, "import.conf")
	lab.Must(t, os.WriteFile(conf, []byte(importedConf), 0o644))
	keepalived := r.director.Start("keepalived", "--check", "--dont-fork", "--log-console", "--use-file", conf,
		"--pid", filepath.Join(r.dir, "import.pid"), "--checkers_pid", filepath.Join(r.dir, "import-checkers.pid"))
	table, before := "", ""
	for deadline := time.Now().Add(time.Minute); strings.Count(table, "\n-a ") != 2*2+5*2+1+1 || table != before; before, table = table, r.director.Table() {
		if time.Now().After(deadline) {
			t.Fatalf("keepalived has made\n%s", table)
		}
		time.Sleep(250 * time.Millisecond)
	}
	defer func() {
		if t.Failed() {
			t.Logf("table\n%s\nkeepalived\n%s", r.director.Table(), keepalived.Log())
		}
	}()
	saved := filepath.Join(r.dir, "import.txt")
	lab.Must(t, os.WriteFile(saved, []byte(table), 0o644))
	for name, args := range map[string][]string{
		"keepalived.conf":    {"import", conf},
		"ipvsadm":            {"import", "-ipvsadm", saved},
		"the kernel's table": {"import", "-ipvsadm"},
	} {
		importer := r.director.Command(append([]string{controller()}, args...)...)
		var said strings.Builder
		importer.Stderr = &said
		out, err := importer.Output()
		if err != nil {
			t.Errorf("%s: %v: %s", name, err, said.String())
			continue
		}
		config := filepath.Join(r.dir, "imported.toml")
		lab.Must(t, os.WriteFile(config, out, 0o644))
		for _, line := range []string{"# Taken: 9 of 9 virtual services, 16 of 16 real servers, as 4 VIPs."} {
			if !strings.Contains(string(out), line+"\n") {
				t.Errorf("%s: want %q in\n%s", name, line, out)
			}
		}
		answer, err := r.director.Command(controller(), "diff", "-config", config, "-table", saved).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s\nof\n%s\nin\n%s", name, err, answer, table, out)
		}
	}
}
