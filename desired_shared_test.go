package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// twoOfOne are two VIPs of one address. Each has its ConfigMap and its pods; the first has
// port 80, and the second 443.
func twoOfOne(edit ...func(web, mail *VIP)) *Config {
	web := testVIP(func(v *VIP) { v.Name = "web" })
	mail := testVIP(func(v *VIP) {
		v.Name, v.Ports, v.Scheduler = "mail", []Port{{443, TCP}}, "wlc"
		v.Pods.Selector, v.TCPServices = "app=mail", ConfigMapName{"ingress-nginx", "mail"}
	})
	for _, e := range edit {
		e(&web, &mail)
	}
	return &Config{VIPs: []VIP{web, mail}}
}

// clusterOfTwo is their cluster. nil for the ports of one means that they are not known.
func clusterOfTwo(web, mail map[string]string) *Cluster {
	c := testCluster(nil, readyPod("web", "10.1.0.1"))
	c.Pods[PodQuery{Namespace: "ingress-nginx", Selector: "app=mail"}] = refs(readyPod("mail", "10.1.0.2"))
	for name, ports := range map[string]map[string]string{"tcp-services": web, "mail": mail} {
		if ports != nil {
			c.ConfigMaps[ConfigMapName{"ingress-nginx", name}] = ConfigMap{Exists: true, Data: ports}
		} else {
			delete(c.ConfigMaps, ConfigMapName{"ingress-nginx", name})
		}
	}
	return c
}

func entries(ports ...string) map[string]string {
	all := map[string]string{}
	for _, p := range ports {
		all[p] = "ns/svc:1"
	}
	return all
}

// Who has a port that both VIPs of an address want: the one that has had it, else the
// first in the file.
func TestDesiredSharesAnAddress(t *testing.T) {
	const (
		http  = "10.0.0.1:80/tcp rr: 10.1.0.1=1\n"
		https = "10.0.0.1:443/tcp wlc: 10.1.0.2=1\n"
	)
	type step struct{ web, mail map[string]string }
	none := entries()
	tests := []struct {
		name  string
		steps []step
		table string
		warns string
	}{
		{"each has its own", []step{{entries("90"), entries("91")}}, http + "10.0.0.1:90/tcp rr: 10.1.0.1=1\n10.0.0.1:91/tcp wlc: 10.1.0.2=1\n" + https, ""},
		{"both want one", []step{{entries("90"), entries("90")}}, http + "10.0.0.1:90/tcp rr: 10.1.0.1=1\n" + https,
			"vip mail: port 10.0.0.1:90/tcp belongs to VIP web, which is before it in the file"},
		{"the second has it already", []step{{none, entries("90")}, {entries("90"), entries("90")}}, http + "10.0.0.1:90/tcp wlc: 10.1.0.2=1\n" + https,
			"vip web: port 10.0.0.1:90/tcp belongs to VIP mail, which has it already"},
		{"until it wants it no more", []step{{none, entries("90")}, {entries("90"), entries("90")}, {entries("90"), none}}, http + "10.0.0.1:90/tcp rr: 10.1.0.1=1\n" + https, ""},
		{"and then the first keeps it", []step{{none, entries("90")}, {entries("90"), none}, {entries("90"), entries("90")}}, http + "10.0.0.1:90/tcp rr: 10.1.0.1=1\n" + https,
			"vip mail: port 10.0.0.1:90/tcp belongs to VIP web, which has it already"},
		{"not while nothing is known of the one that has it", []step{{none, entries("90")}, {entries("90"), nil}}, http + https,
			"vip web: port 10.0.0.1:90/tcp belongs to VIP mail, which has it already"},
		{"a port of the other's configuration", []step{{entries("443"), none}}, http + https,
			"vip web: port 10.0.0.1:443/tcp belongs to VIP mail, which has it in the configuration"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// 80 and 443 are reserved for the configuration.
			cfg := twoOfOne(func(web, mail *VIP) { web.ReservedPorts, mail.ReservedPorts = nil, nil })
			var w wanted
			memory := newMemory()
			for i, s := range tt.steps {
				last := &w
				if i == 0 {
					last = nil
				}
				w = desired(last, cfg, clusterOfTwo(s.web, s.mail), nil, memory, testTime)
				memory = w.Memory
				// The answer does not depend on the one before.
				if alone := desired(nil, cfg, clusterOfTwo(s.web, s.mail), nil, memory, testTime); alone.Shards.table().text() != w.Shards.table().text() {
					t.Errorf("step %d: %s\nand without the one before: %s", i, w.Shards.table().text(), alone.Shards.table().text())
				}
			}
			if diff := cmp.Diff(tt.table, w.Shards.table().text()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warns, strings.Join(warningTexts(w.Warnings), "\n")); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if len(w.Shards) != 1 {
				t.Errorf("%d shards of one address", len(w.Shards))
			}
		})
	}
}

// What leaves a shared address leaves as the VIP says that has had it: its time to drain,
// its doubt, its connection tracking.
func TestSharedAddressLeaves(t *testing.T) {
	cfg := twoOfOne(func(web, mail *VIP) {
		web.Drain.Timeout, mail.Drain.Timeout = time.Second, time.Hour
		mail.NoTrack = true
	})
	before := desired(nil, cfg, clusterOfTwo(entries("90"), entries("91")), nil, newMemory(), testTime)
	have := before.Shards
	key := func(port uint16) ServiceKey { return ServiceKey{Address: addr("10.0.0.1"), Port: port, Protocol: TCP} }
	next := func(w *wanted) Table {
		target := computeTarget(w, have, testTime)
		return target.Shards.table()
	}

	gone := desired(&before, cfg, clusterOfTwo(entries(), entries()), nil, before.Memory, testTime)
	for port, timeout := range map[uint16]time.Duration{90: time.Second, 91: time.Hour} {
		s := next(&gone).at(key(port))
		if s == nil || len(s.Leaving) != 1 || !s.Leaving[0].Deadline.Equal(testTime.Add(timeout)) {
			t.Errorf("port %d drains as %+v, want %s", port, s, timeout)
		}
	}
	exempt := wantedUntracked(gone.Owners, split(next(&gone)), nil, cfg)
	if diff := cmp.Diff([]MarkedPort{key(91).port(), key(443).port()}, exempt.Ports, compareAddrs); diff != "" {
		t.Errorf("exempt from connection tracking (-want +got):\n%s", diff)
	}

	// A restart while the ports of one are not known: the state file knows whose port it is.
	// Without that file each stays.
	st := newState()
	st.Memory = before.Memory
	text, err := st.encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	saved, err := decodeState(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		memory memory
		stays  []uint16
		leaves []uint16
	}{
		"saved":      {saved.Memory, []uint16{91}, []uint16{90}},
		"not saved":  {newMemory(), []uint16{90, 91}, nil},
		"other name": {memory{Ports: map[ServiceKey]string{key(91): "former"}}, []uint16{90, 91}, nil},
	} {
		w := desired(nil, cfg, clusterOfTwo(entries(), nil), nil, test.memory, testTime)
		table := next(&w)
		for _, port := range test.stays {
			if s := table.at(key(port)); s == nil || len(s.Leaving) > 0 || !s.InService() {
				t.Errorf("%s: port %d does not stay: %+v", name, port, s)
			}
		}
		for _, port := range test.leaves {
			if s := table.at(key(port)); s == nil || len(s.Leaving) == 0 {
				t.Errorf("%s: port %d does not leave: %+v", name, port, s)
			}
		}
	}
}

// The planner forgets whose port it was when the kernel has it no more.
func TestSharedPortIsForgotten(t *testing.T) {
	cfg := twoOfOne()
	p := planner{state: newState()}
	p.own(cfg)
	have := shards(nil)
	pass := func(c *Cluster, at time.Time) map[ServiceKey]string {
		next := p.plan(planInputs{cluster: c, health: &Health{}, have: have, now: at})
		have = next.Shards
		return p.state.Memory.Ports
	}
	port := ServiceKey{Address: addr("10.0.0.1"), Port: 91, Protocol: TCP}
	with, without := clusterOfTwo(entries(), entries("91")), clusterOfTwo(entries(), entries())
	for i, step := range []struct {
		cluster *Cluster
		at      time.Time
		owner   string
	}{
		{with, testTime, "mail"},
		{without, testTime, "mail"}, // it drains
		{without, testTime.Add(defaultDrainTimeout), "mail"},
		{without, testTime.Add(defaultDrainTimeout + time.Second), ""},
	} {
		if got := pass(step.cluster, step.at)[port]; got != step.owner {
			t.Errorf("step %d: port 91 is that of %q, want %q", i, got, step.owner)
		}
	}
}

// What a run before this one has left belongs to the VIPs that had it: the names of its
// services, and the real servers that have served.
func TestSharedAddressIsAdopted(t *testing.T) {
	cfg := twoOfOne()
	before := desired(nil, cfg, clusterOfTwo(entries("90"), entries("91")), nil, newMemory(), testTime)
	p := planner{state: newState()}
	p.state.Memory.Ports = before.Memory.Ports
	p.own(cfg)
	read := split(before.Shards.table())
	p.adopt(read, nil)
	var names []string
	for s := range read.all {
		names = append(names, s.ServiceKey.String()+" "+s.VIP)
	}
	want := []string{"10.0.0.1:80/tcp web", "10.0.0.1:90/tcp web", "10.0.0.1:91/tcp mail", "10.0.0.1:443/tcp mail"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("adopted (-want +got):\n%s", diff)
	}
	p.state.Memory.Working[workKey{"web", false}] = []RealServer{before.Shards.table()[0].Servers[0].RealServer} // known already
	p.seed(planInputs{have: read})
	for name, server := range map[string]string{"web": "10.1.0.1", "mail": "10.1.0.2"} {
		if got := p.state.Memory.Working[workKey{name, false}]; len(got) != 1 || got[0].Address != addr(server) {
			t.Errorf("working set of %s: %v, want %s", name, got, server)
		}
	}
}

// A port that another VIP of the address has gets no mark.
func TestSharedAddressMarksItsPorts(t *testing.T) {
	cfg := twoOfOne(func(web, mail *VIP) { mail.OneMark = true })
	cfg.Marks = oneMarkRange
	w := desired(nil, cfg, clusterOfTwo(entries("91"), entries("91", "92")), nil, newMemory(), testTime)
	var marked []string
	for p := range w.Marks {
		marked = append(marked, p.service().String())
	}
	slices.Sort(marked)
	if diff := cmp.Diff([]string{"10.0.0.1:443/tcp", "10.0.0.1:92/tcp"}, marked); diff != "" || w.Shards.find(ServiceKey{Address: addr("10.0.0.1"), Port: 91, Protocol: TCP}) == nil {
		t.Errorf("marked (-want +got):\n%s", diff)
	}
}

// An address that several VIPs share is in a keepalived.conf, and asked for, once.
func TestSharedAddressIsListedOnce(t *testing.T) {
	cfg := twoOfOne()
	v := vrrp{Peer: addr("10.0.0.9"), Source: addr("10.0.0.8")}
	if lines, err := v.left(cfg); err != nil || len(lines) != 1 {
		t.Errorf("keepalived.conf: %q, %v", lines, err)
	}
	for what, all := range map[string][]netip.Addr{"doctor": (&doctorHost{cfg: cfg}).vipAddresses(), "the watch for absent VIPs": leftToOthers(cfg)} {
		if len(all) != 1 {
			t.Errorf("%s: %v", what, all)
		}
	}
}

// The marks of a VIP of whose ports nothing is known yet stay, also where another VIP of the
// address is known.
func TestSharedAddressHoldsMarks(t *testing.T) {
	cfg := twoOfOne(func(web, mail *VIP) { mail.OneMark = true })
	cfg.Marks = oneMarkRange
	before := desired(nil, cfg, clusterOfTwo(entries(), entries("91")), nil, newMemory(), testTime)
	p := planner{state: newState()}
	p.state.Memory = before.Memory
	p.own(cfg)
	w := desired(nil, cfg, clusterOfTwo(entries(), nil), nil, before.Memory, testTime)
	m := hostMarks{loopNeeds: &loopNeeds{host: &notingHost{}, state: &savedState{state: p.state}}, marked: before.Marks}
	if err := m.apply(&w, nil, p.owners, true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before.Marks, m.marked, compareAddrs); diff != "" || len(before.Marks) != 2 {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
}

// A new configuration takes a port from one of two VIPs: the warning names that one.
func TestSharedAddressTaken(t *testing.T) {
	cluster := clusterOfTwo(entries("90"), entries("91"))
	before := desired(nil, twoOfOne(), cluster, nil, newMemory(), testTime)
	for name, test := range map[string]struct {
		edit func(web, mail *VIP)
		want []taken
	}{
		"nothing":     {func(web, mail *VIP) {}, nil},
		"a port":      {func(web, mail *VIP) { mail.Ports = []Port{{25, TCP}} }, []taken{{"mail", "ports 10.0.0.1:443/tcp"}}},
		"the servers": {func(web, mail *VIP) { web.Pods, mail.Pods = mail.Pods, web.Pods }, []taken{{"mail", "1 of 1 real servers: 10.1.0.2"}, {"web", "1 of 1 real servers: 10.1.0.1"}}},
		"new names":   {func(web, mail *VIP) { web.Name, mail.Name = "a", "b" }, nil},
		"the address": {func(web, mail *VIP) { mail.Addresses = []netip.Addr{addr("10.0.0.9")} }, []taken{{"mail", "ports 10.0.0.1:443/tcp, 10.0.0.1:91/tcp; 1 of 1 real servers: 10.1.0.2"}}},
	} {
		serves := before.serving()
		after := desired(nil, twoOfOne(test.edit), cluster, nil, before.Memory, testTime)
		if diff := cmp.Diff(test.want, serves.takenAway(&after, true)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
