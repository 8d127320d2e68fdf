// A kernel for tests, and helpers that make and compare tables.

package main

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// fakeKernel is IPVS for the loop: it has a table, refuses what the kernel would refuse,
// and can refuse more on request. The tests on a real kernel are in test/director; this
// one is for what they cannot cause.
type fakeKernel struct {
	services map[ServiceKey]VirtualService
	servers  map[rowID]RealServer
	conns    map[rowID]Connections
	created  map[ServiceKey]int // how often a service was made, which distinguishes an edit from a re-creation
	timeouts Timeouts
	noRoute  map[netip.Addr]bool // real servers that NEW_DEST refuses
	noSched  map[string]bool
	daemons  map[SyncRole]SyncDaemon // started and not stopped
	noDaemon error                   // what StartDaemon answers
	applied  []op                    // all operations carried out
	dumps    int                     // tables read
	givesWay bool                    // Table ends early
	broken   error                   // returned by Table
	loads    map[ServiceKey]Load
	onApply  func(op)
	breakAt  func(op) bool // where the connection breaks
	refuse   func(op) error
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{
		services: make(map[ServiceKey]VirtualService),
		servers:  make(map[rowID]RealServer),
		conns:    make(map[rowID]Connections),
		created:  make(map[ServiceKey]int),
		noRoute:  make(map[netip.Addr]bool),
		noSched:  make(map[string]bool),
		daemons:  make(map[SyncRole]SyncDaemon),
	}
}

// loopOn is what a loop on k needs: all inputs, which say nothing yet, and a state file
// in dir.
func loopOn(k director, dir string, log *slog.Logger, now func() time.Time) *loopNeeds {
	wake := make(chan struct{}, 1)
	return &loopNeeds{
		log:        log,
		wake:       wake,
		config:     newLatest[Config](wake),
		cluster:    newLatest[Cluster](wake),
		health:     newLatest[Health](wake),
		probes:     newLatest[ProbePlan](),
		unresolved: newLatest[Health](wake),
		resolving:  newLatest[[]resolveSet](),
		routes:     newLatest[Health](wake),
		routing:    newLatest[[]resolveSet](),
		dial:       func() (director, error) { return k, nil },
		host:       noHost{},
		state:      openState(&stateDir{path: dir}, log),
		now:        now,
		events:     new(eventRecord),
	}
}

func (k *fakeKernel) Close() error { return nil }

func (k *fakeKernel) Timeouts() (Timeouts, error) { return k.timeouts, nil }

func (k *fakeKernel) SetTimeouts(t Timeouts) error { k.timeouts = t; return nil }

func (k *fakeKernel) Daemons() ([]SyncDaemon, error) {
	var all []SyncDaemon
	for _, role := range syncRoles {
		if d, runs := k.daemons[role]; runs {
			all = append(all, d)
		}
	}
	return all, nil
}

// StartDaemon fills in what start_sync_thread does.
func (k *fakeKernel) StartDaemon(d SyncDaemon) error {
	if k.noDaemon != nil {
		return k.noDaemon
	}
	if _, runs := k.daemons[d.Role]; runs {
		return unix.EEXIST
	}
	d.Device = 0
	if d.MaxLen == 0 {
		d.MaxLen = 1472
	}
	k.daemons[d.Role] = d
	return nil
}

func (k *fakeKernel) StopDaemon(role SyncRole) error {
	if _, runs := k.daemons[role]; !runs {
		return unix.ESRCH
	}
	delete(k.daemons, role)
	return nil
}

// Table shares with known what is unchanged, as ipvsConn does.
func (k *fakeKernel) Table(owned func(ServiceKey) bool, known shards, newer func() bool) (shards, error) {
	if k.broken != nil {
		return nil, k.broken
	}
	if k.givesWay && newer != nil && newer() {
		return nil, errGaveWay
	}
	k.dumps++
	fresh := split(k.table(owned))
	for i := range fresh {
		at := known.index(fresh[i].Services[0].ServiceKey)
		if at < 0 {
			continue
		}
		was := known[at]
		unchanged := len(was.Services) == len(fresh[i].Services)
		for j := range fresh[i].Services {
			s := &fresh[i].Services[j]
			old := was.Services.at(s.ServiceKey)
			if old != nil && slices.EqualFunc(old.Servers, s.Servers, func(a, b Row) bool { return a.RealServer == b.RealServer }) {
				s.Servers = old.Servers
				unchanged = unchanged && old.VirtualService == s.VirtualService
			} else {
				unchanged = false
			}
		}
		if unchanged {
			fresh[i] = was
		}
	}
	return fresh, nil
}

func (k *fakeKernel) Loads() map[ServiceKey]Load { return k.loads }

// table is the kernel's table, sorted as a dump is.
func (k *fakeKernel) table(owned func(ServiceKey) bool) Table {
	var t Table
	for _, key := range slices.SortedFunc(maps.Keys(k.services), ServiceKey.Compare) {
		if !owned(key) {
			continue
		}
		s := Service{VirtualService: k.services[key]}
		for id, r := range k.servers {
			if id.Service == key {
				s.Servers = append(s.Servers, Row{RealServer: r})
			}
		}
		slices.SortFunc(s.Servers, compareRows)
		t = append(t, s)
	}
	return t
}

func (k *fakeKernel) Connections(s *Service, visit func(KernelServer)) error {
	for id, r := range k.servers {
		if id.Service == s.ServiceKey {
			visit(KernelServer{RealServer: r, Connections: k.conns[id]})
		}
	}
	return nil
}

func (k *fakeKernel) Apply(ops []op) ([]*opError, error) {
	var failed []*opError
	for _, o := range ops {
		if k.onApply != nil {
			k.onApply(o)
		}
		if k.breakAt != nil && k.breakAt(o) {
			return failed, fmt.Errorf("receive: %w", unix.ENOBUFS)
		}
		if err := k.do(o); err != nil {
			failed = append(failed, &opError{Op: o, Err: err})
			continue
		}
		k.applied = append(k.applied, o)
	}
	return failed, nil
}

// do carries out one operation with the errors that ip_vs_ctl.c gives.
func (k *fakeKernel) do(o op) error {
	if k.refuse != nil {
		if err := k.refuse(o); err != nil {
			return err
		}
	}
	key := o.Service.ServiceKey
	_, exists := k.services[key]
	if o.Kind != newService && !exists {
		return unix.ESRCH
	}
	var id rowID
	if o.Server != nil {
		id = rowOf(key, *o.Server)
	}
	_, has := k.servers[id]
	switch o.Kind {
	case newService:
		if exists {
			return unix.EEXIST
		}
		if k.noSched[o.Service.Scheduler] {
			return unix.ENOENT
		}
		k.services[key] = o.Service.VirtualService
		k.created[key]++
	case setService:
		if k.noSched[o.Service.Scheduler] {
			return unix.ENOENT
		}
		k.services[key] = o.Service.VirtualService
	case delService:
		delete(k.services, key)
		for id := range k.servers {
			if id.Service == key {
				delete(k.servers, id)
			}
		}
	case newServer:
		if has {
			return unix.EEXIST
		}
		if k.noRoute[o.Server.Address] {
			return unix.EINVAL
		}
		k.servers[id] = *o.Server
	case setServer:
		if !has {
			return unix.ENOENT
		}
		k.servers[id] = *o.Server
	case delServer:
		if !has {
			return unix.ENOENT
		}
		delete(k.servers, id)
		delete(k.conns, id)
	default:
		return fmt.Errorf("unknown operation %d", o.Kind)
	}
	return nil
}

// table joins the shards.
func (ps shards) table() Table {
	var t Table
	for i := range ps {
		t = append(t, ps[i].Services...)
	}
	return t
}

// desiredAnew is desired without an earlier result and without probes.
func desiredAnew(cfg *Config, cluster *Cluster, before memory, now time.Time) wanted {
	return desired(nil, cfg, cluster, nil, before, now)
}

// diffTables is diff for whole tables, as one list.
func diffTables(want, have Table) []op {
	ops := diff(split(want), split(have))
	return slices.Concat(ops[:]...)
}
