// The sub-command doctor: is this host fit for the traffic of a director, or of a node,
// and can the controller read the cluster?
//
// Used by cmd_doctor_ask.go. doctorChecks has all checks. A new one is a function from a
// doctorHost to findings, and a line there. Nothing is changed: each finding has the
// commands that mend it. It works while the API server, the controller and the other
// hosts are dead: each question has a time limit.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// doctorChecks are the checks, in the order in which they are printed. docs/doctor.md
// has a section for each.
var doctorChecks = []struct {
	roles doctorRole
	name  string
	look  func(*doctorHost) []finding
}{
	{roleDirector | roleCluster | rolePair, "configuration", checkConfiguration},
	{roleDirector | roleNode, "rights", checkRights},
	{roleDirector, "controller", checkController},
	{roleDirector, "kernel", checkKernel},
	{roleDirector, "uplink", checkUplinkDevices},
	{roleDirector, "MTU", checkMTU},
	{roleDirector, "VIP", checkVIPs},
	{roleDirector, "VIP conflict", checkConflicts},
	{roleDirector, "real servers", checkRealServers},
	{roleDirector, "nodes", checkNodes},
	{roleDirector, "keepalived", checkKeepalived},
	{roleDirector, "IPVS owners", checkOwners},
	{roleDirector, "reverse path", checkReversePath},
	{roleDirector | roleNode, "ARP flux", checkARPFlux},
	{roleDirector, "connection table", checkConnectionTable},
	{roleDirector, "conntrack", checkConntrack},
	{roleDirector, "receive queues", checkReceiveQueues},
	{roleDirector, "send queues", checkSendQueues},
	{roleDirector, "interrupts", checkInterrupts},
	{roleDirector, "LRO", checkLRO},
	{roleDirector, "GRO", checkGRO},
	{roleDirector, "rings", checkRings},
	{roleDirector, "backlog", checkBacklog},
	{roleDirector, "budget", checkBudget},
	{roleDirector, "estimators", checkEstimators},
	{roleDirector, "kernel settings", checkKernelSettings},
	{roleDirector, "settings files", checkSettingsFiles},
	{roleDirector, "directories", checkDirectories},
	{roleDirector | roleCluster, "clock", checkClock},
	{roleNode, "node VIP", checkNodeVIPs},
	{roleNode, "ARP settings", checkARPSettings},
	{roleNode, "tunnel end", checkTunnelEnd},
	{roleCluster, "credentials", checkCredentials},
	{roleCluster, "API server", checkAPIServer},
	{roleCluster, "API clock", checkAPIClock},
	{roleCluster, "permissions", checkPermissions},
	{roleCluster, "objects", checkObjects},
	{rolePair, "peer", checkPeer},
	{rolePair, "peer table", checkPeerTable},
}

// doctorPatience is how long all checks together may take.
const doctorPatience = 10 * time.Second

// examine runs the checks of the roles of h, all at a time, and returns what they find in
// their order. One that waits for longer than patience is left behind.
func (h *doctorHost) examine(patience time.Duration) []examined {
	var all []examined
	var waiting []chan []finding
	for _, check := range doctorChecks {
		if check.roles&h.roles == 0 {
			continue
		}
		found := make(chan []finding, 1)
		all, waiting = append(all, examined{check: check.name, roles: check.roles & h.roles}), append(waiting, found)
		go func() { found <- check.look(h) }()
	}
	end := time.After(patience)
	for i, found := range waiting {
		select {
		case all[i].findings = <-found:
		case <-end:
			all[i].findings = []finding{{levelWarn, fmt.Sprintf("not known: no answer within %s", patience), []string{"# this host or the network is slow: once more, when it is less busy"}}}
			end = time.After(0)
		}
	}
	return all
}

// examined is what one check finds.
type examined struct {
	check    string
	roles    doctorRole
	findings []finding
}

// code is the exit code. As in check, warnings do not change it.
func (c doctorCounts) code() int {
	if c[levelFail] > 0 {
		return exitFailure
	}
	return exitOK
}

type doctorCounts [levels]int

// printFindings prints for people what the checks have found.
func printFindings(w io.Writer, all []examined) (counts doctorCounts) {
	for _, e := range all {
		for i, f := range e.findings {
			counts[f.level]++
			if i < mostFindings {
				f.print(w, e.check)
			}
		}
		if more := len(e.findings) - mostFindings; more > 0 {
			fmt.Fprintf(w, "      and %d more of %s\n", more, e.check)
		}
	}
	fmt.Fprintf(w, "%d OK, %d WARN, %d FAIL\n", counts[levelOK], counts[levelWarn], counts[levelFail])
	return counts
}

// doctorReport is the answer in JSON. docs/doctor.md describes it.
type doctorReport struct {
	Schema   int              `json:"schema"` // 1; another number means that a name has another meaning
	Version  string           `json:"version"`
	OK       int              `json:"ok"`
	Warn     int              `json:"warn"`
	Fail     int              `json:"fail"`
	Findings []doctorFinding1 `json:"findings"`
}

// doctorFinding1 is a finding of schema 1.
type doctorFinding1 struct {
	Check    string   `json:"check"`
	Roles    []string `json:"roles"`
	Level    string   `json:"level"`
	Fact     string   `json:"fact"`
	Commands []string `json:"commands,omitempty"`
}

// encodeFindings prints for programs what the checks have found.
func encodeFindings(w io.Writer, all []examined) (counts doctorCounts, err error) {
	r := doctorReport{Schema: 1, Version: version, Findings: []doctorFinding1{}}
	for _, e := range all {
		var roles []string
		for _, role := range doctorRoles {
			if e.roles&role.role != 0 {
				roles = append(roles, role.name)
			}
		}
		for i, f := range e.findings {
			if counts[f.level]++; i < mostEncoded {
				r.Findings = append(r.Findings, doctorFinding1{e.check, roles, findingLevels[f.level], shorten(f.fact, mostFact), f.commands[:min(len(f.commands), mostEncoded)]})
			}
		}
	}
	r.OK, r.Warn, r.Fail = counts[levelOK], counts[levelWarn], counts[levelFail]
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return counts, enc.Encode(r)
}

func (f finding) print(w io.Writer, check string) {
	fmt.Fprintf(w, "%-4s  %-16s  %s\n", findingLevels[f.level], check, printable(shorten(f.fact, mostFact)))
	for i, c := range f.commands {
		if i == mostCommands {
			fmt.Fprintf(w, "      # and %d more of this kind\n", len(f.commands)-i)
			break
		}
		fmt.Fprintf(w, "      %s\n", printable(c))
	}
}

func checkConfiguration(h *doctorHost) []finding {
	if h.configErr == nil {
		return allWell("%s is valid", h.file)
	}
	first, _, _ := strings.Cut(h.configErr.Error(), "\n")
	if h.copied != "" {
		return []finding{{levelWarn, first + "; the last good configuration is examined, " + h.copied, []string{h.call("check")}}}
	}
	if errors.Is(h.configErr, fs.ErrNotExist) {
		return []finding{{levelWarn, "the defaults are used, there is no file " + h.file, []string{"lvs-controller doctor -config FILE"}}}
	}
	return []finding{{levelWarn, "the defaults are used, " + first, []string{h.call("check")}}}
}

func checkUplinkDevices(h *doctorHost) []finding {
	all, _ := h.devices()
	switch {
	case h.uplink == "":
		return []finding{{levelWarn, "not known, so no device is examined: " + h.uplinkErr.Error(), []string{`# in config.toml: interface = "eth0"`}}}
	case len(h.names(netClass, "")) == 0:
		return []finding{{levelWarn, "/sys/class/net cannot be read, so no device is examined", []string{"mount -t sysfs sysfs /sys"}}}
	case all == nil:
		return []finding{{levelFail, "there is no device " + h.uplink, []string{"ip link", `# then in config.toml: interface = "NAME"`}}}
	}
	if flags, err := strconv.ParseUint(h.read(netClass+h.uplink+"/flags"), 0, 32); err == nil && flags&unix.IFF_UP == 0 {
		return []finding{{levelFail, h.uplink + " is down", []string{"ip link set " + h.uplink + " up"}}}
	}
	if h.read(netClass+h.uplink+"/carrier") == "0" {
		return []finding{{levelFail, h.uplink + " has no carrier", []string{"ethtool " + h.uplink, "# then look at the cable and the port of the switch"}}}
	}
	if len(all) == 1 {
		return allWell("%s", h.uplink)
	}
	return allWell("%s, over %s", h.uplink, strings.Join(all[1:], ", "))
}
