//go:build ipvs

package main

import (
	"fmt"
	"testing"

	"lvs-controller/test/lab"
)

// A table that is as known costs no memory to read, and a batch none to send,
// however many rows there are.
func TestKernelLeavesNoGarbage(t *testing.T) {
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	director := l.Host("director", 2)
	var (
		conn *ipvsConn
		err  error
	)
	director.Do(func() { conn, err = dialIPVS() })
	lab.Must(t, err)
	defer conn.Close()

	const services, servers = 40, 50
	var want [2]Table // the same with other weights
	for weight := range want {
		for i := range services {
			var pairs []any
			for j := range servers {
				pairs = append(pairs, fmt.Sprintf("10.0.0.%d", 100+j), weight+1)
			}
			want[weight] = append(want[weight], service(fmt.Sprintf("10.0.0.1:%d/tcp", 8000+i), pairs...))
		}
	}
	failed, err := conn.Apply(diffTables(want[0], nil))
	lab.Must(t, err)
	if len(failed) > 0 {
		t.Fatal(failed[0])
	}
	all := func(ServiceKey) bool { return true }
	known, err := conn.Table(all, nil)
	lab.Must(t, err)
	if got := known.table().text(); got != want[0].text() {
		t.Fatalf("the kernel has:\n%s", got)
	}
	same, err := conn.Table(all, known)
	lab.Must(t, err)
	if len(same) != len(known) || &same[0].Services[0] != &known[0].Services[0] {
		t.Error("a table that is as known is not shared with it")
	}

	// A few for the whole, none for each of 2000 rows or 40 services.
	const few = 20
	if n := testing.AllocsPerRun(5, func() {
		if _, err := conn.Table(all, known); err != nil {
			t.Error(err)
		}
	}); n > few {
		t.Errorf("reading %d rows allocates %v times", services*servers, n)
	}
	batches := [][]op{diffTables(want[1], want[0]), diffTables(want[0], want[1])}
	i := 0
	if n := testing.AllocsPerRun(6, func() {
		if _, err := conn.Apply(batches[i%2]); err != nil {
			t.Error(err)
		}
		i++
	}); n > few {
		t.Errorf("sending %d changes allocates %v times", services*servers, n)
	}

	// What has changed comes back new, and nothing else does.
	edited := want[0][7]
	edited.Servers = edited.Servers[:10]
	now, err := conn.Table(all, nil)
	lab.Must(t, err)
	_, err = conn.Apply(diffTables(Table{edited}, Table{*now.find(edited.ServiceKey)}))
	lab.Must(t, err)
	after, err := conn.Table(all, now)
	lab.Must(t, err)
	for s := range after.all {
		old, n := now.find(s.ServiceKey), servers
		if s.ServiceKey == edited.ServiceKey {
			n = 10
		} else if &s.Servers[0] != &old.Servers[0] {
			t.Errorf("%s has not changed and is new memory", s.ServiceKey)
		}
		if len(s.Servers) != n {
			t.Errorf("%s has %d real servers, want %d", s.ServiceKey, len(s.Servers), n)
		}
	}
}
