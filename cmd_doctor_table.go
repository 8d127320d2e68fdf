// What doctor knows of virtual services and real servers, and the check of who else
// writes to IPVS.
//
// Used by cmd*.go. It reads the kernel's table from /proc/net/ip_vs, which needs no
// rights and no controller. Where that has no real servers, what the controller has saved
// of the cluster counts. It changes nothing.

package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// findServers reads the kernel's table. saved is what is known of the cluster beside it;
// nil for nothing.
func (h *doctorHost) findServers(saved *Cluster) {
	t := doctorTable{owners: newOwners(h.cfg)}
	h.readTable(func(key ServiceKey, server netip.Addr, forward ForwardingMethod) {
		if !server.IsValid() {
			t.services = append(t.services, key)
			return
		}
		if v := t.owners.of(key); v != nil {
			t.add(v, server, forward)
		}
	})
	if len(t.servers) == 0 {
		t.saved = true
		w := desired(nil, h.cfg, saved, nil, newMemory(), time.Now())
		for i := range w.Shards {
			for _, s := range w.Shards[i].Services {
				for _, row := range s.Servers {
					if v := t.owners.of(s.ServiceKey); v != nil {
						t.add(v, row.Address, row.Forward)
					}
				}
			}
		}
	}
	h.table = t
}

func (t *doctorTable) add(v *VIP, server netip.Addr, forward ForwardingMethod) {
	if !slices.ContainsFunc(t.servers, func(s doctorServer) bool { return s.vip == v && s.address == server }) {
		t.servers = append(t.servers, doctorServer{v, server, forward})
	}
}

// addresses are those of the real servers, each once.
func (t *doctorTable) addresses() (all []netip.Addr) {
	seen := make(map[netip.Addr]bool)
	for _, s := range t.servers {
		if !seen[s.address] {
			seen[s.address] = true
			all = append(all, s.address)
		}
	}
	return all
}

// savedCluster is what the controller has saved of the cluster, or the cluster file; empty
// if there is neither.
func savedCluster(cfg *Config) *Cluster {
	query, cluster := cfg.ClusterQuery(), newCluster()
	if query.ClusterFile != "" {
		if file, err := readClusterFile(query.ClusterFile, allKeys(&query)); err == nil {
			for _, a := range file.answers {
				a.store(cluster)
			}
		}
	} else if saved, _ := loadSnapshot(cfg.CacheDir, cfg.ClusterSource(), slog.New(slog.DiscardHandler)); saved != nil {
		cluster = saved
	}
	return cluster
}

// readTable passes the services of /proc/net/ip_vs to take, each followed by its real
// servers. What it cannot read it leaves out.
func (h *doctorHost) readTable(take func(key ServiceKey, server netip.Addr, forward ForwardingMethod)) {
	f, err := os.Open(h.root + "/proc/net/ip_vs")
	if err != nil {
		return
	}
	defer f.Close()
	protocols := map[string]Protocol{"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
	methods := map[string]ForwardingMethod{"Route": DirectRoute, "Tunnel": Tunnel, "Local": Local, "Masq": Masq}
	var key ServiceKey
	for lines := bufio.NewScanner(io.LimitReader(f, 8*mostHostFile)); lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) < 2 {
			continue
		}
		at, valid := parseTableAddress(w[1])
		switch {
		case w[0] == "FWM":
			mark, err := strconv.ParseUint(w[1], 16, 32)
			if key = (ServiceKey{}); err == nil {
				key = MarkKey(uint32(mark), false)
				take(key, netip.Addr{}, 0)
			}
		case protocols[w[0]] != 0 && valid:
			key = ServiceKey{Address: at.Addr(), Protocol: protocols[w[0]], Port: at.Port()}
			take(key, netip.Addr{}, 0)
		case w[0] == "->" && valid && len(w) > 2 && key != (ServiceKey{}):
			if key.Mark != 0 { // only the real servers show the family
				key = MarkKey(key.Mark, at.Addr().Is6())
			}
			take(key, at.Addr(), methods[w[2]])
		}
	}
}

// parseTableAddress reads "0A000001:0050" and "[2001:0db8:…]:0050".
func parseTableAddress(text string) (netip.AddrPort, bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return netip.AddrPort{}, false
	}
	port, err := strconv.ParseUint(text[i+1:], 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	if text[0] == '[' {
		a, err := netip.ParseAddr(strings.Trim(text[:i], "[]"))
		return netip.AddrPortFrom(a, uint16(port)), err == nil
	}
	raw, err := hex.DecodeString(text[:i])
	a, is := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a, uint16(port)), err == nil && is && a.Is4()
}

// checkOwners looks for other programs that write to IPVS.
func checkOwners(h *doctorHost) []finding {
	var found []finding
	if len(h.names(netClass+"kube-ipvs0", "")) > 0 {
		found = append(found, finding{levelWarn, "kube-proxy manages IPVS here (device kube-ipvs0): it removes services of its addresses that it does not know", []string{
			"# run the director on a host that is no node, or give kube-proxy another mode:",
			"kubectl -n kube-system edit configmap kube-proxy    # mode: nftables",
		}})
	}
	for _, program := range []string{"ldirectord", "surealived", "seesaw_engine"} {
		if h.runs(program) {
			found = append(found, finding{levelWarn, program + " runs, which writes to IPVS too", []string{"systemctl disable --now " + program}})
		}
	}
	if k := h.keepalivedConf(); k.servers > 0 {
		found = append(found, finding{levelWarn, fmt.Sprintf("%s has %s: keepalived writes to IPVS too", keepalivedFile, numberOf(k.servers, "virtual_server")), []string{
			"# remove these blocks from " + keepalivedFile + ", then: systemctl reload keepalived",
		}})
	}
	var foreign []ServiceKey
	for _, key := range h.table.services {
		if key.Mark != 0 && key.Mark-h.cfg.Marks.First < h.cfg.Marks.Count || h.table.owners.of(key) != nil {
			continue
		}
		foreign = append(foreign, key)
	}
	if len(foreign) > 0 && len(h.cfg.VIPs) > 0 {
		f := finding{level: levelWarn, fact: fmt.Sprintf("%s of no VIP of the configuration, the first is %s", numberOf(len(foreign), "service"), foreign[0]), commands: []string{"ipvsadm -Ln    # which program has made them? If none needs them:"}}
		for _, key := range foreign[:min(len(foreign), mostCommands)] {
			f.commands = append(f.commands, "ipvsadm -D "+ipvsadmKey(key))
		}
		found = append(found, f)
	}
	if found == nil {
		return allWell("%s, all of VIPs of the configuration", numberOf(len(h.table.services), "service"))
	}
	return found
}

// ipvsadmKey is the key in ipvsadm's form.
func ipvsadmKey(key ServiceKey) string {
	if key.Mark != 0 {
		return fmt.Sprintf("-f %d", key.Mark)
	}
	flag := map[Protocol]string{TCP: "-t", UDP: "-u", SCTP: "--sctp-service"}[key.Protocol]
	return flag + " " + netip.AddrPortFrom(key.Address, key.Port).String()
}
