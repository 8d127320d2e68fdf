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
	dir *stateDir
}

// openState reads the state below dir. A file that cannot be used has been logged
// and gives an empty state.
func openState(dir *stateDir, log *slog.Logger) *savedState {
	st, err := dir.load()
	if err != nil {
		log.Error("start without remembered state", "err", err)
	}
	return &savedState{st, dir}
}

// save writes the state if it has changed.
func (s *savedState) save() error { return s.dir.save(s.state) }

// saveAddresses saves which addresses the controller is about to have on devices.
func (s *savedState) saveAddresses(all []VIPAddress) error {
	s.Addresses = all
	return s.save()
}
