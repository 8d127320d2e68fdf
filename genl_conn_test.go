// Which system calls of a long list of changes the Go scheduler hears of.

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// timedSocket notes how each batch is written, and takes so long for one.
type timedSocket struct {
	fakeSocket
	took    time.Duration
	written []string
}

func (s *timedSocket) write(b []byte) error { return s.note("told", b) }

func (s *timedSocket) writeNow(b []byte) error { return s.note("hurried", b) }

func (s *timedSocket) note(how string, b []byte) error {
	s.written = append(s.written, how)
	time.Sleep(s.took)
	return s.fakeSocket.write(b)
}

// While the kernel takes long, or may wait, the controller's other goroutines go on.
func TestSendHurries(t *testing.T) {
	service := func(port int) *Service {
		return &Service{VIP: "edge", VirtualService: VirtualService{ServiceKey: ServiceKey{Address: netip.MustParseAddr("10.0.0.100"), Protocol: TCP, Port: uint16(port)}, Scheduler: "rr"}}
	}
	of := service(80)
	var services, servers []op
	for i := range 3*batchMessages + 1 {
		services = append(services, op{service(1000 + i), &newServiceEdit})
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		servers = append(servers, op{of, &edit{Kind: newServer, Server: &RealServer{Address: a, Forward: DirectRoute, Weight: 1}}})
	}
	mixed := slices.Clone(servers)
	mixed[2*batchMessages] = services[0]
	for _, c := range []struct {
		name string
		ops  []op
		took time.Duration
		want string
	}{
		{"one batch", servers[:batchMessages], time.Millisecond, "told"},
		{"real servers", servers, time.Millisecond, "told hurried hurried hurried"},
		{"services", services, time.Millisecond, "told told told told"},
		{"a service in the third batch", mixed, time.Millisecond, "told hurried told hurried"},
		{"a slow kernel", servers, hurriedBatch, "told told told told"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				kernel := newFakeKernel()
				socket := &timedSocket{fakeSocket: fakeSocket{kernel: kernel, faults: &faultPlan{}}, took: c.took}
				conn := newFakeConn(kernel, &faultPlan{})
				conn.socket = socket
				if _, err := conn.send(queueOf([][]op{{{of, &newServiceEdit}}})); err != nil {
					t.Fatal(err)
				}
				socket.written = nil
				refused, err := conn.send(queueOf([][]op{slices.Clone(c.ops)}))
				if err != nil || len(refused) > 0 {
					t.Fatal(err, fmt.Sprintf("%d refused", len(refused)))
				}
				if diff := cmp.Diff(c.want, strings.Join(socket.written, " ")); diff != "" {
					t.Error("the batches (-want +got):\n", diff)
				}
			})
		})
	}
}
