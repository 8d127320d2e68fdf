// The state of this director together with the directory it is kept in.
//
// Used by reconcile*.go and main.go. A pass saves what it is going to do before
// it changes the kernel or a device, so that a process which dies in between
// forgets nothing.

package main

import "log/slog"

// savedState is the state of a director and where it is saved. It belongs to the
// goroutine of the reconcile loop.
type savedState struct {
	*state
	dir     *stateDir
	log     *slog.Logger
	failing failureLog
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

// save writes the state if it has changed. A disk that refuses is logged once: it
// costs the memory of a crash, and no part of the data plane.
func (s *savedState) save() {
	err := s.dir.save(s.state)
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
