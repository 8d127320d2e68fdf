// What the reconcile loop works with: the kernel's IPVS, the host, and its inputs.
//
// Used by reconcile*.go, http*.go and main.go. It decides nothing.

package main

import (
	"context"
	"log/slog"
	"time"
)

// director is the kernel's IPVS as the loop needs it. *ipvsConn is the real
// one.
type director interface {
	// Table reads the services that owned accepts. A shard that is as known has it
	// is shared with known. It ends early with errGaveWay, which breaks nothing, when
	// newer reports true; nil never does.
	Table(owned func(ServiceKey) bool, known shards, newer func() bool) (shards, error)
	// Loads are the loads of the shards that Table has read last. The next Table
	// changes them.
	Loads() map[ServiceKey]Load
	// Connections passes those real servers of s that leave to visit, if the kernel has
	// them, with address, port, weight and connections. It may pass others too.
	Connections(s *Service, visit func(KernelServer)) error
	// Apply returns the operations that the kernel refused; the error means
	// that the conversation broke, and it is unknown what was done.
	Apply(ops []op) ([]*opError, error)
	Timeouts() (Timeouts, error)
	SetTimeouts(Timeouts) error
	syncDaemons
	Close() error
}

// host is what the loop keeps right beside the IPVS table.
type host interface {
	// Prepare sets the host's sysctls for cfg. It changes only what differs and
	// logs each change.
	Prepare(ctx context.Context, cfg *Config) error
	// Announce makes want the VIP addresses that this host has through us, and
	// returns what it has come to, also with an error.
	Announce(ctx context.Context, cfg *Config, want vipAddresses) (vipsOnHost, error)
	// LostAddress reports whether another program has taken a VIP's address away since
	// the last Announce.
	LostAddress() bool
	// Uplink says why the uplink carries no traffic; nil when it does.
	Uplink() error
	// Mark makes marks the packets that get a firewall mark from us. Those from peers
	// get none.
	Mark(marks map[MarkedPort]uint32, peers []macAddress) error
	// LostMarks reports whether another program has changed the marks since the last
	// Mark.
	LostMarks() bool
	// Marked is what the host marks now, never nil without an error.
	Marked() (map[MarkedPort]uint32, error)
	// Untrack makes want the packets that the host's connection tracking does not see.
	// An error says what it sees all the same.
	Untrack(want untracked) error
	// LostUntracked reports whether another program has changed that since the last
	// Untrack.
	LostUntracked() bool
	// SuppressICMP keeps the host from sending ICMP errors until restore is called.
	SuppressICMP(cfg *Config) (restore func())
	// DeviceIndex is the kernel's number of a device, 0 when there is none.
	DeviceIndex(name string) int
}

// loopNeeds is what the loop works with. All of it is there before the loop
// begins; recheck and cacheDir may be missing.
type loopNeeds struct {
	log     *slog.Logger
	wake    chan struct{} // rung for each new input
	config  *latest[Config]
	cluster *latest[Cluster]
	health  *latest[Health]    // what probes have found
	probes  *latest[ProbePlan] // which real servers to probe
	// unresolved is what the neighbour table says, and resolving whose entries it
	// looks at.
	unresolved *latest[Health]
	resolving  *latest[[]resolveSet]
	// routes is which real servers of routing are behind a router.
	routes   *latest[Health]
	routing  *latest[[]resolveSet]
	recheck  chan<- struct{} // rung now and then while the loop is awake anyway
	dial     func() (director, error)
	host     host
	state    *savedState
	cacheDir string // where an operator's drain is ordered; "": nowhere
	now      func() time.Time
	report   *loopReport  // nil: there is no service manager
	events   *eventRecord // nil: none are kept
}

// syncDaemons is the kernel's half of connection synchronisation, part of
// director.
type syncDaemons interface {
	Daemons() ([]SyncDaemon, error)
	StartDaemon(SyncDaemon) error
	StopDaemon(SyncRole) error
}

// kernelTable is what the loop knows of the kernel's table.
type kernelTable struct {
	director director  // nil: there is no open conversation
	have     shards    // the table as far as it is ours, and who is leaving; while stale, what it was taken for last
	stale    bool      // have must be read from the kernel
	compared time.Time // when have was last read from the kernel; zero: not yet
	brokenAt time.Time // since when no conversation succeeds; zero: one is open
}

// broken closes the socket after its conversation failed, so that the next pass
// begins with a new one.
func (k *kernelTable) broken(err error) error {
	k.director.Close()
	k.director, k.stale = nil, true
	return err
}
