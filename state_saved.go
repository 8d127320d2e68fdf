// The state of this director together with the directory it is kept in.
//
// Used by reconcile*.go and main.go. A pass saves what it is going to own, and the
// drains that it begins, before it changes the kernel or a device, so that a process
// which dies in between forgets nothing. What is only remembered is saved at the end.

package main

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
)

// savedState is the state of a director and where it is saved. It belongs to the
// goroutine of the reconcile loop.
type savedState struct {
	*state
	dir     *stateDir
	log     *slog.Logger
	failing failureLog
	owned   ownership // what the file has
}

// ownership is the part of a state that says what is the controller's to remove.
type ownership struct {
	vips      map[netip.Addr]bool
	marks     map[uint32]string
	addresses []VIPAddress
	local     []netip.Addr
	daemons   []SyncDaemon
}

func (s *state) ownership() ownership {
	return ownership{s.Owned, s.Marks, s.Addresses, s.Local, s.Daemons}
}

func (o *ownership) equal(other *ownership) bool {
	return maps.Equal(o.vips, other.vips) && maps.Equal(o.marks, other.marks) &&
		slices.Equal(o.addresses, other.addresses) && slices.Equal(o.local, other.local) && slices.Equal(o.daemons, other.daemons)
}

// clone shares nothing with o.
func (o *ownership) clone() ownership {
	return ownership{maps.Clone(o.vips), maps.Clone(o.marks), slices.Clone(o.addresses), slices.Clone(o.local), slices.Clone(o.daemons)}
}

// openState reads the state below dir. A file that cannot be used has been logged
// and gives an empty state.
func openState(dir *stateDir, log *slog.Logger) *savedState {
	st, err := dir.load()
	if err != nil {
		log.Error("start without remembered state", "err", err)
	}
	return &savedState{state: st, dir: dir, log: log}
}

// saveOwned saves the state if it owns something else than the file says.
func (s *savedState) saveOwned() {
	if now := s.ownership(); !now.equal(&s.owned) {
		s.save()
	}
}

// save writes the state if it has changed. A disk that refuses is logged once: it
// costs the memory of a crash, and no part of the data plane.
func (s *savedState) save() {
	err := s.dir.save(s.state)
	if now := s.ownership(); err == nil && !now.equal(&s.owned) {
		s.owned = now.clone()
	}
	switch begins, ends := s.failing.note(err); {
	case begins:
		s.log.Error("the state cannot be saved: the director works on, and a restart does not know what it did since", "err", err)
	case ends:
		s.log.Info("the state is saved again", "file", s.dir.file())
	}
}

// saveAddresses saves which addresses the controller is about to have on devices.
func (s *savedState) saveAddresses(all []VIPAddress) {
	s.Addresses = all
	s.save()
}
