// A table of services with their real servers, and what is remembered about rows
// between two passes.
//
// Used by diff*.go, kube*.go, genl*.go, health_resolve.go, desired*.go, state.go,
// reconcile*.go, http*.go and cmd*.go. Pure: no I/O, no clock, no log.

package main

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Row is a real server in a table: what the kernel has, and why its weight is
// what it is. Why is for people (logs, status) and is never compared.
type Row struct {
	RealServer
	Reason quiesceReason // of weight 0; not known for a row that only the kernel has
	Why    string
}

// quiesceReason is why a real server has weight 0: one of a few, where Why names pods
// and answers.
type quiesceReason uint8

const (
	quiescedOther       quiesceReason = iota
	quiescedNotReady                  // no pod there is ready
	quiescedTerminating               // all pods there end
	quiescedGone                      // no pod or static entry is left
	quiescedPortGone                  // the port is no longer wanted
	quiescedNode                      // the node is cordoned off or excluded by a label
	quiescedWeight                    // the configuration or an annotation says weight 0
	quiescedProbe                     // it fails its probes
	quiescedNeighbour                 // it does not answer ARP or neighbour discovery
	quiescedQuorum                    // too few others serve: the sorry server does
)

// quiesceReasons are the values of the label "reason".
var quiesceReasons = [...]string{
	quiescedOther:       "other",
	quiescedNotReady:    "not_ready",
	quiescedTerminating: "terminating",
	quiescedGone:        "gone",
	quiescedPortGone:    "port_gone",
	quiescedNode:        "node_excluded",
	quiescedWeight:      "weight",
	quiescedProbe:       "probe",
	quiescedNeighbour:   "neighbour",
	quiescedQuorum:      "quorum",
}

func (r quiesceReason) String() string { return quiesceReasons[r] }

// Service is a virtual service with its real servers in Compare order. Servers
// and Leaving are shared between services that have the same ones. They are never
// written to once they are in a table.
type Service struct {
	VirtualService
	VIP     string // name of the [[vip]] it belongs to; "" for a service only the kernel has
	Servers []Row
	Leaving []leaving // those of Servers that drain, and those that are removed now
}

// InService reports whether any real server would get a new connection.
func (s Service) InService() bool { return inService(s.Servers) }

// compareServices and compareRows give a table its order, and compareKeys the same one as
// compareServices.
func compareServices(a, b Service) int { return a.Compare(b.ServiceKey) }

func compareKeys(a, b *Service) int { return a.ServiceKey.compare(&b.ServiceKey) }

func compareRows(a, b Row) int { return a.Compare(b.RealServer) }

// draining reports whether any of s's real servers drains.
func (s *Service) draining() bool {
	return slices.ContainsFunc(s.Leaving, func(l leaving) bool { return !l.Gone })
}

// inService reports whether any row would get a new connection.
func inService(rows []Row) bool {
	return slices.ContainsFunc(rows, func(r Row) bool { return r.Weight > 0 })
}

func sameAs(s RealServer) func(Row) bool {
	return func(r Row) bool { return r.SameServer(s) }
}

// Table is a set of services in Compare order of their keys.
type Table []Service

// at returns the service with key k, nil when there is none.
func (t Table) at(k ServiceKey) *Service {
	if i := t.index(k); i >= 0 {
		return &t[i]
	}
	return nil
}

// index is the place of the service with key k, -1 when there is none.
func (t Table) index(k ServiceKey) int {
	if i, ok := slices.BinarySearchFunc(t, k, func(s Service, k ServiceKey) int { return s.Compare(k) }); ok {
		return i
	}
	return -1
}

// rowID is a real server of a virtual service.
type rowID struct {
	Service ServiceKey
	Address netip.Addr
	Port    uint16
}

func (id rowID) compare(o rowID) int {
	return cmp.Or(id.Service.Compare(o.Service), id.Address.Compare(o.Address), cmp.Compare(id.Port, o.Port))
}

func rowOf(k ServiceKey, r RealServer) rowID { return rowID{k, r.Address, r.Port} }

// drain is the state of a row that drains.
type drain struct {
	Deadline time.Time // removed then at the latest
	Idle     bool      // quiesced, and counted without connections since
}

// leaving is a real server that leaves a service.
type leaving struct {
	Address netip.Addr
	Port    uint16
	drain
	// Gone: it is removed now. The entry stays until the next target is computed:
	// if the kernel refuses the removal, the deadline is still known.
	Gone bool
	Why  string // it leaves, or is removed
}

// findLeaving returns the entry for r, nil when it is not leaving.
func findLeaving(all []leaving, r RealServer) *leaving {
	for i := range all {
		if all[i].Address == r.Address && all[i].Port == r.Port {
			return &all[i]
		}
	}
	return nil
}

// Why something leaves that the inputs no longer mention.
const (
	noPod     = "no pod or static entry left"
	noService = "port no longer wanted"
)

// memory is what desired needs to know of the past.
type memory struct {
	// Working are the real servers that were in service last because of their
	// pods, with their whole weights. A VIP falls back on them when no real server
	// is left. Static ones are configured and not remembered.
	Working map[workKey][]RealServer
	// Started is when real servers that are still in slow start joined.
	Started map[startKey]time.Time
	// Ports are the names of the VIPs that have the ports of addresses which several
	// VIPs share.
	Ports map[ServiceKey]string
	// Below are the sets that were below their quorum last.
	Below map[workKey]bool
	// Short is since when too few are in service of sets that are not below their quorum
	// yet. It is not saved: after a restart the time begins again.
	Short map[workKey]time.Time
}

func newMemory() memory {
	return memory{Working: make(map[workKey][]RealServer), Started: make(map[startKey]time.Time), Ports: make(map[ServiceKey]string), Below: make(map[workKey]bool), Short: make(map[workKey]time.Time)}
}

// knows reports whether m has a working set of set.
func (m *memory) knows(set workKey) bool {
	_, known := m.Working[set]
	return known
}

// earlier is the earlier of two times, of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// merged walks two slices sorted by compare side by side. Each step yields the
// elements that are equal, or one element and nil.
func merged[T any](a, b []T, compare func(a, b T) int) func(yield func(x, y *T) bool) {
	return mergedBy(a, b, func(a, b *T) int { return compare(*a, *b) })
}

// mergedBy is merged for large elements, which compare does not copy.
func mergedBy[T any](a, b []T, compare func(a, b *T) int) func(yield func(x, y *T) bool) {
	return func(yield func(x, y *T) bool) {
		i, j := 0, 0
		for i < len(a) || j < len(b) {
			order := 0
			switch {
			case i == len(a):
				order = 1
			case j == len(b):
				order = -1
			default:
				order = compare(&a[i], &b[j])
			}
			var x, y *T
			if order <= 0 {
				x = &a[i]
				i++
			}
			if order >= 0 {
				y = &b[j]
				j++
			}
			if !yield(x, y) {
				return
			}
		}
	}
}
