// The parts of docs/scale.md that the simulation and the measurement write.

package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"lvs-controller/test/markdown"
	"lvs-controller/test/scale/maglev"
)

// The delays that the tables compare.
var (
	// measured reaches from the fastest way of one pod's event into the kernel to the
	// slowest for 1,000 services; docs/scale.md names the measurements.
	measured = delays{least: 0.005, most: 0.2}
	delayed  = []struct {
		name string
		d    delays
	}{
		{"none", delays{}},
		{"5 to 200 ms, as measured", measured},
		{"up to 5 s", delays{0, 5, 0}},
		{"5 to 200 ms, one director 60 s late", delays{measured.least, measured.most, 60}},
		{"5 to 200 ms, one director 10 min late", delays{measured.least, measured.most, 600}},
	}
)

// simulate runs every scenario and returns the text. The short form has fewer of each.
func simulate(seed uint64, short bool) string {
	b := base
	counts := []int{2, 4, 8, 16, 32, 64}
	if short {
		b.connections, b.rounds = 5000, 1
		counts = []int{2, 8}
	}
	var text strings.Builder
	section := func(title, prose string, t markdown.Table) {
		fmt.Fprintf(&text, "### %s\n\n%s\n\n%s\n", title, prose, t.String())
	}
	fmt.Fprintf(&text, "Seed %d, %s connections open in each of %d rounds. Where a table does not say otherwise:\n"+
		"%d directors, %d real servers, %g change of them a minute, connections of %g s on average,\n"+
		"a router with a resilient hash, delays as measured. All numbers are shares of all open\nconnections.\n\n",
		seed, markdown.Grouped(fmt.Sprint(b.connections)), b.rounds, b.directors, b.servers, b.churn, b.lifetime)
	for _, join := range []bool{false, true} {
		t := outcomes("directors")
		for _, n := range counts {
			s := b
			s.directors, s.join = n, join
			t.Add(row(fmt.Sprint(n), s.run(seed))...)
		}
		if join {
			section("A director joins", "Its table of connections is empty, and it has the real servers in the order of their\n"+
				"addresses, as after a reboot. The numbers of directors include it.", t)
		} else {
			section("A director leaves", "It is gone with its connections. The numbers of directors include it.", t)
		}
	}
	section("The router", "Eight directors. An ideal hash moves 12.5 %.", routers(b, seed))
	section("Changes of the real servers", "Broken with `mh`, when a director of eight leaves, and that share of the connections\n"+
		"which moved, in brackets.", churns(b, seed, short))
	section("One change", "The share of clients that `mh` sends to another real server when one joins, when the\n"+
		"oldest is removed, and when the order becomes that of the addresses. \"Ideal\" is the share\n"+
		"of the one that joins. A real server that drains moves its own clients only.", single(seed, b.connections))
	section("The number of real servers", "Broken with `mh`, of eight directors.", many(b, seed, short))
	section("Delays", "Eight directors, 10 changes a minute. \"Opened elsewhere\" is the share of connections\n"+
		"that got a real server which a director in time would not have chosen.", lateness(b, seed))
	section("The order of the real servers", "Eight directors that were started one after the other, at any time in the past, and\n"+
		"so have the real servers in different orders. One of them leaves.", orders(b, seed))
	section("In numbers", "Connections that break when a director of eight leaves, with 1 change a minute.", numbers(b, seed))
	text.WriteString(assumed.render())
	return strings.TrimRight(text.String(), "\n") + "\n"
}

// outcomes is an empty table of outcomes.
func outcomes(first string) markdown.Table {
	return markdown.Table{Head: []string{first, "move", "`rr`", "`mh`", "`mh`, `[sync]` in pairs", "pairs under keepalived"}}
}

func row(name string, o outcome) []string {
	return []string{name, percent(o.moved), percent(o.rr), percent(o.mh), percent(o.sync), percent(o.pair)}
}

func routers(b scenario, seed uint64) markdown.Table {
	t := outcomes("router, event")
	for router, name := range routerNames {
		for _, join := range []bool{false, true} {
			s := b
			s.router, s.join = routerKind(router), join
			event := "leaves"
			if join {
				event = "joins"
			}
			t.Add(row(name+", "+event, s.run(seed))...)
		}
	}
	return t
}

func churns(b scenario, seed uint64, short bool) markdown.Table {
	t := markdown.Table{Head: []string{"changes a minute", "lifetime 10 s", "1 min", "10 min", "1 h"}}
	rates, lifetimes := []float64{0.1, 1, 10}, []float64{10, 60, 600, 3600}
	if short {
		rates, lifetimes = rates[:2], lifetimes[:2]
		t.Head = t.Head[:3]
	}
	for _, churn := range rates {
		cells := []string{fmt.Sprint(churn)}
		for _, lifetime := range lifetimes {
			s := b
			s.churn, s.lifetime = churn, lifetime
			o := s.run(seed)
			cells = append(cells, fmt.Sprintf("%s (%s)", percent(o.mh), percent(o.mh/o.moved)))
		}
		t.Add(cells...)
	}
	return t
}

// single compares tables before and after one change.
func single(seed uint64, clients int) markdown.Table {
	t := markdown.Table{Head: []string{"real servers", "one joins", "ideal", "one is removed", "order of addresses"}}
	for _, n := range []int{3, 10, 50, 200, 1000} {
		rng := rand.New(rand.NewPCG(seed, uint64(n)))
		all := newHistory(rng, n+1, 0, 0).first
		w := world{scenario: scenario{connections: clients, lifetime: 1}, rng: rng}
		opened := w.open()
		moved := func(a, b []maglev.Server) string {
			one, two := maglev.New(a), maglev.New(b)
			count := 0
			for _, c := range opened {
				if a[one.Pick(c.client)].Addr != b[two.Pick(c.client)].Addr {
					count++
				}
			}
			return percent(float64(count) / float64(clients))
		}
		t.Add(fmt.Sprint(n), moved(all[:n], all), percent(1/float64(n+1)), moved(all[:n], all[1:n]), moved(all[:n], sorted(all[:n])))
	}
	return t
}

// many compares numbers of real servers.
func many(b scenario, seed uint64, short bool) markdown.Table {
	t := markdown.Table{Head: []string{"real servers", "`mh`, leaves", "of those that moved", "`mh`, joins", "of those that moved"}}
	counts := []int{3, 10, 50, 200, 1000}
	if short {
		counts = counts[1:3]
	}
	for _, n := range counts {
		s := b
		s.servers = n
		leaves := s.run(seed)
		s.join = true
		joins := s.run(seed)
		t.Add(fmt.Sprint(n), percent(leaves.mh), percent(leaves.mh/leaves.moved), percent(joins.mh), percent(joins.mh/joins.moved))
	}
	return t
}

func lateness(b scenario, seed uint64) markdown.Table {
	t := markdown.Table{Head: []string{"delays", "opened elsewhere", "`mh`, leaves", "`mh`, joins"}}
	for _, c := range delayed {
		s := b
		s.delays, s.churn = c.d, 10
		leaves := s.run(seed)
		s.join = true
		t.Add(c.name, percent(leaves.elsewhere), percent(leaves.mh), percent(s.run(seed).mh))
	}
	return t
}

func orders(b scenario, seed uint64) markdown.Table {
	t := markdown.Table{Head: []string{"changes a minute", "the same order", "different orders"}}
	for _, churn := range []float64{0.1, 1} {
		s := b
		s.churn = churn
		same := s.run(seed)
		s.ownOrder = true
		t.Add(fmt.Sprint(churn), percent(same.mh), percent(s.run(seed).mh))
	}
	return t
}

func numbers(b scenario, seed uint64) markdown.Table {
	t := markdown.Table{Head: []string{"new connections a second, lifetime", "open", "`rr`", "`mh`", "`mh`, `[sync]` in pairs", "pairs under keepalived"}}
	for _, lifetime := range []float64{10, 60, 600} {
		s := b
		s.lifetime = lifetime
		o := s.run(seed)
		for _, each := range []float64{1000, 10000, 100000} {
			open := each * lifetime
			cells := []string{fmt.Sprintf("%s, %g s", markdown.Grouped(fmt.Sprintf("%.0f", each)), lifetime)}
			for _, share := range []float64{1, o.rr, o.mh, o.sync, o.pair} {
				cells = append(cells, markdown.Grouped(fmt.Sprintf("%.0f", open*share)))
			}
			t.Add(cells...)
		}
	}
	return t
}

// renderAPI is the part with the API server.
func renderAPI(o apiOptions, runs []apiRun) string {
	t := markdown.Table{Head: []string{"controllers", "CPU an event, ms", "… for each controller", "CPU idle, ms/s", "bytes an event, each", "bytes at start, each", "spread, median", "spread, worst", "last event, median", "last event, worst"}}
	for _, r := range runs {
		if r.controllers == 0 {
			t.Add("0", number(r.cpu), "", number(r.idle), "", "", "", "", "", "")
			continue
		}
		ms := func(v float64) string { return number(v) + " ms" }
		t.Add(fmt.Sprint(r.controllers), number(r.cpu), number((r.cpu-runs[0].cpu)/float64(r.controllers)), number(r.idle), number(r.bytes), number(r.first),
			ms(quantile(r.spread, 0.5)), ms(quantile(r.spread, 1)), ms(quantile(r.after, 0.5)), ms(quantile(r.after, 1)))
	}
	return fmt.Sprintf("%d pods, %d changes of a pod's status in each line, one every %s, on a machine with two CPUs\nfor everything.\n\n%s", o.pods, o.events, o.every, t.String())
}
