// The flag -cleanup: removes from the kernel what the controller put there.
//
// Used by main.go. It removes the services, marks, sync daemons, addresses and the
// dummy device that are the controller's by its state file or the configuration, and
// nothing else. It never flushes a table.

package main

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// cleanUp removes the services on each address that is or was the controller's, its
// sync daemons, the addresses that it put on devices, and its dummy device. It touches
// nothing else.
func cleanUp(ctx context.Context, log *slog.Logger, cfg *Config, dir *stateDir) error {
	st, err := dir.load()
	if err != nil {
		log.Error("the saved state cannot be used: what it alone names is not removed", "err", err)
	}
	o := newOwners(cfg).withPorts(st.Memory.Ports)
	d, err := dialIPVS()
	if err != nil {
		return err
	}
	defer d.Close()
	table, err := d.Table(func(k ServiceKey) bool {
		_, marked := st.Marks[k.Mark]
		return o.of(k) != nil || st.Owned[k.Address] || marked
	}, nil, nil)
	if err != nil {
		return err
	}
	for i := range table {
		for j := range table[i].Services {
			if s := &table[i].Services[j]; o.of(s.ServiceKey) != nil {
				s.VIP = o.of(s.ServiceKey).Name
			}
		}
	}
	ops := diff(nil, table)
	var failed []*opError
	for _, phase := range ops {
		for i := range phase {
			phase[i].because("clean-up")
		}
		refused, err := d.Apply(phase)
		if err != nil {
			return err
		}
		failed = append(failed, refused...)
	}
	errs := groupErrors(failed)
	if len(failed) == 0 {
		logChanges(log, &ops, nil, nil, time.Time{})
	}
	errs = append(errs, stopDaemons(d, st.Daemons), newLinuxHost(log, st.Addresses, st.Local, nil).Clear(ctx, cfg.AnnounceDevice))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if since, err := drainedSince(cfg.CacheDir); err == nil && !since.IsZero() {
		log.Warn("the operator's drain stays in force: a controller that starts again is drained", "since", since)
	}
	return errors.Join(removeConfirmation(dir.path), dir.save(newState()))
}
