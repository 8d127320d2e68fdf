// Probes real servers over the data path, each once.
//
// Used by cmd*.go. It runs a prober for a moment and reads its verdicts. It sends what a
// probe sends, and takes nothing out of service.

package main

import (
	"context"
	"log/slog"
	"net/netip"
	"time"
)

const (
	onceTimeout  = time.Second     // of each probe
	oncePatience = 4 * time.Second // of all
)

// nodeQuestion is one VIP address, asked through one real server.
type nodeQuestion struct{ vip, server netip.Addr }

// probeOnce asks the real servers of plan for the VIPs. "" is a pass, another text what is
// wrong. A question without an entry had no answer in time. The error is the director's.
func probeOnce(ctx context.Context, plan *ProbePlan) (map[nodeQuestion]string, error) {
	r, err := openRawSocket(false) // a prober would try again later
	if err != nil {
		return nil, err
	}
	r.close()
	ctx, cancel := context.WithTimeout(ctx, oncePatience)
	defer cancel()
	probes := &Probes{DataPath: true, Interval: onceTimeout, Timeout: onceTimeout, Rise: 1, Fall: 1, ConnectsPerSecond: 1000}
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
	for look := time.Tick(20 * time.Millisecond); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-look:
			if n := p.Stats().Kinds[probeDataPath].Targets; n[up]+n[down] >= want {
				cancel()
			}
		}
	}
	err = <-ended
	found := make(map[nodeQuestion]string)
	for key, t := range p.schedule.targets { // the prober has ended
		if t.state != unknown {
			found[nodeQuestion{key.via, key.server}] = t.why
		}
	}
	return found, err
}
