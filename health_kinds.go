// What a kind of probe can do.
//
// Used by health*.go. config_health.go has the table of the kinds and says what
// a new one touches; health_NAME.go has the methods of each. The prober and its
// schedule work with probeMethod alone and know no single kind. No I/O.

package main

import (
	"fmt"
	"net"
	"net/netip"
)

// probeMethod is how one kind probes. The prober's goroutine makes all calls.
type probeMethod interface {
	// targets lists what is probed of one real server. It is empty while too
	// little is known of the VIP.
	targets(v *ProbedVIP, s *ProbedServer) []question
	// begin starts a probe. prober.finish ends it, now or later.
	begin(p *prober, t *target)
	// overdue is the outcome of a probe that lasted for its whole timeout.
	overdue(p *prober, t *target) outcome
	// reason describes err, with which a probe failed.
	reason(t *target, err error) string
}

// question is what a probe asks of a real server.
type question struct {
	to   netip.AddrPort // what is connected to
	port uint16         // of a kind for single ports; 0 = the real server as a whole
	via  netip.Addr     // the VIP's address, where a kind asks for each of them
	part uint8          // which of several questions of a kind, from 0
}

// methodOf is how kind k probes.
func (k probeKind) methodOf() probeMethod { return probeKinds[k].method.(probeMethod) }

// fails is the outcome of a probe that failed with err.
func (t *target) fails(err error, silent bool) outcome {
	return outcome{failed, t.kind.methodOf().reason(t, err), silent}
}

// timedOut is the outcome of a probe without an answer.
func (t *target) timedOut() outcome {
	return t.fails(fmt.Errorf("no answer in %s", t.vip.probes.Timeout), true)
}

// attempt is a probe that has begun.
type attempt struct {
	waits attemptStep
	fd    int           // its socket; -1 = none, or none any more
	then  func(*target) // continues when fd is connected, or has an answer
	conn  net.Conn      // of an HTTP exchange, instead of fd
	token uint32        // of a probe of the data path
}

// attemptStep is what an attempt waits for.
type attemptStep uint8

const (
	waitsForSocket  attemptStep = iota // fd
	waitsToBeginTLS                    // too many TLS exchanges run
	waitsForAnswer                     // the end of its HTTP exchange, or a datagram
	waitsForMAC                        // the data path: the node's MAC address
	waitsForSYN                        // the data path: an answer to its SYN
)
