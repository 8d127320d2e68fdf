// Reads the kernel's IPVS table over the connection of genl_conn.go.
//
// Used by reconcile*.go, http*.go and cmd*.go. The reconcile loop audits with Table,
// by the interface director in reconcile.go. status and the metrics read with
// Observe. A large table is read often and changes seldom, so a row that has not
// changed costs no allocation. It writes nothing.

package main

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// errGaveWay says that the table was not read to its end, because the caller has
// something better to do.
var errGaveWay = errors.New("the kernel's table was not read to its end")

// services passes the virtual services that owned accepts to visit, with their
// counters.
func (c *ipvsConn) services(owned func(ServiceKey) bool, visit func(*KernelService)) error {
	c.enc.command(cmdGetService, unix.NLM_F_DUMP, c.request())
	var s KernelService
	return wrap("list virtual services", c.ask(func(body []byte) error {
		s.Traffic = Traffic{}
		err := decodeService(body, &s.VirtualService, &s.Traffic)
		if err == nil && owned(s.ServiceKey) {
			visit(&s)
		}
		return err
	}))
}

// listServers passes each message about a real server of service k to each. A
// service that does not exist has none.
func (c *ipvsConn) listServers(k *ServiceKey, each func(body []byte) error) error {
	c.enc.dumpServers(*k, c.request())
	if err := c.ask(each); err != nil {
		return fmt.Errorf("list real servers of %s: %w", k, err)
	}
	return nil
}

// Servers passes the real servers of service k, with their counters, to visit.
func (c *ipvsConn) Servers(k ServiceKey, visit func(KernelServer)) error {
	return c.listServers(&k, func(body []byte) error {
		var s KernelServer
		err := decodeServer(body, &k, &s.RealServer, &s.Connections, &s.Traffic)
		if err == nil {
			visit(s)
		}
		return err
	})
}

// Table dumps the services that owned accepts, with their real servers. The real
// servers of other services are not read. Services that have the same real
// servers share them, and a shard that is as known has it is shared with known:
// an audit that finds nothing leaves no garbage. When newer, which may be nil, reports
// true between two services, the answer is errGaveWay and the connection goes on.
func (c *ipvsConn) Table(owned func(ServiceKey) bool, known shards, newer func() bool) (shards, error) {
	keys := c.dumped[:0]
	if c.loads == nil {
		c.loads = make(map[ServiceKey]Load)
	}
	clear(c.loads)
	if err := c.services(owned, func(s *KernelService) {
		keys = append(keys, s.VirtualService)
		l := c.loads[s.shard()]
		l.Traffic.add(&s.Traffic)
		c.loads[s.shard()] = l
	}); err != nil {
		return nil, err
	}
	c.dumped = keys[:0]
	c.remember(keys)
	byKey := func(a, b VirtualService) int { return a.Compare(b.ServiceKey) }
	if !slices.IsSortedFunc(keys, byKey) {
		sortBy(keys, byKey)
	}
	// A table that changes during the dump can show a service twice.
	keys = slices.CompactFunc(keys, func(a, b VirtualService) bool { return a.ServiceKey == b.ServiceKey })

	answers := c.readServers(keys)
	defer answers.close()
	var all shards
	for len(keys) > 0 {
		n := 1
		for n < len(keys) && compareShardKeys(&keys[n].ServiceKey, &keys[0].ServiceKey) == 0 {
			n++
		}
		var was shard
		if i := known.index(keys[0].ServiceKey); i >= 0 {
			was = known[i]
		}
		services, err := c.shard(answers, keys[:n], was.Services, newer)
		if err != nil {
			return nil, err
		}
		l := c.loads[keys[0].shard()]
		l.Connections, c.counted = c.counted, Connections{}
		c.loads[keys[0].shard()] = l
		if !same(services, was.Services) {
			was = shard{Services: services}
		}
		all = append(all, was)
		keys = keys[n:]
	}
	return all, nil
}

// shard decodes the real servers of services, which make up one shard. was is the
// shard as it is known, and the answer when it has not changed.
func (c *ipvsConn) shard(answers *serverAnswers, services []VirtualService, was Table, newer func() bool) (Table, error) {
	var (
		fresh Table // nil while everything is as it was
		rows  []Row // of the last service that was not
	)
	for i := range services {
		v := &services[i]
		if newer != nil && newer() {
			return nil, errGaveWay
		}
		if err := c.rows(answers, &v.ServiceKey); err != nil {
			return nil, fmt.Errorf("list real servers of %s: %w", v.ServiceKey, err)
		}
		if fresh == nil {
			if i < len(was) && was[i].VirtualService == *v && c.foundAgain(was[i].Servers) {
				continue
			}
			fresh = append(make(Table, 0, len(services)), was[:i]...)
		}
		s := Service{VirtualService: *v}
		if old := was.at(v.ServiceKey); old != nil && c.foundAgain(old.Servers) {
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
		return fresh, nil
	case len(services) == len(was):
		return was, nil
	}
	return slices.Clone(was[:len(services)]), nil
}

// rows decodes the real servers of service k into c.found, in the kernel's order.
func (c *ipvsConn) rows(answers *serverAnswers, k *ServiceKey) error {
	c.found = c.found[:0]
	return answers.each(func(body []byte) error {
		c.found = append(c.found, Row{})
		c.one = Connections{}
		err := decodeServer(body, k, &c.found[len(c.found)-1].RealServer, &c.one, nil)
		c.counted.add(c.one)
		return err
	})
}

// Loads returns the loads of the shards that Table has read last.
func (c *ipvsConn) Loads() map[ServiceKey]Load { return c.loads }

// foundAgain reports whether c.found is known, which is in table order. The
// kernel's order is another one, by age; most services have the same.
func (c *ipvsConn) foundAgain(known []Row) bool {
	n := len(c.found)
	if n != len(known) {
		return false
	}
	i := 0
	for len(c.order) == n && i < n && known[c.order[i]].RealServer == c.found[i].RealServer {
		i++
	}
	if i == n {
		return true
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
	sortBy(rows, compareRows)
	// A table that changes during the dump can show a row twice.
	return slices.CompactFunc(rows, func(a, b Row) bool { return a.SameServer(b.RealServer) })
}

// Load is what a part of the table has to do: a shard's, or a VIP's.
type Load struct {
	Connections Connections `json:"connections"` // of its real servers
	Traffic     Traffic     `json:"traffic"`     // of its services
}

// add adds o to l.
func (l *Load) add(o *Load) {
	l.Connections.add(o.Connections)
	l.Traffic.add(&o.Traffic)
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
	if err := c.services(owned, func(s *KernelService) { all = append(all, *s) }); err != nil {
		return err
	}
	sortBy(all, func(a, b KernelService) int { return a.Compare(b.ServiceKey) })
	var servers []KernelServer
	for i := range all {
		s := &all[i]
		servers = servers[:0]
		if err := c.Servers(s.ServiceKey, func(r KernelServer) { servers = append(servers, r) }); err != nil {
			return err
		}
		sortBy(servers, func(a, b KernelServer) int { return a.Compare(b.RealServer) })
		s.Servers = servers
		visit(s)
		s.Servers = nil
	}
	return nil
}
