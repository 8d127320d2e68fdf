// How often a service gets another scheduler.
//
// Used by reconcile.go. Pure but for its memory of when that was. While the kernel
// exchanges a scheduler, the service has none for a moment.

package main

import (
	"maps"
	"time"
)

// exchangesAtOnce bounds how many schedulers are exchanged in one pass. Each
// keeps the kernel busy for an RCU grace period, and newer inputs wait.
const exchangesAtOnce = 16

// exchangePause is how long a service keeps its scheduler at the least. A client
// whose SYN met an exchange repeats it after one second, and after three: the
// next exchange must not be what it meets then.
const exchangePause = 2 * time.Second

// exchanges reports whether o gives a service another scheduler.
func (o op) exchanges() bool {
	return o.Kind == setService && o.WasService.Scheduler != o.Service.Scheduler
}

// exchanges are when services got another scheduler, a moment ago.
type exchanges map[ServiceKey]time.Time

// some takes out of ops, which edit services, the exchanges of schedulers that are
// too many for one pass or too soon after another. due is when one of those may
// come; zero when there is none.
func (e exchanges) some(ops []op, now time.Time) (some, postponed []op, due time.Time) {
	maps.DeleteFunc(e, func(_ ServiceKey, at time.Time) bool { return now.Sub(at) >= exchangePause })
	n := 0
	for _, o := range ops {
		if o.exchanges() {
			next := now
			last, recent := e[o.Service.ServiceKey]
			if recent {
				next = last.Add(exchangePause)
			}
			if recent || n == exchangesAtOnce {
				postponed = append(postponed, o)
				due = earlier(due, next)
				continue
			}
			n++
		}
		some = append(some, o)
	}
	return some, postponed, due
}
