// Reads the kernel's IPVS table over the connection of genl_conn.go.
//
// Used by http*.go and cmd*.go. The reconcile loop audits with Table and counts
// connections of draining real servers with Servers, by the interface director
// in reconcile.go. status and the metrics read with Observe. A large table is
// read often and changes seldom, so a row that has not changed costs no
// allocation. It writes nothing.

package main

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// services dumps all virtual services. The counters are read if they are asked
// for.
func (c *ipvsConn) services(counters bool, visit func(*VirtualService, Traffic)) error {
	seq := c.request()
	c.enc.command(cmdGetService, unix.NLM_F_DUMP, seq)
	var (
		v    VirtualService
		t    Traffic
		into *Traffic
	)
	if counters {
		into = &t
	}
	err := c.ask(seq, func(body []byte) error {
		t = Traffic{}
		err := decodeService(body, &v, into)
		if err == nil {
			visit(&v, t)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list virtual services: %w", err)
	}
	return nil
}

// listServers passes each message about a real server of service k to each. A
// service that does not exist has none.
func (c *ipvsConn) listServers(k *ServiceKey, each func(body []byte) error) error {
	seq := c.request()
	c.enc.dumpServers(*k, seq)
	if err := c.ask(seq, each); err != nil {
		return fmt.Errorf("list real servers of %s: %w", k, err)
	}
	return nil
}

// servers passes the real servers of service k to visit, with their connections
// and, if asked for, the other counters.
func (c *ipvsConn) servers(k *ServiceKey, counters bool, visit func(*KernelServer)) error {
	var (
		s KernelServer
		t *Traffic
	)
	if counters {
		t = &s.Traffic
	}
	return c.listServers(k, func(body []byte) error {
		s.Connections, s.Traffic = Connections{}, Traffic{}
		err := decodeServer(body, k, &s.RealServer, &s.Connections, t)
		if err == nil {
			visit(&s)
		}
		return err
	})
}

// Servers implements director.
func (c *ipvsConn) Servers(k ServiceKey, visit func(KernelServer)) error {
	return c.servers(&k, false, func(s *KernelServer) { visit(*s) })
}

// Table dumps the services that owned accepts, with their real servers. The real
// servers of other services are not read. Services that have the same real
// servers share them, and a shard that is as known has it is shared with known:
// an audit that finds nothing leaves no garbage.
func (c *ipvsConn) Table(owned func(ServiceKey) bool, known shards) (shards, error) {
	keys := c.dumped[:0]
	if err := c.services(false, func(v *VirtualService, _ Traffic) {
		if owned(v.ServiceKey) {
			keys = append(keys, *v)
		}
	}); err != nil {
		return nil, err
	}
	c.dumped = keys[:0]
	byKey := func(a, b VirtualService) int { return a.Compare(b.ServiceKey) }
	if !slices.IsSortedFunc(keys, byKey) {
		slices.SortFunc(keys, byKey)
	}
	// A table that changes during the dump can show a service twice.
	keys = slices.CompactFunc(keys, func(a, b VirtualService) bool { return a.ServiceKey == b.ServiceKey })

	var all shards
	at := 0 // in known
	for len(keys) > 0 {
		n := 1
		for n < len(keys) && keys[n].Address == keys[0].Address && keys[n].Mark == keys[0].Mark {
			n++
		}
		first := shard{Services: Table{{VirtualService: keys[0]}}}
		for at < len(known) && compareShards(known[at], first) < 0 {
			at++
		}
		var was shard
		if at < len(known) && compareShards(known[at], first) == 0 {
			was = known[at]
		}
		p, err := c.shard(keys[:n], was)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
		keys = keys[n:]
	}
	return all, nil
}

// shard dumps the real servers of services, which make up one shard. was is the
// shard as it is known, empty when it is not.
func (c *ipvsConn) shard(services []VirtualService, was shard) (shard, error) {
	var (
		fresh Table // nil while everything is as it was
		rows  []Row // of the last service that was not
	)
	for i := range services {
		v := &services[i]
		if err := c.rows(&v.ServiceKey); err != nil {
			return shard{}, err
		}
		if fresh == nil {
			if i < len(was.Services) && was.Services[i].VirtualService == *v && c.foundAgain(was.Services[i].Servers) {
				continue
			}
			fresh = make(Table, 0, len(services))
			for j := range i {
				fresh = append(fresh, Service{VirtualService: services[j], Servers: was.Services[j].Servers})
			}
		}
		s := Service{VirtualService: *v}
		if old := was.Services.at(v.ServiceKey); old != nil && c.foundAgain(old.Servers) {
			s.Servers = old.Servers // with the reasons that the kernel does not know
		} else {
			if rows == nil || !c.foundAgain(rows) {
				rows = c.sorted()
			}
			s.Servers = rows
		}
		fresh = append(fresh, s)
	}
	switch {
	case fresh != nil:
		return shard{Services: fresh}, nil
	case len(services) == len(was.Services):
		return was, nil
	}
	return shard{Services: slices.Clone(was.Services[:len(services)])}, nil
}

// rows dumps the real servers of service k into c.found, in the kernel's order.
func (c *ipvsConn) rows(k *ServiceKey) error {
	c.found = c.found[:0]
	return c.listServers(k, func(body []byte) error {
		c.found = append(c.found, Row{})
		return decodeServer(body, k, &c.found[len(c.found)-1].RealServer, nil, nil)
	})
}

// foundAgain reports whether c.found is known, which is in table order. The
// kernel's order is another one, by age; most services have the same.
func (c *ipvsConn) foundAgain(known []Row) bool {
	n := len(c.found)
	if n != len(known) {
		return false
	}
	if len(c.order) == n {
		i := 0
		for i < n && known[c.order[i]].RealServer == c.found[i].RealServer {
			i++
		}
		if i == n {
			return true
		}
	}
	order := make([]int, n)
	seen := make([]bool, n)
	for i := range c.found {
		r := &c.found[i].RealServer
		at, ok := slices.BinarySearchFunc(known, *r, func(k Row, r RealServer) int { return k.Compare(r) })
		if !ok || seen[at] || known[at].RealServer != *r {
			return false
		}
		order[i], seen[at] = at, true
	}
	c.order = order
	return true
}

// sorted is c.found in table order.
func (c *ipvsConn) sorted() []Row {
	rows := slices.Clone(c.found)
	slices.SortFunc(rows, compareRows)
	// A table that changes during the dump can show a row twice.
	return slices.CompactFunc(rows, func(a, b Row) bool { return a.SameServer(b.RealServer) })
}

// KernelService is a virtual service as a dump shows it.
type KernelService struct {
	VirtualService
	Traffic Traffic
	Servers []KernelServer
}

// Observe passes the services that owned accepts, with their counters, to visit
// in table order, for status and metrics. One at a time: what visit is given is
// valid until it returns.
func (c *ipvsConn) Observe(owned func(ServiceKey) bool, visit func(*KernelService)) error {
	var all []KernelService
	if err := c.services(true, func(v *VirtualService, t Traffic) {
		if owned(v.ServiceKey) {
			all = append(all, KernelService{VirtualService: *v, Traffic: t})
		}
	}); err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b KernelService) int { return a.Compare(b.ServiceKey) })
	var servers []KernelServer
	for i := range all {
		s := &all[i]
		servers = servers[:0]
		if err := c.servers(&s.ServiceKey, true, func(r *KernelServer) { servers = append(servers, *r) }); err != nil {
			return err
		}
		slices.SortFunc(servers, func(a, b KernelServer) int { return a.Compare(b.RealServer) })
		s.Servers = servers
		visit(s)
		s.Servers = nil
	}
	return nil
}
