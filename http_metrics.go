// Prometheus metrics, computed for each request.
//
// Used by http.go and cmd_realserver_metrics.go. The names are part of the interface:
// docs/metrics.md lists them, and a test compares the two. It changes nothing.

package main

import (
	"io"
	"time"
)

// writeMetrics writes all metrics: the controller's own, the kernel's counters
// for our services, and the process's.
func (s *httpServer) writeMetrics(w io.Writer) {
	e := &exposition{w: w}
	defer e.flush()
	v := s.loop.published.Load()
	e.family("info", gauge, "The running version; lvs_build_info takes its place.")(1, "version", version)
	writeBuild(e)
	e.family("ready", gauge, "1 when the kernel's table has been read recently, a real server is in service, the uplink is up and the director is not drained.")(flag01(s.ready() == nil))
	s.writeOwn(e)
	if v != nil {
		s.writeVIPs(e, v)
		writeSync(e, v)
		writeConflicts(e, v.Config, s.conflicts.seen())
		k := newKernelCounters(v.Config)
		services, at, err := s.ofKernel(v.Shards)
		for i := range services {
			k.add(&services[i], v.Shards.find(services[i].ServiceKey))
		}
		e.family("kernel_up", gauge, "1 when the kernel's IPVS table could be read for this scrape.")(flag01(err == nil))
		if err == nil {
			s.totals.follow(k, at)
		}
		k.write(e, &s.totals)
		k.writeTable(e, s.table())
	}
	writeProcess(e, s.started)
}

// writeBuild writes which program this is.
func writeBuild(e *exposition) {
	b := thisBuild()
	e.family("build_info", gauge, "What the program was made from, and with.")(1, "version", b.Version, "revision", b.Revision, "goversion", b.Go)
}

// writeOwn writes what the controller counts of its work and its inputs.
func (s *httpServer) writeOwn(e *exposition) {
	if s.output != nil {
		e.family("log_lines_dropped_total", counter, "Lines of the log that were dropped, because their reader is too slow.")(float64(s.output.queue.Lost()))
	}
	c := &s.loop.counters
	e.family("config_ok", gauge, "0 while the configuration file is refused and the last good one stays in force.")(flag01(!s.bad.Load()))
	e.family("config_reloads_total", counter, "Configurations applied after the first.")(float64(s.reloads.Load()))
	e.family("config_rejected_total", counter, "Configurations refused.")(float64(s.rejected.Load()))
	if good := s.good.Load(); good != nil {
		e.family("config_loaded_timestamp_seconds", gauge, "When the last valid content of the configuration file was read.")(unixSeconds(good.At))
		e.family("config_hash", gauge, "The first 48 bits of the SHA-256 sum of that content.")(float64(good.hash()))
	}
	e.family("reconciles_total", counter, "Passes of the reconcile loop.")(float64(c.Reconciles.Load()))
	e.family("reconcile_failures_total", counter, "Passes after which the kernel's table was not as it should be.")(float64(c.Failures.Load()))
	e.histogram("reconcile_duration_seconds", "Time that a pass of the reconcile loop takes.", &s.loop.timing.passes)
	e.histogram("event_duration_seconds", "Time from a change in the cluster or of a probe's result until the kernel has accepted what follows from it.", &s.loop.timing.events)
	e.family("audits_total", counter, "Full comparisons with the kernel's table.")(float64(c.Audits.Load()))
	e.family("drifts_total", counter, "Audits that found a change by another program or an operator.")(float64(c.Drifts.Load()))
	e.family("changes_refused_total", counter, "Changes that the kernel refused.")(float64(c.Refused.Load()))
	changes := e.family("changes_total", counter, "Changes made to the kernel's table.")
	for kind, name := range changeKinds {
		changes(float64(c.Changes[kind].Load()), "kind", name)
	}
	writeStreams(e, s.watch.States(), time.Now())
	writeProbes(e, s.prober.Stats(), s.prober.Probed())
	s.webhook.write(e)
}

// writeStreams writes what is known of the cluster, and since when.
func writeStreams(e *exposition, streams []StreamState, now time.Time) {
	ofStreams := func(name string, typ metricType, help string, value func(*StreamState) float64) {
		sample := e.family(name, typ, help)
		for i := range streams {
			sample(value(&streams[i]), "stream", streams[i].Name)
		}
	}
	ofStreams("cluster_synced", gauge, "1 once the stream has given a complete answer.", func(st *StreamState) float64 { return flag01(st.Synced) })
	ofStreams("cluster_failing", gauge, "1 while the stream cannot read from its source, or a cluster file is in doubt; the last answer stays in force.", func(st *StreamState) float64 { return flag01(st.LastError != "") })
	ofStreams("cluster_events_total", counter, "Watch events that the stream received.", func(st *StreamState) float64 { return float64(st.Events) })
	ofStreams("cluster_lists_total", counter, "Complete lists that the stream received.", func(st *StreamState) float64 { return float64(st.Lists) })
	heard := e.family("cluster_last_success_timestamp_seconds", gauge, "When the stream's source last answered: a list, an event, a bookmark, or a file that was read.")
	var oldest time.Time
	for i := range streams {
		if st := &streams[i]; !st.Heard.IsZero() {
			heard(unixSeconds(st.Heard), "stream", st.Name)
			oldest = earlier(oldest, st.Heard)
		}
	}
	if !oldest.IsZero() {
		e.family("cluster_view_age_seconds", gauge, "Time since the stream that has been silent for longest last answered.")(max(0, now.Sub(oldest).Seconds()))
	}
}

// writeProbes writes the counters of the prober, and what it last found.
func writeProbes(e *exposition, p ProbeStats, probed map[probedServer]serverProbes) {
	results := e.family("probes_total", counter, "Probes by their result; none: the director could not send the probe.")
	for i, k := range p.Kinds {
		kind := probeKind(i).String()
		results(float64(k.Results[passed]), "kind", kind, "result", "passed")
		results(float64(k.Results[failed]), "kind", kind, "result", "failed")
		results(float64(k.Results[noResult]), "kind", kind, "result", "none")
	}
	targets := e.family("probe_targets", gauge, "What is probed, by its present state.")
	for i, k := range p.Kinds {
		kind := probeKind(i).String()
		targets(float64(k.Targets[up]), "kind", kind, "state", "up")
		targets(float64(k.Targets[down]), "kind", kind, "state", "down")
		targets(float64(k.Targets[unknown]), "kind", kind, "state", "unknown")
	}
	e.family("probe_fail_open", gauge, "Sets of real servers, or ports, that fail on all at once and therefore stay in service.")(float64(p.FailOpen))
	order := sortedKeys(probed, probedServer.compare)
	success := e.family("probe_success", gauge, "1 when the last probe of a real server passed, 0 when it failed; over all ports, for probes of ports.")
	for _, k := range order {
		if r := probed[k].Result; r != noResult {
			success(flag01(r == passed), "vip", k.VIP, "server", k.Address.String(), "kind", k.Kind.String())
		}
	}
	took := e.family("probe_duration_seconds", gauge, "Time that the last probe of a real server took; the longest, for probes of ports.")
	for _, k := range order {
		took(probed[k].Took.Seconds(), "vip", k.VIP, "server", k.Address.String(), "kind", k.Kind.String())
	}
}
