// Metrics of the kernel's counters: by VIP, by service, and by real server of a service.
//
// Used by http_metrics.go. The key metrics in config.toml says how far it goes, because
// a VIP of 1000 ports and 50 nodes has 50,000 real servers of services. It changes
// nothing but its memory of the counters that it has seen.

package main

import (
	"strings"
	"sync"
	"time"
)

// maxServerRows is how many real servers of services a scrape lists at most: seven
// samples each.
const maxServerRows = 1 << 16

// kernelCounters are the kernel's counters: per service, per VIP, and per VIP and real
// server summed over the services.
type kernelCounters struct {
	cfg      *Config
	services []countedService
	vips     map[string]*Load
	servers  map[startKey]KernelServer // sums of connections, and the greatest weight
}

// countedService is a service of the kernel that belongs to a VIP; "" for one that is
// configured no more.
type countedService struct {
	vip string
	*KernelService
}

func newKernelCounters(cfg *Config) *kernelCounters {
	return &kernelCounters{cfg: cfg, vips: make(map[string]*Load), servers: make(map[startKey]KernelServer)}
}

// add counts one service. It keeps s.
func (k *kernelCounters) add(s *KernelService, known *Service) {
	k.services = append(k.services, countedService{known.VIP, s})
	if k.vips[known.VIP] == nil {
		k.vips[known.VIP] = new(Load)
	}
	of := k.vips[known.VIP]
	of.Traffic.add(&s.Traffic)
	for i := range s.Servers {
		r := &s.Servers[i]
		at := startKey{known.VIP, r.Address}
		t := k.servers[at]
		t.Connections.add(r.Connections)
		of.Connections.add(r.Connections)
		t.Weight = max(t.Weight, r.Weight)
		k.servers[at] = t
	}
}

// totals are counters of VIPs that only grow: the kernel forgets those of a service
// that is removed, and their sum would become less, which a reader takes for a restart
// with the whole sum as new traffic. They count from the first scrape.
type totals struct {
	mu       sync.Mutex
	at       time.Time              // of the newest reading
	services map[ServiceKey]Traffic // as last seen
	vips     map[string]Traffic
}

// follow adds what the services of k, which was read at a time, have counted since the
// reading before. Scrapes overtake each other: an older reading changes nothing.
func (t *totals) follow(k *kernelCounters, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !at.After(t.at) {
		return
	}
	t.at = at
	first := t.services == nil
	seen := make(map[ServiceKey]Traffic, len(k.services))
	vips := make(map[string]Traffic, len(k.vips))
	for i := range k.cfg.VIPs {
		vips[k.cfg.VIPs[i].Name] = t.vips[k.cfg.VIPs[i].Name]
	}
	for _, s := range k.services {
		now, was := s.Traffic, t.services[s.ServiceKey]
		seen[s.ServiceKey] = now
		if now.Connections < was.Connections || now.InPackets < was.InPackets || now.InBytes < was.InBytes {
			was = Traffic{} // it was made again
		}
		if first {
			was = now
		}
		sum, there := vips[s.vip]
		if !there {
			sum = t.vips[s.vip]
		}
		sum.Connections += now.Connections - was.Connections
		sum.InPackets += now.InPackets - was.InPackets
		sum.InBytes += now.InBytes - was.InBytes
		vips[s.vip] = sum
	}
	t.services, t.vips = seen, vips
}

// trafficCounter is a counter of Traffic.
type trafficCounter struct {
	name, help string
	value      func(*Traffic) uint64
}

var trafficCounters = [...]trafficCounter{
	{"connections_total", "Connections scheduled", func(t *Traffic) uint64 { return t.Connections }},
	{"in_packets_total", "Packets from clients", func(t *Traffic) uint64 { return t.InPackets }},
	{"in_bytes_total", "Bytes from clients", func(t *Traffic) uint64 { return t.InBytes }},
}

// connectionStates are the values of the label "state" of connections.
var connectionStates = [...]struct {
	name  string
	value func(*Connections) uint32
}{
	{"active", func(c *Connections) uint32 { return c.Active }},
	{"inactive", func(c *Connections) uint32 { return c.Inactive }},
	{"persistent", func(c *Connections) uint32 { return c.Persistent }},
}

// write writes all of them, as far as the configuration wants.
func (k *kernelCounters) write(e *exposition, t *totals) {
	t.mu.Lock()
	vips := t.vips // is replaced and not changed
	t.mu.Unlock()
	order := sortedKeys(vips, strings.Compare)
	for _, c := range &trafficCounters {
		e.family("vip_"+c.name, counter, c.help+" for a VIP, since the first scrape.")
		for _, name := range order {
			sum := vips[name]
			e.add(float64(c.value(&sum)), "vip", name)
		}
	}
	e.family("vip_connections", gauge, "Connections of a VIP.")
	for _, name := range order {
		var of Connections
		if l := k.vips[name]; l != nil {
			of = l.Connections
		}
		for _, st := range &connectionStates {
			e.add(float64(st.value(&of)), "vip", name, "state", st.name)
		}
	}
	servers := sortedKeys(k.servers, compareStartKeys)
	e.family("real_server_weight", gauge, "Greatest weight of a real server over the VIP's services; 0 = quiesced.")
	for _, at := range servers {
		e.add(float64(k.servers[at].Weight), "vip", at.VIP, "server", at.Address.String())
	}
	e.family("real_server_connections", gauge, "Connections of a real server, over the VIP's services.")
	for _, at := range servers {
		c := k.servers[at].Connections
		for _, st := range &connectionStates {
			e.add(float64(st.value(&c)), "vip", at.VIP, "server", at.Address.String(), "state", st.name)
		}
	}
	if k.cfg.Metrics != metricsSums {
		k.writeServices(e)
	}
	if k.cfg.Metrics == metricsServers {
		k.writeRows(e)
	}
}

// writeServices writes the counters of each service.
func (k *kernelCounters) writeServices(e *exposition) {
	for _, c := range &trafficCounters {
		e.family("service_"+c.name, counter, c.help+" for a virtual service.")
		for _, s := range k.services {
			e.add(float64(c.value(&s.Traffic)), "vip", s.vip, "service", s.String())
		}
	}
}

// writeRows writes the counters of each real server of a service, of whole services
// up to maxServerRows.
func (k *kernelCounters) writeRows(e *exposition) {
	listed, rows := 0, 0
	for listed < len(k.services) && rows+len(k.services[listed].Servers) <= maxServerRows {
		rows += len(k.services[listed].Servers)
		listed++
	}
	left := 0
	for _, s := range k.services[listed:] {
		left += len(s.Servers)
	}
	e.family("metrics_rows_left_out", gauge, "Real servers of services that lvs_service_server_… does not list, because there are too many.")(float64(left))
	each := func(sample func(r *KernelServer, vip, service, server string)) {
		for _, s := range k.services[:listed] {
			service := s.String()
			for i := range s.Servers {
				sample(&s.Servers[i], s.vip, service, s.Servers[i].Name())
			}
		}
	}
	for _, c := range &trafficCounters {
		e.family("service_server_"+c.name, counter, c.help+" for a real server of a virtual service.")
		each(func(r *KernelServer, vip, service, server string) {
			e.add(float64(c.value(&r.Traffic)), "vip", vip, "service", service, "server", server)
		})
	}
	e.family("service_server_connections", gauge, "Connections of a real server of a virtual service.")
	each(func(r *KernelServer, vip, service, server string) {
		for _, st := range &connectionStates {
			e.add(float64(st.value(&r.Connections)), "vip", vip, "service", service, "server", server, "state", st.name)
		}
	})
	e.family("service_server_weight", gauge, "Weight of a real server of a virtual service; 0 = quiesced.")
	each(func(r *KernelServer, vip, service, server string) {
		e.add(float64(r.Weight), "vip", vip, "service", service, "server", server)
	})
}

// writeTable writes how large the connection table is and how full. Before Linux 7 the
// kernel does not count its connections: then those of our services are taken.
func (k *kernelCounters) writeTable(e *exposition, t connectionTable) {
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
