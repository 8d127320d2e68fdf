// Prometheus metrics, computed for each request.
//
// Used by http.go. The names are part of the interface: docs/metrics.md lists
// them, and a test compares the two. The text format is written here
// (prometheus.io/docs/instrumenting/exposition_formats), because the client
// library would be a sixth of the binary's size. It changes nothing.

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/VictoriaMetrics/metrics"
)

// metricType is a metric family's type in the text format.
type metricType string

const (
	gauge   metricType = "gauge"
	counter metricType = "counter"
)

// exposition writes metric families. The samples of a family follow its head.
type exposition struct{ w io.Writer }

// family writes a head and returns a function that writes one sample, with
// labels as name, value, name, value.
func (e exposition) family(name string, typ metricType, help string) func(value float64, labels ...string) {
	name = "lvs_" + name
	fmt.Fprintf(e.w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, typ)
	return func(value float64, labels ...string) {
		fmt.Fprint(e.w, name)
		for i := 0; i < len(labels); i += 2 {
			fmt.Fprintf(e.w, `%s%s="%s"`, [2]string{"{", ","}[min(i, 1)], labels[i], labelEscaper.Replace(labels[i+1]))
		}
		if len(labels) > 0 {
			fmt.Fprint(e.w, "}")
		}
		fmt.Fprintf(e.w, " %v\n", value)
	}
}

var labelEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// changeKinds are the values of the label "kind".
var changeKinds = [...]string{
	newService: "service_added",
	setService: "service_edited",
	newServer:  "server_added",
	setServer:  "server_edited",
	delServer:  "server_removed",
	delService: "service_removed",
}

// writeMetrics writes all metrics: the controller's own, the kernel's counters
// for our services, and the process's.
func (s *httpServer) writeMetrics(w io.Writer) {
	e := exposition{w}
	v := s.loop.published.Load()
	e.family("info", gauge, "The running version.")(1, "version", version)
	e.family("ready", gauge, "1 when the kernel's table has been read recently, a real server is in service, the uplink is up and the director is not drained.")(flag01(s.ready() == nil))
	s.writeOwn(e)
	if v != nil {
		writeVIPs(e, v)
		writeSync(e, v)
		writeConflicts(e, v.Config, s.conflicts.seen())
		k := kernelCounters{servers: make(map[vipServer]KernelServer)}
		services, err := s.reading.of(v.Shards)
		for i := range services {
			k.add(&services[i], v.Shards.find(services[i].ServiceKey))
		}
		e.family("kernel_up", gauge, "1 when the kernel's IPVS table could be read for this scrape.")(flag01(err == nil))
		k.write(e)
		k.writeTable(e, s.table())
	}
	metrics.WriteProcessMetrics(w)
}

// writeOwn writes what the controller counts of its work and its inputs.
func (s *httpServer) writeOwn(e exposition) {
	if s.lostLines != nil {
		e.family("log_lines_dropped_total", counter, "Lines of the log that were dropped, because their reader is too slow.")(float64(s.lostLines()))
	}
	c := &s.loop.counters
	e.family("config_ok", gauge, "0 while the configuration file is refused and the last good one stays in force.")(flag01(!s.bad.Load()))
	e.family("config_reloads_total", counter, "Configurations applied after the first.")(float64(s.reloads.Load()))
	e.family("config_rejected_total", counter, "Configurations refused.")(float64(s.rejected.Load()))
	e.family("reconciles_total", counter, "Passes of the reconcile loop.")(float64(c.Reconciles.Load()))
	e.family("reconcile_failures_total", counter, "Passes after which the kernel's table was not as it should be.")(float64(c.Failures.Load()))
	e.family("audits_total", counter, "Full comparisons with the kernel's table.")(float64(c.Audits.Load()))
	e.family("drifts_total", counter, "Audits that found a change by another program or an operator.")(float64(c.Drifts.Load()))
	e.family("changes_refused_total", counter, "Changes that the kernel refused.")(float64(c.Refused.Load()))
	changes := e.family("changes_total", counter, "Changes made to the kernel's table.")
	for kind, name := range changeKinds {
		changes(float64(c.Changes[kind].Load()), "kind", name)
	}
	streams := s.watch.States()
	ofStreams := func(name string, typ metricType, help string, value func(*StreamState) float64) {
		sample := e.family(name, typ, help)
		for i := range streams {
			sample(value(&streams[i]), "stream", streams[i].Name)
		}
	}
	ofStreams("cluster_synced", gauge, "1 once the stream has given a complete answer.", func(st *StreamState) float64 { return flag01(st.Synced) })
	ofStreams("cluster_failing", gauge, "1 while the stream cannot read from its source, or a cluster file is in doubt; the last answer stays in force.", func(st *StreamState) float64 { return flag01(st.LastError != "") })
	ofStreams("cluster_events_total", counter, "Watch events that the stream received.", func(st *StreamState) float64 { return float64(st.Events) })
	ofStreams("cluster_lists_total", counter, "Complete lists that the stream received.", func(st *StreamState) float64 { return float64(st.Lists) })
	writeProbes(e, s.prober.Stats())
}

// writeProbes writes the counters of the prober.
func writeProbes(e exposition, p ProbeStats) {
	results := e.family("probes_total", counter, "Probes by their result; none: the director could not send the probe.")
	for i, k := range p.Kinds {
		kind := probeKind(i).String()
		results(float64(k.Results[passed]), "kind", kind, "result", "passed")
		results(float64(k.Results[failed]), "kind", kind, "result", "failed")
		results(float64(k.Results[noResult]), "kind", kind, "result", "none")
	}
	targets := e.family("probe_targets", gauge, "What is probed, by its present state.")
	for i, k := range p.Kinds {
		kind := probeKind(i).String()
		targets(float64(k.Targets[up]), "kind", kind, "state", "up")
		targets(float64(k.Targets[down]), "kind", kind, "state", "down")
		targets(float64(k.Targets[unknown]), "kind", kind, "state", "unknown")
	}
	e.family("probe_fail_open", gauge, "Sets of real servers, or ports, that fail on all at once and therefore stay in service.")(float64(p.FailOpen))
}

// writeSync writes whether the sync daemons run.
func writeSync(e exposition, v *loopState) {
	if v.Sync == nil {
		return
	}
	up := e.family("sync_daemon_up", gauge, "1 when the sync daemon runs as configured.")
	for _, role := range syncRoles {
		up(flag01(v.Sync[role]), "role", role.String())
	}
}

// writeConflicts writes which other hosts claim a VIP that this director has.
func writeConflicts(e exposition, cfg *Config, p *conflictSnapshot) {
	now := e.family("vip_conflict", gauge, "1 while another host claims a VIP that this director has.")
	for _, c := range p.Active {
		now(1, "vip", c.VIP, "address", c.Address.String(), "device", c.Device, "mac", c.MAC.String())
	}
	begun := e.family("vip_conflicts_total", counter, "Other hosts that began to claim a VIP while this director had it.")
	for i := range cfg.VIPs {
		for _, a := range cfg.VIPs[i].Addresses {
			begun(float64(p.Begun[a]), "vip", cfg.VIPs[i].Name, "address", a.String())
		}
	}
}

// vipServer is a real server of a VIP, over all the VIP's services.
type vipServer struct {
	vip  string
	addr netip.Addr
}

func compareVIPServers(a, b vipServer) int {
	return cmp.Or(cmp.Compare(a.vip, b.vip), a.addr.Compare(b.addr))
}

// writeVIPs writes what the loop's snapshot says of each VIP.
func writeVIPs(e exposition, v *loopState) {
	e.family("drained", gauge, "1 while the operator has drained this director.")(flag01(!v.Drained.IsZero()))
	announced := e.family("vip_announced", gauge, "1 while the controller has the VIP's address on the uplink or the dummy device.")
	for _, vip := range v.Config.VIPs {
		for _, a := range vip.Addresses {
			if vip.Announce.method().byController() {
				announced(flag01(slices.Contains(v.Announced, a)), "vip", vip.Name, "address", a.String())
			}
		}
	}
	if v.TableHash != 0 {
		e.family("table_hash", gauge, "A number for the wanted table, the same on both directors of a pair.")(float64(v.TableHash))
	}
	e.family("warnings", gauge, "Warnings about the present inputs.")(float64(len(v.Warnings)))
	inService := make(map[vipServer]bool)
	out := make(map[vipServer]string)
	for svc := range v.Shards.all {
		for _, row := range svc.Servers {
			at := vipServer{svc.VIP, row.Address}
			if row.Weight == 0 && out[at] == "" {
				out[at] = row.Why
			}
			inService[at] = inService[at] || row.Weight > 0
		}
	}
	working, all := make(map[string]int), make(map[string]int)
	for at, in := range inService {
		all[at.vip]++
		if in {
			working[at.vip]++
		}
	}
	servers := e.family("vip_real_servers", gauge, "Real servers of a VIP over its services, each address once.")
	for _, vip := range v.Config.VIPs {
		servers(float64(working[vip.Name]), "vip", vip.Name, "state", "in_service")
		servers(float64(all[vip.Name]-working[vip.Name]), "vip", vip.Name, "state", "draining")
	}
	quiesced := e.family("real_server_quiesced", gauge, "1 for a real server that is quiesced in some service of the VIP, with the reason in the first of them.")
	for _, at := range slices.SortedFunc(maps.Keys(out), compareVIPServers) {
		quiesced(1, "vip", at.vip, "server", at.addr.String(), "why", out[at])
	}
	kept := e.family("vip_kept", gauge, "1 while the last working real servers of a VIP stay in service because by the inputs none would be.")
	for _, vip := range v.Config.VIPs {
		for _, is6 := range []bool{false, true} {
			if slices.ContainsFunc(vip.Addresses, func(a netip.Addr) bool { return a.Is6() == is6 }) {
				kept(flag01(slices.Contains(v.Kept, workKey{vip.Name, is6})), "vip", vip.Name, "family", familyName(is6))
			}
		}
	}
}

// kernelCounters are the kernel's counters: per service, and per VIP and real server
// summed over the services. A VIP of 1000 ports and 50 nodes would else give 50,000
// series, and need memory for them at each scrape.
type kernelCounters struct {
	services []serviceTraffic
	servers  map[vipServer]KernelServer // sums of connections, and the greatest weight
}

type serviceTraffic struct {
	vip     string
	key     ServiceKey
	traffic Traffic
}

// add counts one service.
func (k *kernelCounters) add(s *KernelService, known *Service) {
	k.services = append(k.services, serviceTraffic{known.VIP, s.ServiceKey, s.Traffic})
	for i := range s.Servers {
		r := &s.Servers[i]
		at := vipServer{known.VIP, r.Address}
		t := k.servers[at]
		t.Connections.Active += r.Connections.Active
		t.Connections.Inactive += r.Connections.Inactive
		t.Connections.Persistent += r.Connections.Persistent
		t.Weight = max(t.Weight, r.Weight)
		k.servers[at] = t
	}
}

// write writes all of them.
func (k *kernelCounters) write(e exposition) {
	for _, f := range []struct {
		name, help string
		value      func(Traffic) uint64
	}{
		{"service_connections_total", "Connections scheduled by a virtual service.", func(t Traffic) uint64 { return t.Connections }},
		{"service_in_packets_total", "Packets from clients.", func(t Traffic) uint64 { return t.InPackets }},
		{"service_in_bytes_total", "Bytes from clients.", func(t Traffic) uint64 { return t.InBytes }},
	} {
		sample := e.family(f.name, counter, f.help)
		for _, s := range k.services {
			sample(float64(f.value(s.traffic)), "vip", s.vip, "service", s.key.String())
		}
	}
	order := slices.SortedFunc(maps.Keys(k.servers), compareVIPServers)
	weight := e.family("real_server_weight", gauge, "Greatest weight of a real server over the VIP's services; 0 = quiesced.")
	for _, at := range order {
		weight(float64(k.servers[at].Weight), "vip", at.vip, "server", at.addr.String())
	}
	conns := e.family("real_server_connections", gauge, "Connections of a real server, over the VIP's services.")
	for _, at := range order {
		c := k.servers[at].Connections
		conns(float64(c.Active), "vip", at.vip, "server", at.addr.String(), "state", "active")
		conns(float64(c.Inactive), "vip", at.vip, "server", at.addr.String(), "state", "inactive")
		conns(float64(c.Persistent), "vip", at.vip, "server", at.addr.String(), "state", "persistent")
	}
}

// writeTable writes how large the connection table is and how full. Before Linux 7 the
// kernel does not count its connections: then those of our services are taken.
func (k *kernelCounters) writeTable(e exposition, t connectionTable) {
	var n uint64
	for _, r := range k.servers {
		n += uint64(r.Connections.Active) + uint64(r.Connections.Inactive) + uint64(r.Connections.Persistent)
	}
	if t.Connections != nil {
		n = *t.Connections
	}
	buckets := e.family("connection_table_buckets", gauge, "Buckets of the kernel's connection table.")
	if t.Buckets > 0 {
		buckets(float64(t.Buckets))
	}
	e.family("connections", gauge, "Connections in the kernel's connection table.")(float64(n))
	load := e.family("connection_table_load", gauge, "Connections for each bucket of the kernel's connection table.")
	if t.Buckets > 0 {
		load(float64(n) / float64(t.Buckets))
	}
	defence := e.family("flood_defence", gauge, "1 while the kernel defends itself against a flood with this setting.")
	for _, name := range floodDefences {
		if active, known := t.Defences[name]; known {
			defence(flag01(active), "setting", name)
		}
	}
}

func flag01(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
