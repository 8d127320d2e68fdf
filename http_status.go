// What /status.json says.
//
// Used by cmd*.go and main.go. It joins what the loop publishes with the kernel's
// counters and with what the other tasks know. It changes nothing, and the whole
// answer is never in memory.

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// statusVersion is raised when a field of the status changes its meaning or goes. Fields
// that come do not raise it. docs/status.md describes them.
const statusVersion = 1

// status is what /status.json and `status -o json` give.
type status struct {
	Version   int          `json:"version"` // statusVersion
	Ready     bool         `json:"ready"`
	Reason    string       `json:"reason,omitempty"`       // why not ready
	Since     time.Time    `json:"since,omitzero"`         // of the process
	Drained   time.Time    `json:"drained,omitzero"`       // by the operator, since
	TableHash uint64       `json:"table_hash,omitempty"`   // of the wanted table, the same on both directors of a pair
	Announced []netip.Addr `json:"announced,omitempty"`    // VIP addresses that the controller has put on a device
	Kept      []string     `json:"kept,omitempty"`         // sets whose last working real servers stay in service
	Below     []string     `json:"below_quorum,omitempty"` // VIPs, by family, with fewer real servers in service than their quorum
	FailOpen  []string     `json:"fail_open,omitempty"`    // sets of real servers that all fail their probes, and so stay in service
	Down      []string     `json:"probed_down,omitempty"`  // real servers, or their ports, that fail their probes or answer no ARP, also after they have drained and are removed
	// Conflicts are the other hosts that claim a VIP which this director has.
	Conflicts []Conflict      `json:"conflicts,omitempty"`
	Warnings  []string        `json:"warnings,omitempty"`
	Cluster   []StreamState   `json:"cluster,omitempty"`
	Table     connectionTable `json:"connection_table,omitzero"`
	Source    sourceStatus    `json:"cluster_source,omitzero"`
	Config    configStatus    `json:"config,omitzero"`
	VIPs      []vipStatus     `json:"vips"`
	Services  []serviceStatus `json:"services"`
}

// sourceStatus is where the state of the cluster comes from.
type sourceStatus struct {
	Name    string    `json:"name"`           // such as "kubeconfig /etc/lvs-controller/kubeconfig"
	Current bool      `json:"current"`        // all streams are
	Since   time.Time `json:"since,omitzero"` // since when; for one that is not current, the age of what is known
}

// configStatus is the configuration file. It does not change.
type configStatus struct {
	Path   string    `json:"path,omitempty"`  // "" when flags alone are the configuration
	Loaded time.Time `json:"loaded,omitzero"` // when the configuration in force was read
	Wrong  string    `json:"wrong,omitempty"` // why the file on disk is refused
}

type serviceStatus struct {
	Service   ServiceKey     `json:"service"`
	VIP       string         `json:"vip,omitempty"`
	Ports     []string       `json:"ports,omitempty"` // of a firewall mark: those whose packets get it
	Scheduler string         `json:"scheduler"`
	Traffic   Traffic        `json:"traffic"`
	Servers   []serverStatus `json:"servers"`
}

type serverStatus struct {
	Address     netip.Addr  `json:"address"`
	Port        uint16      `json:"port,omitempty"` // if it is not the port of the service
	Weight      uint32      `json:"weight"`
	Why         string      `json:"why,omitempty"`
	Since       time.Time   `json:"since,omitzero"`       // of this weight for this reason; none when that has not changed since the controller began
	DrainUntil  time.Time   `json:"drain_until,omitzero"` // it drains, and is removed then at the latest
	Connections Connections `json:"connections"`
	Traffic     Traffic     `json:"traffic"`
}

// head is the status without its services, which streamServices writes.
func (s *httpServer) head(v *loopState) status {
	st := status{Version: statusVersion, Since: s.started, Cluster: s.watch.States(), Conflicts: s.conflicts.seen().Active, Table: s.table(), VIPs: []vipStatus{}, Services: []serviceStatus{}}
	if file := s.file.Load(); file != nil {
		st.Config = *file
	}
	if err := s.ready(); err != nil {
		st.Reason = err.Error()
	}
	st.Ready = st.Reason == ""
	if v == nil {
		return st
	}
	st.Source = newSourceStatus(v.Config, st.Cluster)
	st.Drained, st.Announced, st.TableHash = v.Drained, v.Announced, v.TableHash
	for _, set := range v.Kept {
		st.Kept = append(st.Kept, set.VIP+" "+familyName(set.Is6))
	}
	for _, s := range v.Below {
		st.Below = append(st.Below, s.String())
	}
	for _, o := range v.Health.orEmpty().Open {
		st.FailOpen = append(st.FailOpen, o.String())
	}
	st.Down = v.Health.lines()
	st.Warnings = v.Warnings
	if absent := s.absent.Warning(); absent != "" {
		st.Warnings = append([]string{absent}, v.Warnings...)
	}
	return st
}

// observeKernel reads services and their counters through a separate socket.
func observeKernel(owned func(ServiceKey) bool, visit func(*KernelService)) error {
	c, err := dialIPVS()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Observe(owned, visit)
}

// newSourceStatus is the state of cfg's source with those streams.
func newSourceStatus(cfg *Config, streams []StreamState) sourceStatus {
	if len(streams) == 0 {
		return sourceStatus{} // no VIP needs a cluster
	}
	s := sourceStatus{Name: cfg.ClusterSource(), Current: true}
	for i := range streams {
		current := streams[i].current()
		switch {
		case current && s.Current && streams[i].Since.After(s.Since):
			s.Since = streams[i].Since
		case !current && (s.Current || streams[i].Since.Before(s.Since)):
			s.Since = streams[i].Since
		}
		s.Current = s.Current && current
	}
	return s
}

// newServiceStatus is the state of a service in the kernel, with what the loop knows of it:
// known is nil when that is nothing.
func newServiceStatus(k *KernelService, vip string, known *Service, times *rowTimes, kept *keptReasons) serviceStatus {
	s := serviceStatus{Service: k.ServiceKey, VIP: vip, Scheduler: k.Scheduler, Traffic: k.Traffic, Servers: make([]serverStatus, 0, len(k.Servers))}
	for _, r := range k.Servers {
		one := serverStatus{Address: r.Address, Port: r.Port, Weight: r.Weight, Connections: r.Connections, Traffic: r.Traffic}
		if known != nil {
			if i := slices.IndexFunc(known.Servers, sameAs(r.RealServer)); i >= 0 {
				one.Why, one.Since = kept.of(vip, k.ServiceKey, &known.Servers[i]), times.of(k.ServiceKey, &known.Servers[i])
			}
			if l := findLeaving(known.Leaving, r.RealServer); l != nil && !l.Gone {
				one.DrainUntil = l.Deadline
			}
		}
		s.Servers = append(s.Servers, one)
	}
	return s
}

// statusJSON joins the reasons of the loop's snapshot with the kernel's counters. The
// services are written one by one: the whole answer is never in memory.
func (s *httpServer) statusJSON(w http.ResponseWriter, _ *http.Request) {
	v := s.loop.published.Load()
	st := s.head(v)
	var services []KernelService
	if v != nil {
		var err error
		if services, _, err = s.ofKernel(v.Shards); errors.Is(err, errNoIPVS) { // also before the loop has noticed
			st.Ready, st.Reason = false, err.Error()
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := writeStatus(w, &st, s.vips(v), s.services(services, v), false); err != nil {
		s.log.Debug("an answer to /status.json could not be sent completely", "err", err)
	}
}

// vips passes the state of each VIP that v has, those of the configuration before the
// first pass.
func (s *httpServer) vips(v *loopState) iter.Seq[any] {
	cfg := s.configs.Get()
	if v != nil {
		cfg = v.Config
	}
	drained := v != nil && !v.Drained.IsZero()
	var draining map[string]map[netip.Addr]bool
	if v != nil {
		draining = v.Shards.draining()
	}
	return func(yield func(any) bool) {
		if cfg == nil || len(cfg.VIPs) == 0 {
			return
		}
		devices, err := s.ofDevices()
		cluster, answers := s.loop.cluster.Get(), s.prober.Answers()
		for i := range cfg.VIPs {
			vip := &cfg.VIPs[i]
			one := newVIPStatus(cfg, vip, devices, err, drained)
			one.Nodes = nodesOf(vip, cluster, answers, draining[vip.Name], s.loop.nodes.of)
			if !yield(one) {
				return
			}
		}
	}
}

// services passes the state of each of all, which v knows.
func (s *httpServer) services(all []KernelService, v *loopState) iter.Seq[any] {
	return func(yield func(any) bool) {
		if len(all) == 0 {
			return
		}
		ports, kept := markPorts(v.Marked), newKeptReasons(v, s.watch.States())
		for i := range all {
			known := v.Shards.find(all[i].ServiceKey)
			one := newServiceStatus(&all[i], known.VIP, known, &s.loop.times, kept)
			one.Ports = ports[one.Service]
			if !yield(one) {
				return
			}
		}
	}
}

// markPorts are the ports whose packets get a mark, by its service.
func markPorts(marked map[MarkedPort]uint32) map[ServiceKey][]string {
	ports := make(map[ServiceKey][]Port)
	for p, mark := range marked {
		k := MarkKey(mark, p.Address.Is6())
		ports[k] = append(ports[k], p.Port)
	}
	short := make(map[ServiceKey][]string, len(ports))
	for k, all := range ports {
		short[k] = shortPorts(all)
	}
	return short
}

// writeStatus writes st, whose lists of VIPs and services are empty, with those of vips and
// services, one by one. indented is for people.
func writeStatus(w io.Writer, st *status, vips, services iter.Seq[any], indented bool) error {
	encode := json.Marshal
	middle, end, before := `],"services":[`, "]}", "\n"
	if indented {
		encode = func(v any) ([]byte, error) { return json.MarshalIndent(v, "    ", "  ") }
		middle, end, before = "\n  ],\n  \"services\": [", "\n  ]\n}", "\n    "
	}
	head, err := json.Marshal(st)
	if err == nil && indented {
		head, err = json.MarshalIndent(st, "", "  ")
	}
	if err != nil {
		return err
	}
	// The lists are the last two fields, the first one of the two still open.
	head = head[:bytes.LastIndexByte(head[:bytes.LastIndexByte(head, '[')], '[')+1]
	out := bufio.NewWriter(w)
	// A writer that has failed fails until the end, and Flush says so.
	_, _ = out.Write(head)
	if err := writeList(out, vips, encode, before); err != nil {
		return err
	}
	_, _ = out.WriteString(middle)
	if err := writeList(out, services, encode, before); err != nil {
		return err
	}
	_, _ = out.WriteString(end + "\n")
	return out.Flush()
}

// writeList writes the elements of a JSON list, before in front of each.
func writeList(out *bufio.Writer, all iter.Seq[any], encode func(any) ([]byte, error), before string) error {
	comma := ""
	for one := range all {
		b, err := encode(one)
		if err != nil {
			return err
		}
		_, _ = out.WriteString(comma + before)
		comma = ","
		if _, err := out.Write(b); err != nil {
			return err
		}
	}
	return nil
}
