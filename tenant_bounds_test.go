// Tests of what a tenant who may annotate a pod or write a ConfigMap may not make
// the controller keep or print.

package main

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Whoever may annotate a pod does not decide what is kept: 3,000 events, each with
// another annotation of 100 KB, leave the heap within 5 MB of before.
func TestAnnotationsAreBounded(t *testing.T) {
	skipShort(t)
	const events, size = 3_000, 100_000
	query := PodQuery{Namespace: "web", Selector: "app=edge", Annotation: "lvs-controller/weight"}
	pad := strings.Repeat("w", size)
	one := func(i int) string {
		return fmt.Sprintf(`{"type":"MODIFIED","object":{"metadata":{"name":"a","namespace":"web","uid":"a","resourceVersion":"%d","annotations":{"lvs-controller/weight":"%d%s","other":"%d%s"}},"spec":{"nodeName":"n","hostNetwork":true},"status":{"hostIP":"10.1.0.1","conditions":[{"type":"Ready","status":"True"}]}}}`+"\n", i+10, i, pad, i, pad)
	}
	in, out := io.Pipe()
	go func() {
		for i := range events {
			io.WriteString(out, one(i))
		}
		out.Close()
	}()
	cfg := &Config{VIPs: []VIP{testVIP()}}
	cfg.VIPs[0].Pods, cfg.VIPs[0].WeightAnnotation = PodQuery{Namespace: "web", Selector: "app=edge"}, query.Annotation
	var text strings.Builder
	log, logged := slog.New(slog.NewTextHandler(&text, nil)), make(warningLog)
	d, now := newEventDecoder(in, podKind), testTime
	c := query.collect().(*podCollection)
	var w wanted
	before := allocated()
	for i := 0; ; i++ {
		e, err := d.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		c.apply(e.object, e.kind == eventDeleted)
		now = now.Add(10 * time.Millisecond)
		w = desired(&w, cfg, &Cluster{Pods: map[PodQuery][]*Pod{cfg.VIPs[0].PodQuery(): c.kept}}, nil, newMemory(), now)
		logged.log(log, w.Warnings, nil, now)
	}
	if more := int64(allocated()) - int64(before); more > 5_000_000 {
		t.Errorf("%d bytes more are kept", more)
	}
	if n := strings.Count(text.String(), "is not a weight"); n == 0 || n > 5 {
		t.Errorf("%d lines about 30 seconds of bad annotations, want 1 to 5", n)
	}
	if text.Len() > 8<<10 {
		t.Errorf("%d bytes of log", text.Len())
	}
	runtime.KeepAlive(c)
	runtime.KeepAlive(names)
}

// What is kept of a pod shares no memory with what is not.
func TestKeptIsSmall(t *testing.T) {
	skipShort(t)
	const pods = 100
	blank := strings.Repeat(" ", 100_000)
	tests := map[string]func(i int) string{
		"white space before a weight": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d","annotations":{"weight":"%s%d"}}}`, i, blank, i)
		},
		"white space after no weight": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d","annotations":{"weight":"x%d%s"}}}`, i, i, blank)
		},
		"nothing but white space": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d","annotations":{"weight":"%s"}}}`, i, blank)
		},
		"one port very often": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d"},"spec":{"hostNetwork":true,"containers":[{"ports":[%s{"containerPort":80}]}]}}`, i, strings.Repeat(`{"containerPort":80},`, 10_000))
		},
		"zones": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d"},"status":{"hostIP":"fe80::1%%%d%s","podIP":"fe80::2%%%d%s"}}`, i, i, strings.Repeat("z", 50_000), i, strings.Repeat("y", 50_000))
		},
		"names of nodes": func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"p%d","labels":{"x":"%s"}},"spec":{"nodeName":"n%d"}}`, i, blank, i)
		},
	}
	for name, pod := range tests {
		t.Run(name, func(t *testing.T) {
			b := PodQuery{Annotation: "weight", Ports: true}.collect().(*podCollection)
			before := allocated()
			for i := range pods {
				text := podsOf + pod(i) + "]}"
				if _, err := decodePage(strings.NewReader(text), b); err != nil {
					t.Fatal(err)
				}
			}
			if more := int64(allocated()) - int64(before); more > 500_000 {
				t.Errorf("%d bytes are kept of %d pods", more, pods)
			}
			runtime.KeepAlive(b)
		})
	}
	// A zone names a device of the node: it is no address to send to.
	o := new(podObject)
	o.Status.HostIPs = []ip{{"fe80::1%eth0"}, {"::ffff:10.1.0.9%eth0"}, {"10.1.0.1"}}
	if got, _ := o.addresses(false); len(got) != 1 || got[0] != addr("10.1.0.1") {
		t.Errorf("addresses %v", got)
	}
	// A ConfigMap that was large leaves no large map behind.
	before := allocated()
	var maps []ConfigMap
	for range 10 {
		data := map[string]string{"9000": "ns/svc:80"}
		for i := range 50_000 {
			data[fmt.Sprint("key-", i)] = ""
		}
		maps = append(maps, keptConfigMap(data))
	}
	if more := int64(allocated()) - int64(before); more > 1_000_000 {
		t.Errorf("%d bytes are kept of %d ConfigMaps", more, len(maps))
	}
	runtime.KeepAlive(maps)
}

// Whoever may write a ConfigMap does not decide how much is kept and printed.
func TestConfigMapIsBounded(t *testing.T) {
	good := map[string]string{"9000": "ns/svc:80", "9001": "ns/svc:81"}
	tests := []struct {
		name     string
		bad      int
		key      func(i int) string
		value    string
		warnings []string // parts of the one warning; none: there is none
	}{
		{"nothing bad", 0, nil, "", nil},
		{"10,000 keys", 10_000, func(i int) string { return fmt.Sprintf("key-%05d", i) }, "ns/svc:80",
			[]string{`ConfigMap ingress-nginx/tcp-services: entry "key-00000" is skipped: `, `; entry "key-00019" is skipped: port "key-00019" is not a number from 1 to 65535; and 9980 more`}},
		{"long keys", 30, func(i int) string { return strings.Repeat("9", 50_000) + fmt.Sprint(i) }, "ns/svc:80", []string{`entry "999`, `…" is skipped: port "999`, "; and 29 more"}},
		{"a long value", 1, func(int) string { return "9002" }, strings.Repeat("v", 1<<20), []string{`entry "9002" is skipped: value "vvv`, `vvv…" is not NAMESPACE/SERVICE:PORT`}},
		{"numbers that are no ports", 20_000, func(i int) string { return fmt.Sprint(65_536 + i) }, "ns/svc:80", []string{"; and 19980 more"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := map[string]string{}
			for k, v := range good {
				data[k] = v
			}
			for i := range tt.bad {
				data[tt.key(i)] = tt.value
			}
			cm := keptConfigMap(data)
			cluster := testCluster(nil, readyPod("a", "10.1.0.1"))
			cluster.ConfigMaps[ConfigMapName{"ingress-nginx", "tcp-services"}] = cm
			kept := 0
			for k, v := range cm.Data {
				kept += len(k) + len(v)
			}
			if len(cm.Data) > len(good)+20 || kept > 10_000 {
				t.Errorf("%d entries of %d bytes are kept", len(cm.Data), kept)
			}
			w := desiredAnew(&Config{VIPs: []VIP{testVIP()}}, cluster, newMemory(), testTime)
			if got := w.Shards.table().text(); strings.Count(got, "10.0.0.1:900") != 2 {
				t.Errorf("the good entries are disturbed:\n%s", got)
			}
			if len(tt.warnings) == 0 {
				if len(w.Warnings) > 0 {
					t.Errorf("warnings %q", w.Warnings)
				}
				return
			}
			if len(w.Warnings) != 1 || len(w.Warnings[0].Text) > 6_000 {
				t.Fatalf("%d warnings, the first of %d bytes", len(w.Warnings), len(w.Warnings[0].Text))
			}
			for _, part := range tt.warnings {
				if !strings.Contains(w.Warnings[0].Text, part) {
					t.Errorf("the warning lacks %q:\n%s", part, w.Warnings[0].Text)
				}
			}
		})
	}
}

// Pods of a kind of fault are one warning, in both families together.
func TestPodWarningsAreBounded(t *testing.T) {
	v := testVIP()
	v.Addresses = append(v.Addresses, addr("2001:db8::1"))
	var pods []Pod
	for i := range 1_000 {
		pods = append(pods, with(readyPod(fmt.Sprintf("p%04d", i), "10.1.0.1"), func(p *Pod) { p.HostNetwork = false }))
	}
	pods = append(pods, readyPod("z", "10.1.0.1", "2001:db8:1::1"))
	w := desiredAnew(&Config{VIPs: []VIP{v}}, testCluster(nil, pods...), newMemory(), testTime)
	if len(w.Warnings) != 1 || !strings.HasPrefix(w.Warnings[0].Text, "vip edge: pod ingress-nginx/p0000 is left out: it is not on hostNetwork") ||
		!strings.HasSuffix(w.Warnings[0].Text, "; and 980 more") || len(w.Warnings[0].Text) > 4_000 {
		t.Errorf("warnings %q", w.Warnings)
	}
}

// The families of a VIP may have different pods with the same kind of fault: all are
// counted, and as few are named as in one family.
func TestWarningOfBothFamiliesIsBounded(t *testing.T) {
	v := testVIP()
	v.Addresses = append(v.Addresses, addr("2001:db8::1"))
	var pods []Pod
	for i := range 30 {
		address := fmt.Sprintf("10.1.0.%d", i+1)
		if i >= 15 {
			address = fmt.Sprintf("2001:db8:1::%d", i)
		}
		pods = append(pods, with(readyPod(fmt.Sprintf("p%02d", i), address), func(p *Pod) { p.Weight = "much" }))
	}
	w := desiredAnew(&Config{VIPs: []VIP{v}}, testCluster(nil, pods...), newMemory(), testTime)
	n := 0
	for _, warning := range w.Warnings {
		if !strings.Contains(warning.Text, "is not a weight") {
			continue
		}
		n++
		if named := strings.Count(warning.Text, "is not a weight"); named != 20 || !strings.HasSuffix(warning.Text, "; and 10 more") {
			t.Errorf("%d are named: %s", named, warning.Text)
		}
	}
	if n != 1 {
		t.Errorf("%d warnings about weights, want 1: %q", n, w.Warnings)
	}
}

// A warning is logged when it begins and when its words change, and again after it
// was over; one that flaps has a few lines a minute.
func TestWarningLog(t *testing.T) {
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	lines := func() int { n := strings.Count(text.String(), "\n"); text.Reset(); return n }
	l, now := make(warningLog), testTime
	say := func(texts ...string) int {
		var ws []Warning
		for _, s := range texts {
			ws = append(ws, Warning{"edge/entry/", s})
		}
		l.log(log, ws, nil, now)
		return lines()
	}
	for i, step := range []struct {
		after time.Duration
		says  []string
		want  int
	}{
		{0, []string{"a"}, 1}, {time.Second, []string{"a"}, 0}, {time.Hour, []string{"a"}, 0},
		{time.Second, []string{"b"}, 1}, {time.Second, nil, 0}, {time.Second, []string{"b"}, 1},
		{time.Second, []string{"c"}, 1}, {time.Second, []string{"d"}, 1}, {time.Second, []string{"e"}, 1},
		{time.Second, []string{"f"}, 0}, {time.Second, []string{"g"}, 0}, {time.Minute, []string{"g"}, 1}, {time.Second, []string{"g"}, 0},
		{time.Minute, nil, 0}, {0, []string{"g"}, 1},
	} {
		now = now.Add(step.after)
		if got := say(step.says...); got != step.want {
			t.Errorf("step %d: %d lines, want %d", i, got, step.want)
		}
	}
	now = now.Add(time.Minute)
	if say(); len(l) > 0 {
		t.Errorf("remembered: %v", l)
	}
}
