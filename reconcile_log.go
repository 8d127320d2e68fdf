// One log line for each change of the kernel's table, with its reason.
//
// Used by cmd_cleanup.go. logChanges gets what was done, groupErrors what was
// refused. It decides nothing.

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// changeLine is what the changes of one log line have in common.
type changeLine struct {
	kind           opKind
	vip            string
	address        netip.Addr // of the VIP
	server         string
	change, reason string
}

// logLine is a line in the making.
type logLine struct {
	changeLine
	now, was *RealServer // of its first operation
	services portList
	edit     *edit // of its last operation
	next     int   // the line of the operation that followed it last
}

// covers reports whether o belongs to l, as far as a quick comparison shows.
func (l *logLine) covers(o *op) bool {
	return o.Server != nil && l.now == o.Server && l.was == o.WasServer && l.kind == o.Kind &&
		l.address == o.Service.Address && l.reason == o.Why && l.vip == o.Service.VIP
}

// logChanges writes one line per change, and keeps the last of them in kept and events. The same
// change to several services of a VIP (a node that joins 1000 ports) is one line that
// names them.
func logChanges(log *slog.Logger, ops *phases, kept *changeRecord, events *eventRecord, now time.Time) {
	if ops.len() == 0 {
		return
	}
	// Services share what changes: the line of an edit's last operation is tried first,
	// for putting a change into words costs more than the change. The edits of a service
	// mostly follow each other as those of the service before.
	var lines []logLine
	last := make(map[*edit]int)
	known := make(map[changeLine]int)
	at := -1
	for o := range ops.all {
		before, found := at, false
		switch {
		case at >= 0 && lines[at].edit == o.edit:
			found = true
		case at >= 0 && lines[lines[at].next].edit == o.edit:
			at, found = lines[at].next, true
		default:
			at, found = last[o.edit]
		}
		if !found || !lines[at].covers(o) {
			l := o.line()
			if at, found = known[l]; !found {
				at = len(lines)
				lines = append(lines, logLine{changeLine: l, now: o.Server, was: o.WasServer})
				known[l] = at
			}
			last[o.edit], lines[at].edit = at, o.edit
		}
		if before >= 0 {
			lines[before].next = at
		}
		lines[at].services.add(&o.Service.ServiceKey)
	}
	events.skip(len(lines) - keptEvents)
	var ports string // of the line before: most have the same
	for i := range lines {
		l := &lines[i]
		if i == 0 || l.services != lines[i-1].services {
			ports = l.services.String()
		}
		attrs := []any{"vip", l.vip, "address", l.address, "ports", ports}
		if l.address.IsUnspecified() {
			attrs = []any{"vip", l.vip, "service", ports}
		}
		if l.server != "" {
			attrs = append(attrs, "server", l.server)
		}
		if l.change != "" {
			attrs = append(attrs, "change", l.change)
		}
		log.Info(changeMessage[l.kind], append(attrs, "why", l.reason)...)
		if len(lines)-i <= keptChanges {
			kept.add(l.forRecord(now, ports))
		}
		if len(lines)-i <= keptEvents && events != nil {
			events.add(l.event(now, ports))
		}
	}
}

// logRepairs writes one line about all of ops that undo what another program did, whatever
// their number: logChanges has the details.
func logRepairs(log *slog.Logger, ops *phases, drift drift) {
	if len(drift) == 0 {
		return
	}
	var first *op
	var removed, edited, added int // by the other program
	for o := range ops.all {
		if !drift.touches(o) {
			continue
		}
		if first == nil {
			first = o
		}
		switch o.Kind {
		case newService, newServer:
			removed++
		case delService, delServer:
			added++
		default:
			edited++
		}
	}
	if first != nil {
		log.Warn("another program has changed the IPVS table; it is repaired", "removed", removed, "edited", edited, "added", added,
			"first", strings.TrimSpace(first.Service.String()+" "+first.serverName()))
	}
}

// line puts o into words.
func (o *op) line() changeLine {
	return changeLine{o.Kind, o.Service.VIP, o.Service.Address, o.serverName(), o.change(), o.Why}
}

// forRecord is l as an entry of the record of changes.
func (l *logLine) forRecord(now time.Time, ports string) *Change {
	c := &Change{Time: now, What: changeMessage[l.kind], VIP: l.vip, Ports: ports, Server: l.server, Change: l.change, Why: l.reason}
	if !l.address.IsUnspecified() {
		c.Address = l.address
	}
	return c
}

// groupErrors makes one error of operations that were refused alike, so that a
// node without a route is one line and not one for each of a VIP's ports. Real
// servers of a service that was refused fail for its sake only and are left out.
func groupErrors(failed []*opError) []error {
	refused := make(map[ServiceKey]bool)
	for _, f := range failed {
		if f.Op.Kind == newService {
			refused[f.Op.Service.ServiceKey] = true
		}
	}
	var order []changeLine
	members := make(map[changeLine][]*opError)
	for _, f := range failed {
		o := &f.Op
		if o.Kind == newServer && refused[o.Service.ServiceKey] {
			continue
		}
		g := changeLine{kind: o.Kind, vip: o.Service.VIP, address: o.Service.Address, server: o.serverName(), reason: f.Err.Error()}
		if members[g] == nil {
			order = append(order, g)
		}
		members[g] = append(members[g], f)
	}
	var errs []error
	for _, g := range order {
		var err error = members[g][0]
		if more := len(members[g]) - 1; more > 0 {
			err = fmt.Errorf("%w, and the same for %d more ports", err, more)
		}
		errs = append(errs, err)
	}
	return errs
}

var changeMessage = [...]string{
	newService: "virtual service added",
	setService: "virtual service edited",
	newServer:  "real server added",
	setServer:  "real server edited",
	delServer:  "real server removed",
	delService: "virtual service removed",
}

// portList names at most eight services by their ports; a log line is for
// reading.
type portList struct {
	first [portsNamed + 1]*ServiceKey
	n     int
}

const portsNamed = 8

func (p *portList) add(k *ServiceKey) {
	if p.n < len(p.first) {
		p.first[p.n] = k
	}
	p.n++
}

func (p *portList) String() string {
	text := ""
	for i, k := range p.first[:min(p.n, len(p.first))] {
		if i == portsNamed && p.n > len(p.first) {
			return fmt.Sprintf("%s and %d more", text, p.n-portsNamed)
		}
		if i > 0 {
			text += ","
		}
		if k.Mark != 0 {
			text += k.String()
		} else {
			text += Port{k.Port, k.Protocol}.String()
		}
	}
	return text
}

func names(servers []RealServer) []string {
	all := make([]string, len(servers))
	for i, s := range servers {
		all[i] = s.Name()
	}
	return all
}

// A warning that comes and goes, or changes, is logged so often at most: in each
// time of warningWindow as many lines as warningLines.
const (
	warningWindow = time.Minute
	warningLines  = 5
)

// warningLog is what has been logged of each warning, by its subject.
type warningLog map[string]loggedWarning

type loggedWarning struct {
	text  string    // as it was logged last; "" = it is over, or has not been logged
	since time.Time // when the present warningWindow began
	lines int       // logged since then
}

// log logs those of warnings and notes that are new or have changed. Notes need no action.
func (l warningLog) log(log *slog.Logger, warnings, notes []Warning, now time.Time) {
	holds := make(map[string]bool)
	for i, w := range slices.Concat(warnings, notes) {
		holds[w.Subject] = true
		known := l[w.Subject]
		if known.text == w.Text {
			continue
		}
		if now.Sub(known.since) >= warningWindow {
			known.since, known.lines = now, 0
		}
		if known.lines < warningLines {
			if i < len(warnings) {
				log.Warn(w.Text)
			} else {
				log.Info(w.Text)
			}
			known.text = w.Text
			known.lines++
		}
		l[w.Subject] = known
	}
	for subject, known := range l {
		switch {
		case holds[subject]:
		case now.Sub(known.since) >= warningWindow:
			delete(l, subject)
		default:
			known.text = ""
			l[subject] = known
		}
	}
}

// flatten gives the parts of errors that were joined, a line each; none for nil. An
// error that adds text to several is one part.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(joined.Unwrap()...).Error() != err.Error() {
		return []error{err}
	}
	var parts []error
	for _, part := range joined.Unwrap() {
		parts = append(parts, flatten(part)...)
	}
	return parts
}

// event is l as an event.
func (l *logLine) event(now time.Time, ports string) Event {
	e := Event{Time: now, Kind: changeKinds[l.kind], VIP: l.vip, Service: ports, Server: l.server, Change: l.change, Reason: l.reason}
	if !l.address.IsUnspecified() {
		e.Address = l.address
	}
	switch l.kind {
	case newServer:
		e.New = new(l.now.Weight)
	case setServer:
		e.Old, e.New = new(l.was.Weight), new(l.now.Weight)
	case delServer:
		e.Old = new(l.now.Weight)
	}
	return e
}

// refusals are what the host refuses, by the kind of thing.
type refusals map[string]failureLog

// log logs what the host refuses of one kind, once, and when it is right again. The end
// of the program in the middle of a pass is no refusal.
func (l refusals) log(needs *loopNeeds, what string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	failing := l[what]
	begins, ends := failing.note(err)
	l[what] = failing
	switch {
	case ends:
		needs.log.Info("the host accepts again what it refused", "what", what)
	case begins:
		for _, part := range flatten(err) {
			needs.log.Error("the host refuses a setting that the director needs", "what", what, "err", part)
		}
	}
}
