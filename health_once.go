// Probes real servers over the data path, each once.
//
// Used by cmd*.go. It runs a prober for a moment and reads its verdicts. It sends what a
// probe sends, and takes nothing out of service.

package main

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

const (
	onceTimeout  = time.Second     // of each probe
	oncePatience = 4 * time.Second // of all
)

// nodeQuestion is one VIP address, asked through one real server.
type nodeQuestion struct{ vip, server netip.Addr }

// nodeAnswer is what a probe says.
type nodeAnswer struct {
	passed, known bool
	why           string // it has not passed, or is not known
}

// probeOnce asks the real servers of plan for the VIPs, and once more those that have not
// passed: a packet may get lost. The error is the director's.
func probeOnce(ctx context.Context, plan *ProbePlan) (map[nodeQuestion]nodeAnswer, error) {
	r, err := openRawSocket(false) // a prober would try again later
	if err != nil {
		return nil, err
	}
	r.close()
	ctx, cancel := context.WithTimeout(ctx, oncePatience)
	defer cancel()
	found, err := probeRound(ctx, plan)
	if err != nil {
		return nil, err
	}
	again := &ProbePlan{}
	for _, v := range plan.VIPs {
		v.Servers = slices.DeleteFunc(slices.Clone(v.Servers), func(s ProbedServer) bool {
			return !slices.ContainsFunc(v.Addresses, func(a netip.Addr) bool {
				return a.Is6() == s.Address.Is6() && !found[nodeQuestion{a, s.Address}].passed
			})
		})
		if len(v.Servers) > 0 {
			again.VIPs = append(again.VIPs, v)
		}
	}
	if len(again.VIPs) == 0 || ctx.Err() != nil {
		return found, nil
	}
	more, err := probeRound(ctx, again)
	for question, answer := range more {
		if answer.known {
			found[question] = answer
		}
	}
	return found, err
}

// probeRound probes once what plan has.
func probeRound(ctx context.Context, plan *ProbePlan) (map[nodeQuestion]nodeAnswer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The second probe, after the interval, is never reached.
	probes := &Probes{DataPath: true, Interval: time.Minute, Timeout: onceTimeout, Rise: 1, Fall: 1, ConnectsPerSecond: 1000}
	plans, healths := newLatest[ProbePlan](make(chan struct{}, 1)), newLatest[Health](make(chan struct{}, 1))
	asked, want := &ProbePlan{}, 0
	for _, v := range plan.VIPs {
		v.Probes = probes
		asked.VIPs = append(asked.VIPs, v)
		for i := range v.Servers {
			want += len(dataPathKind{}.targets(&v, &v.Servers[i]))
		}
	}
	plans.Set(asked)
	p := newProber(slog.New(slog.DiscardHandler), plans, healths)
	p.schedule.random = func() float64 { return 0 } // all at once
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	end := time.After(onceTimeout + onceTimeout/2)
	for look := time.Tick(20 * time.Millisecond); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-end:
			cancel()
		case <-look:
			if n := p.Stats().Kinds[probeDataPath].Targets; n[up]+n[down] >= want {
				cancel()
			}
		}
	}
	err := <-ended
	found := make(map[nodeQuestion]nodeAnswer)
	for key, t := range p.schedule.targets { // the prober has ended
		a := nodeAnswer{t.state == up, t.state != unknown, t.why}
		if !a.known {
			a.why = t.said
		}
		found[nodeQuestion{key.via, key.server}] = a
	}
	return found, err
}
