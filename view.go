// What others may see of the reconcile loop: counters and an immutable picture
// of its last turn.
//
// reconcile.go publishes them, http.go and metrics.go read them. Nothing here
// does I/O.

package main

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// counters count since the process started.
type counters struct {
	Reconciles atomic.Uint64
	Failures   atomic.Uint64 // reconciles that could not be finished
	Audits     atomic.Uint64
	Drifts     atomic.Uint64 // audits that found the table changed by another hand
	Changes    [delService + 1]atomic.Uint64
	Refused    atomic.Uint64 // operations that the kernel refused
}

// view is what others may see of the loop: an immutable picture of its last
// turn.
type view struct {
	At       time.Time
	Config   *Config
	Table    Table // what the kernel was brought to, with the reasons
	Kept     []workKey
	Warnings []string
	Err      error // why the table is not in place; nil when it is
}

// InService counts virtual services with and without a real server in service.
func (v *view) InService() (with, without int) {
	for _, s := range v.Table {
		if s.InService() {
			with++
		} else {
			without++
		}
	}
	return with, without
}

// ready says why a director in this state should get no traffic; nil when it
// should.
func (v *view) ready() error {
	if v == nil {
		return errors.New("the table has not been compared with the kernel's yet")
	}
	if v.Err != nil {
		return fmt.Errorf("the table is not in place: %w", v.Err)
	}
	if with, _ := v.InService(); with == 0 {
		return errors.New("no real server is in service")
	}
	return nil
}
