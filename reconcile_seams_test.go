// Faults at every call that the loop makes: of the netlink socket, of each request, of
// the host, and of the dialling. The scenarios are in reconcile_seams_scenarios_test.go.

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// seam is where the loop meets what can fail.
type seam int

const (
	seamWrite   seam = iota // a system call that sends requests
	seamRead                // a system call that brings an answer
	seamMessage             // one request, as the kernel carries it out
	seamDial                // a new socket
	seamHost                // a call of the interface host
	seams
)

var seamNames = [seams]string{"write", "read", "request", "dial", "host"}

// seamFault is what goes wrong at one call.
type seamFault struct {
	name   string
	errno  unix.Errno
	err    error               // of the host and of the dialling
	late   bool                // a list ends with it, a change has been made all the same
	mangle func([]byte) []byte // what comes of an answer
	silent bool                // nothing has gone wrong yet
	last   []byte              // the answer that errno has struck last
}

// struck notes that next was struck, and reports whether it had been before.
func (f *seamFault) struck(next []byte) bool {
	before := len(f.last) > 0 && &f.last[0] == &next[0]
	f.last = next
	return before
}

// mustBeSaid reports whether the loop cannot know after the fault what came of the call.
func (f *seamFault) mustBeSaid(s seam, label string) bool {
	switch {
	case f.silent || s == seamHost || s == seamMessage:
		return false // what the host and the kernel refuse may be what is wanted
	case f.name == faultInterrupted:
		return strings.HasPrefix(label, "list")
	}
	return true
}

const faultInterrupted = "list interrupted"

// errnos are those that the kernel's networking has for a request.
var errnos = []unix.Errno{unix.ENOBUFS, unix.EINTR, unix.EAGAIN, unix.EEXIST, unix.ENOENT, unix.ESRCH, unix.ENOMEM, unix.EINVAL, unix.EPERM, unix.EBUSY}

// seamFaults are all faults of each seam.
func seamFaults() (all [seams][]seamFault) {
	add := func(s seam, f seamFault) { all[s] = append(all[s], f) }
	for _, e := range errnos {
		name := unix.ErrnoName(e)
		add(seamMessage, seamFault{name: name, errno: e})
		add(seamMessage, seamFault{name: name + " late", errno: e, late: true})
		add(seamHost, seamFault{name: name, err: fmt.Errorf("test: %w", e)})
		if e == unix.EEXIST || e == unix.ENOENT || e == unix.ESRCH || e == unix.EBUSY {
			continue // not of a socket
		}
		add(seamWrite, seamFault{name: name, errno: e})
		add(seamRead, seamFault{name: name, errno: e, silent: e == unix.EINTR})
	}
	for _, e := range []error{errNoIPVS, unix.EMFILE, unix.ENOBUFS, unix.EPERM} {
		add(seamDial, seamFault{name: e.Error(), err: e})
	}
	cut := func(n int) func([]byte) []byte {
		return func(b []byte) []byte { return b[:min(n, len(b))] }
	}
	for _, n := range []int{1, unix.NLMSG_HDRLEN - 1, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN + 3} {
		add(seamRead, seamFault{name: fmt.Sprintf("cut after %d bytes", n), mangle: cut(n)})
	}
	add(seamRead, seamFault{name: "cut in the middle", mangle: func(b []byte) []byte { return b[:len(b)/2] }})
	add(seamRead, seamFault{name: "cut before the last byte", mangle: func(b []byte) []byte { return b[:len(b)-1] }})
	add(seamRead, seamFault{name: "a length past the end", mangle: func(b []byte) []byte {
		binary.NativeEndian.PutUint32(b, 1<<31-1)
		return b
	}})
	add(seamRead, seamFault{name: "a length of nothing", mangle: func(b []byte) []byte {
		binary.NativeEndian.PutUint32(b, 0)
		return b
	}})
	add(seamRead, seamFault{name: faultInterrupted, mangle: func(b []byte) []byte {
		binary.NativeEndian.PutUint16(b[6:], binary.NativeEndian.Uint16(b[6:])|unix.NLM_F_DUMP_INTR)
		return b
	}})
	return all
}

// faultPlan counts the calls at each seam, and says where which fault is.
type faultPlan struct {
	armed   bool // calls are counted, and the fault may strike
	fault   *seamFault
	at      seam
	index   int      // of the call that is struck
	lasting bool     // so is each later one that has the same label
	usual   []string // what is said without a fault

	count  [seams]int
	labels [seams][]string // of the calls, in a run without a fault
	struck string          // the label of the call that was struck; "": none yet
	over   bool
}

// meet is called with each call. It returns the fault that strikes it, nil for none.
func (p *faultPlan) meet(s seam, label string) *seamFault {
	if !p.armed || p.over {
		return nil
	}
	i := p.count[s]
	p.count[s]++
	if p.fault == nil {
		p.labels[s] = append(p.labels[s], label)
		return nil
	}
	if p.at != s {
		return nil
	}
	if i == p.index {
		p.struck = label
		return p.fault
	}
	if p.lasting && p.struck != "" && p.struck == label {
		return p.fault
	}
	return nil
}

// seamHostFake is a host whose calls fail, and which has what it was last asked for.
type seamHostFake struct {
	noHost
	faults    *faultPlan
	marks     map[MarkedPort]uint32
	untracked untracked
	addresses []VIPAddress
	prepared  *Config
}

func (h *seamHostFake) meet(call string) error {
	if f := h.faults.meet(seamHost, call); f != nil {
		return f.err
	}
	return nil
}

func (h *seamHostFake) Prepare(_ context.Context, cfg *Config) error {
	if err := h.meet("Prepare"); err != nil {
		return err
	}
	h.prepared = cfg
	return nil
}

func (h *seamHostFake) Announce(_ context.Context, _ *Config, want vipAddresses) (vipsOnHost, error) {
	err := h.meet("Announce")
	if err == nil {
		h.addresses = nil
		for _, a := range want.Announced {
			h.addresses = append(h.addresses, VIPAddress{Device: "eth0", Address: a})
		}
	}
	return vipsOnHost{Addresses: slices.Clone(h.addresses)}, err
}

func (h *seamHostFake) Mark(marks map[MarkedPort]uint32, _ []macAddress) error {
	if err := h.meet("Mark"); err != nil {
		return err
	}
	h.marks = maps.Clone(marks)
	return nil
}

func (h *seamHostFake) Marked() (map[MarkedPort]uint32, error) {
	if err := h.meet("Marked"); err != nil {
		return nil, err
	}
	if h.marks == nil {
		return map[MarkedPort]uint32{}, nil
	}
	return maps.Clone(h.marks), nil
}

func (h *seamHostFake) Untrack(want untracked) error {
	if err := h.meet("Untrack"); err != nil {
		return err
	}
	h.untracked = want
	return nil
}

func (h *seamHostFake) Uplink() error { return h.meet("Uplink") }

// text is what the host has.
func (h *seamHostFake) text() string {
	var lines []string
	for p, mark := range h.marks {
		lines = append(lines, fmt.Sprintf("mark %s %d\n", p.service(), mark))
	}
	for _, p := range h.untracked.Ports {
		lines = append(lines, fmt.Sprintf("untracked %s\n", p.service()))
	}
	for _, a := range h.addresses {
		lines = append(lines, fmt.Sprintf("address %s\n", a.Address))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// seamRun is one run of a scenario.
type seamRun struct {
	*bench
	faults  *faultPlan
	host    *seamHostFake
	serving ServiceKey // is not to lose its last real server in service; zero: there is none
	wrong   []string
}

const (
	seamCalm     = 11 * time.Second // how long a scenario goes on: it has an audit
	seamLasts    = time.Minute      // how long a lasting fault lasts
	seamRecovers = 25 * time.Second // from the end of the fault until all is right: a retry and an audit
)

var seamForeign = service("10.9.9.9:80/tcp", "10.1.0.1", 7, "10.1.0.9", 0)

func newSeamRun(t *testing.T, dir string, faults *faultPlan) *seamRun {
	r := &seamRun{faults: faults, host: &seamHostFake{faults: faults}}
	r.bench = &bench{t: t, kernel: newFakeKernel(), clock: testTime, dir: dir, log: new(bytes.Buffer), awake: true}
	r.put(seamForeign)
	r.kernel.timeouts = Timeouts{15 * time.Minute, 2 * time.Minute, 5 * time.Minute}
	r.kernel.onApply = func(o op) {
		if o.Service.ServiceKey == seamForeign.ServiceKey {
			r.fails("%s touches what is not ours", o)
		}
		r.mustServe()
	}
	r.restart()
	return r
}

// restart is kill -9 and a new process.
func (r *seamRun) restart() {
	r.bench.restart()
	r.loop.host = r.host
	r.loop.dial = func() (director, error) {
		if f := r.faults.meet(seamDial, "dial"); f != nil {
			return nil, f.err
		}
		return newFakeConn(r.kernel, r.faults), nil
	}
}

func (r *seamRun) fails(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// mustServe is for the service that has clients all the time.
func (r *seamRun) mustServe() {
	if r.serving == (ServiceKey{}) {
		return
	}
	for id, s := range r.kernel.servers {
		if id.Service == r.serving && s.Weight > 0 {
			return
		}
	}
	r.fails("%s has no real server in service", r.serving)
	r.serving = ServiceKey{}
}

// state is all that is there at the end: what is ours, and what is not.
func (r *seamRun) state() string {
	daemons, _ := r.kernel.Daemons()
	var services strings.Builder
	for _, s := range r.kernel.table(func(ServiceKey) bool { return true }) {
		fmt.Fprintf(&services, "%s %d %d %d\n", s.ServiceKey, s.Flags, s.Persistence, s.Netmask)
	}
	return services.String() + r.kernel.table(func(ServiceKey) bool { return true }).text() + r.host.text() +
		fmt.Sprintf("timeouts %v\ndaemons %v\nprepared %t\n", r.kernel.timeouts, daemons, r.host.prepared == r.loop.config.Get())
}

// since returns the complaints of the log from byte n on, without their times.
func (r *seamRun) since(n int) (complaints []string) {
	for line := range strings.Lines(r.log.String()[n:]) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "level=WARN") {
			complaints = append(complaints, logTime.ReplaceAllLiteralString(strings.TrimSpace(line), ""))
		}
	}
	return complaints
}

var logTime = regexp.MustCompile(`^time=\S+ `)

// play runs the scenario with the faults of the plan.
func (r *seamRun) play(s *seamScenario) {
	s.begin(r)
	r.log.Reset()
	r.faults.armed = true
	s.change(r)
	r.loop.pass(context.Background())
	r.later(seamCalm)
	if r.faults.lasting {
		// What has been said is not said again: after a few attempts there is silence.
		said := r.log.Len()
		r.later(seamLasts)
		for _, line := range r.since(said) {
			r.fails("said while the fault goes on: %s", line)
		}
	}
	all := r.since(0)
	for i, line := range all {
		if slices.Contains(all[:i], line) {
			r.fails("said twice: %s", line)
		}
	}
	r.faults.over = true
	said := r.log.Len()
	r.later(seamRecovers)
	for _, line := range r.since(said) {
		if !slices.Contains(r.faults.usual, line) {
			r.fails("said after the fault: %s", line)
		}
	}
	r.settled()
}

// settled checks what has to be so when all is over.
func (r *seamRun) settled() {
	log := r.log.String()
	for begin, end := range map[string]string{
		"the IPVS table could not be updated completely":     "the IPVS table is complete again",
		"the host refuses a setting that the director needs": "the host accepts again what it refused",
		"notrack could not be carried out":                   "notrack is carried out again",
		"no traffic is sent to this director":                "",
	} {
		begins, ends := strings.Contains(log, begin), end != "" && strings.Contains(log, end)
		if end != "" && begins != ends {
			r.fails("%q was said: %t, and %q: %t", begin, begins, end, ends)
		}
	}
	if err := r.loop.published.Load().ready(r.clock); err != nil {
		r.fails("the director is not ready: %v", err)
	}
	r.mustServe()
	applied, said := len(r.kernel.applied), r.log.Len()
	r.later(seamCalm)
	if n := len(r.kernel.applied) - applied; n > 0 {
		r.fails("it goes on changing the table: %s", r.kernel.applied[applied])
	}
	if text := r.log.String()[said:]; text != "" {
		r.fails("it goes on speaking: %s", text)
	}
}

// TestSeams has each fault happen at each call of each scenario, once, and for as long
// as seamLasts. -short takes each eleventh.
func TestSeams(t *testing.T) {
	stride := 1
	if testing.Short() {
		stride = 11
	}
	var calls, faults, runs int
	for _, list := range seamFaults() {
		faults += len(list)
	}
	base, err := os.MkdirTemp("/dev/shm", "seams-") // a run writes a state file some 20 times
	if err != nil {
		base = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	once := func(t *testing.T, s *seamScenario, plan *faultPlan) *seamRun {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		r := newSeamRun(t, dir, plan)
		r.play(s)
		return r
	}
	n := 0
	for i := range seamScenarios {
		s := &seamScenarios[i]
		t.Run(s.name, func(t *testing.T) {
			whole := once(t, s, &faultPlan{})
			if len(whole.wrong) > 0 {
				t.Fatalf("without a fault: %s\n%s", strings.Join(whole.wrong, "\n"), whole.log)
			}
			want := whole.state()
			if table := whole.kernel.table(func(k ServiceKey) bool { return k != seamForeign.ServiceKey }).text(); table != s.table {
				t.Fatalf("table:\n%swant:\n%s", table, s.table)
			}
			complaints := whole.since(0)
			for at, list := range seamFaults() {
				labels := whole.faults.labels[at]
				t.Logf("%d calls at the seam %q", len(labels), seamNames[at])
				calls += len(labels)
				for index, label := range labels {
					for f := range list {
						for _, lasting := range []bool{false, true} {
							if n++; n%stride != 0 {
								continue
							}
							runs++
							fault := list[f]
							r := once(t, s, &faultPlan{fault: &fault, at: seam(at), index: index, lasting: lasting, usual: complaints})
							if got := r.state(); got != want {
								r.fails("at the end:\n%swant:\n%s", got, want)
							}
							if said := r.since(0); fault.silent && len(said) > len(complaints) {
								r.fails("this is no fault, and was said: %q", said)
							}
							if r.faults.struck == "" {
								r.fails("the call was not made")
							}
							if fault.mustBeSaid(seam(at), label) && len(r.since(0)) <= len(complaints) {
								r.fails("nothing was said of it")
							}
							if len(r.wrong) > 0 {
								t.Errorf("%s %d (%s): %s, lasting %t: %s\nlog:\n%s", seamNames[at], index, label, fault.name, lasting, strings.Join(r.wrong, "\n"), r.log)
							}
						}
					}
				}
			}
		})
	}
	t.Logf("%d scenarios, %d calls, %d faults, %d runs", len(seamScenarios), calls, faults, runs)
}
