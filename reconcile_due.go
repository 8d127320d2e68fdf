// When the loop has to run next although no input is new.
//
// Used by reconcile*.go. It reads no clock: the caller has the time.

package main

import "time"

const (
	// Retries after the kernel refused something: doubling, without end.
	retryFirst = 250 * time.Millisecond
	retryMost  = 10 * time.Second

	// recheckEvery is how often files are read again that may have changed without
	// a notification: in the first pass after so long. An audit ensures that there
	// is a pass.
	recheckEvery = 30 * time.Second
)

// newRetry is the backoff after something was refused.
func newRetry() backoff { return backoff{first: retryFirst, most: retryMost} }

// deadlines are the loop's own. A zero time is never, but for audit, which is
// always due at some time.
type deadlines struct {
	audit     time.Time // the kernel's table is read
	poll      time.Time // connections of draining real servers are counted
	retry     time.Time // what the kernel refused is tried again
	plan      time.Time // the plan changes by itself
	recheck   time.Time // files that may have changed unseen are read; never a reason to run
	retryWait backoff
}

// next is the earliest of d and another one.
func (d *deadlines) next(another time.Time) time.Time {
	return earlier(earlier(d.audit, d.poll), earlier(earlier(d.retry, d.plan), another))
}

// begin is what a pass at the time now does because of deadlines that have come. A
// deadline that has passed is done with, whatever comes of the pass: only retry
// repeats.
func (d *deadlines) begin(now time.Time) (poll, recheck bool) {
	if poll = !d.poll.IsZero() && !now.Before(d.poll); poll {
		d.poll = time.Time{}
	}
	d.plan = time.Time{}
	if recheck = !now.Before(d.recheck); recheck {
		d.recheck = now.Add(recheckEvery)
	}
	return poll, recheck
}

// end notes how a pass at the time now ended.
func (d *deadlines) end(now time.Time, failed bool, auditInterval time.Duration) {
	if !failed {
		d.retry = time.Time{}
		d.retryWait.reset()
		return
	}
	d.retry = now.Add(d.retryWait.next())
	if !d.audit.After(now) {
		d.audit = now.Add(auditInterval)
	}
}
