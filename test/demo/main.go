// Command demo shows the controller's main job live: a client, a director and
// three nodes as network namespaces, real traffic, and the kernel's table
// before and after each change.
//
// `make demo` runs it on a kernel with IPVS. It exits 0 only when every step
// showed what it should.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lvs-controller/test/lab"
)

const (
	vip      = "10.0.0.100"
	requests = 30
	patience = 15 * time.Second
)

// demo is the show: its stage and what the audience saw last.
type demo struct {
	lab      *lab.Lab
	client   *lab.Host
	director *lab.Host
	process  *lab.Process
	dir      string
	last     []string // the table as it was shown last
	failed   []string
	started  time.Time

	scheduler string
	nodes     []*lab.Host // that have an ingress pod
	leaving   string
	tcp       map[string]string
}

func main() {
	binary := flag.String("binary", "./lvs-controller", "the controller")
	flag.Parse()
	d := &demo{scheduler: "rr", tcp: map[string]string{}, started: time.Now()}
	d.lab = lab.New(func(format string, args ...any) {
		fmt.Printf(red+format+plain+"\n", args...)
		os.Exit(1)
	})
	err := d.run(*binary)
	d.lab.Close()
	if err != nil {
		fmt.Printf("\n%s%v%s\n", red, err, plain)
		os.Exit(1)
	}
}

const (
	plain = "\x1b[0m"
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	red   = "\x1b[31m"
	green = "\x1b[32m"
	cyan  = "\x1b[36m"
)

func (d *demo) run(binary string) (err error) {
	if d.dir, err = os.MkdirTemp("", "lvs-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(d.dir)
	d.title()
	d.client = d.lab.Host("client", 3)
	d.director = d.lab.Host("director", 2)
	var nodes []*lab.Host
	for i, name := range []string{"node-a", "node-b", "node-c"} {
		n := d.lab.Host(name, 11+i)
		n.Serve(80, 5432)
		n.Run(binary, "realserver", "-vip", vip, "-uplink", "eth0", "-state", filepath.Join(d.dir, name+".json"))
		nodes = append(nodes, n)
	}

	d.step("Start", "Two nodes run a ready hostNetwork ingress pod. The director gets a config.toml and the binary.", func() {
		d.nodes = nodes[:2]
		d.write()
		d.process = d.director.Start(binary, "-config", filepath.Join(d.dir, "config.toml"))
	}, 80, share{"node-a": requests / 2, "node-b": requests / 2})

	d.step("A node joins", "The autoscaler adds an ingress pod on node-c.", func() {
		d.nodes = nodes
		d.write()
	}, 80, share{"node-a": requests / 3, "node-b": requests / 3, "node-c": requests / 3})

	d.step("A node leaves", "The pod on node-a is terminating: no new connections, the open ones end by themselves.", func() {
		d.leaving = "node-a"
		d.write()
	}, 80, share{"node-b": requests / 2, "node-c": requests / 2})

	d.step("Another scheduler", "scheduler = \"sh\" in config.toml: one client, one node. Edited in place, nothing is cut.", func() {
		d.leaving, d.nodes = "", nodes[1:]
		d.scheduler = "sh"
		d.write()
	}, 80, nil)

	d.step("A port opens", "\"5432\": \"default/postgres:5432\" in the tcp-services ConfigMap.", func() {
		d.scheduler = "rr"
		d.tcp["5432"] = "default/postgres:5432"
		d.write()
	}, 5432, share{"node-b": requests / 2, "node-c": requests / 2})

	fmt.Printf("\n%sWhat the controller said meanwhile%s\n", bold, plain)
	for _, line := range strings.Split(strings.TrimSpace(d.process.Log()), "\n") {
		if _, rest, found := strings.Cut(line, "level="); found {
			fmt.Printf("  %s%s%s\n", dim, rest, plain)
		}
	}
	if len(d.failed) > 0 {
		return errors.New("not as promised:\n  " + strings.Join(d.failed, "\n  "))
	}
	fmt.Printf("\n%s%s✔ every step showed what it should, in %s%s\n", bold, green, time.Since(d.started).Round(100*time.Millisecond), plain)
	return nil
}

func (d *demo) title() {
	fmt.Printf(`
%slvs-controller%s  outside traffic → ready ingress pods, by IPVS direct routing

      client 10.0.0.3
         │  http://%s
   ┌─────▼─────┐
   │ director  │ 10.0.0.2   lvs-controller + the kernel's IPVS
   └──┬──┬──┬──┘
      ▼  ▼  ▼   same segment; answers go straight back to the client
   node-a node-b node-c   ingress on hostNetwork, the VIP on lo
`, bold, plain, vip)
}

// share is how many answers each node should give.
type share map[string]int

// step makes one change and shows table and answers before and after. want nil
// means that one node gives all answers.
func (d *demo) step(name, what string, change func(), port int, want share) {
	fmt.Printf("\n%s%s━━ %s %s%s\n%s\n", bold, cyan, name, strings.Repeat("━", max(0, 66-len(name))), plain, what)
	url := fmt.Sprintf("http://%s:%d/", vip, port)
	var before share
	if d.process != nil {
		before = d.client.Curl(requests, url)
	}
	change()
	var after share
	deadline := time.Now().Add(patience)
	for {
		time.Sleep(100 * time.Millisecond)
		if table := d.director.Table(); !slices.Equal(strings.Split(table, "\n"), d.last) {
			after = d.client.Curl(requests, url)
			if fits(after, want) || time.Now().After(deadline) {
				break
			}
		} else if time.Now().After(deadline) {
			after = d.client.Curl(requests, url)
			break
		}
	}
	d.show(before, after)
	if !fits(after, want) {
		d.failed = append(d.failed, fmt.Sprintf("%s: answers %v, want %v", name, after, want))
	}
}

func fits(got, want share) bool {
	if want == nil {
		return len(got) == 1 && got["failed"] == 0
	}
	return maps.Equal(got, want)
}

// show prints the table with what is new in green and what is gone in red, and
// the answers as bars.
func (d *demo) show(before, after share) {
	table := strings.Split(d.director.Table(), "\n")
	fmt.Printf("\n  %sipvsadm -Sn on the director%s\n", dim, plain)
	for _, line := range slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(d.last), table...)))) {
		switch {
		case line == "":
		case !slices.Contains(d.last, line):
			fmt.Printf("  %s+ %s%s\n", green, line, plain)
		case !slices.Contains(table, line):
			fmt.Printf("  %s- %s%s\n", red, line, plain)
		default:
			fmt.Printf("    %s\n", line)
		}
	}
	d.last = table
	bars("before", before)
	bars("after", after)
}

func bars(when string, answers share) {
	if answers == nil {
		return
	}
	fmt.Printf("\n  %scurl × %d, %s%s\n", dim, requests, when, plain)
	for _, node := range slices.Sorted(maps.Keys(answers)) {
		color := green
		if node == "failed" {
			color = red
		}
		fmt.Printf("  %-8s %s%s%s %d\n", node, color, strings.Repeat("█", answers[node]), plain, answers[node])
	}
}

// write brings config.toml and the cluster's state up to date.
func (d *demo) write() {
	d.replace("config.toml", fmt.Sprintf(`cluster_file   = "cluster.json"
interface      = "eth0"
audit_interval = "2s"
state_dir      = %q
cache_dir      = %q

[[vip]]
name         = "edge"
addresses    = [%q]
announce     = "arp"
scheduler    = %q
ports        = ["80/tcp"]
tcp_services = "tcp-services"
`, filepath.Join(d.dir, "state"), filepath.Join(d.dir, "cache"), vip, d.scheduler))
	items := []any{map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "data": d.tcp,
		"metadata": map[string]any{"name": "tcp-services", "namespace": "ingress-nginx"},
	}}
	for _, n := range d.nodes {
		meta := map[string]any{
			"name": "ingress-" + n.Name, "namespace": "ingress-nginx", "uid": n.Name,
			"labels": map[string]string{"app.kubernetes.io/name": "ingress-nginx", "app.kubernetes.io/component": "controller"},
		}
		if n.Name == d.leaving {
			meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
		}
		ips := []any{map[string]string{"ip": n.IPv4.String()}}
		items = append(items, map[string]any{
			"apiVersion": "v1", "kind": "Pod", "metadata": meta,
			"spec": map[string]any{"nodeName": n.Name, "hostNetwork": true},
			"status": map[string]any{
				"phase": "Running", "hostIPs": ips, "podIPs": ips,
				"conditions": []any{map[string]string{"type": "Ready", "status": "True"}},
			},
		})
	}
	b, err := json.MarshalIndent(map[string]any{"apiVersion": "v1", "kind": "List", "items": items}, "", "  ")
	if err != nil {
		panic(err) // maps of strings always encode
	}
	d.replace("cluster.json", string(b))
}

// replace writes a file through a rename, as a careful editor does.
func (d *demo) replace(name, text string) {
	path := filepath.Join(d.dir, name)
	err := os.WriteFile(path+".new", []byte(text), 0o644)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
