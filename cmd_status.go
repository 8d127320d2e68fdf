// The sub-commands status and ready. They change nothing.
//
// Used by main.go. status asks the running controller or, when that does not answer,
// the kernel. ready asks the controller only. Both work while the configuration file is
// wrong or missing: what serves does not depend on the file on disk.

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"
)

var statusCommand = command{
	name:    "status",
	summary: "show services, real servers, reasons and connections",
	about: `Shows each service and its real servers with weight, connections, rates and
the reason of the weight, from the running controller: over its control socket, or else at
the address in listen. It needs no configuration file, and says first when the one on disk
is wrong. Services with the same real servers are one line. When no controller answers, it
shows the kernel's table, without the reasons. docs/status.md describes the JSON.`,
	exits: map[int]string{exitFailure: "nothing is what -vip, -server and -port ask for, or there is no status; stderr has the reason"},
	examples: `lvs-controller status
lvs-controller status -vip edge -port 443 -o wide
lvs-controller status -server 10.135.22.20 -w
lvs-controller status -o json`,
	values: map[string][]string{"o": statusForms},
	new:    func() task { return new(statusTask) },
}

var statusForms = []string{"text", "wide", "json"}

// statusTask is one call of `lvs-controller status`.
type statusTask struct {
	config, socket string
	output         string
	only           statusFilter
	ports          bool
	watch          bool
	interval       time.Duration
}

func (t *statusTask) flags(fs *flag.FlagSet) {
	fs.StringVar(&t.config, "config", "", "configuration `file` (default "+defaultConfigPath+", which may be missing)")
	fs.StringVar(&t.socket, "socket", "", "control `socket` of the controller (default "+controlSocket+" in state_dir)")
	fs.StringVar(&t.output, "o", "text", "output `form`: text for 100 columns, wide for 160, or json")
	fs.StringVar(&t.only.vip, "vip", "", "only the VIP with this `name` or address")
	fs.StringVar(&t.only.server, "server", "", "only the real server with this `address`, or on this node")
	fs.StringVar(&t.only.port, "port", "", "only services on this `port`, as 443 or 53/udp")
	fs.BoolVar(&t.ports, "ports", false, "a line for each service, also for those with the same real servers")
	fs.BoolVar(&t.watch, "w", false, "go on, and draw again in place")
	fs.DurationVar(&t.interval, "interval", 2*time.Second, "`time` between two drawings with -w, 200ms to 1h")
}

const (
	shortestInterval = 200 * time.Millisecond
	longestInterval  = time.Hour
)

// run prints the table with reasons and counters.
func (t *statusTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	switch {
	case !slices.Contains(statusForms, t.output):
		return statusCommand.misused(stderr, fmt.Sprintf("-o %q is not %s", t.output, strings.Join(statusForms, ", ")))
	case t.watch && t.output == "json":
		return statusCommand.misused(stderr, "-w is for people: it has no -o json")
	case t.interval < shortestInterval || t.interval > longestInterval:
		return statusCommand.misused(stderr, fmt.Sprintf("-interval %s: want %s to %s", t.interval, shortestInterval, longestInterval))
	}
	if _, _, err := t.only.parsePort(); t.only.port != "" && err != nil {
		return statusCommand.misused(stderr, fmt.Sprintf("-port: %v", err))
	}
	view := newStatusText(t.output == "wide", t.ports, stdout)
	if t.watch {
		return t.follow(ctx, view, stdout, stderr)
	}
	st, note, err := t.fetch(ctx)
	if note != "" {
		fmt.Fprintln(stderr, note)
	}
	if err != nil {
		return fail(stderr, err)
	}
	if missing := t.only.apply(&st); missing != "" {
		return fail(stderr, missing)
	}
	if t.output == "json" {
		vips, services := st.VIPs, st.Services
		st.VIPs, st.Services = []vipStatus{}, []serviceStatus{}
		err = writeStatus(stdout, &st, each(vips), each(services), true)
	} else {
		err = view.print(stdout, &st)
	}
	if err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

// each passes the elements of a list.
func each[T any](list []T) iter.Seq[any] {
	return func(yield func(any) bool) {
		for i := range list {
			if !yield(&list[i]) {
				return
			}
		}
	}
}

// fetch asks the controller, or else the kernel. note is for stderr.
func (t *statusTask) fetch(ctx context.Context) (st status, note string, err error) {
	at, cfg, wrong := locate(t.config, t.socket)
	st, err = fetchStatus(ctx, at)
	if err != nil {
		reason := "the controller " + unanswered(err)
		note = fmt.Sprintf("%s (%v); this is the kernel's table, without the reasons", reason, err)
		if st, err = kernelStatus(cfg, at); err != nil {
			if wrong != nil { // elsewhere the status itself says so
				note = wrongFile(firstMistake(wrong)) + "\n" + note
			}
			return st, note, err
		}
		st.Reason = reason
	}
	// The controller looks at the file a moment after it has changed.
	if file := cmp.Or(t.config, defaultConfigPath); wrong != nil && st.Config.Wrong == "" && (t.config != "" || note != "" || st.Config.Path == file) {
		st.Config.Wrong = firstMistake(wrong)
	}
	return st, note, nil
}

// wrongFile is the line about a file with a mistake.
func wrongFile(why string) string { return "config file on disk is wrong: " + why }

const (
	readyTimeout  = 2 * time.Second // how long ready waits for the controller's answer
	statusTimeout = 8 * time.Second // and status, which may wait answerPatience for its start
	maxStatus     = 1 << 30         // bytes of an answer: more than a full table of the kernel needs
)

var readyCommand = command{
	name:    "ready",
	summary: "ask whether this director should get traffic",
	about: `Asks the running controller whether this director is ready: the same as /readyz,
as an exit code and a line. It is for a check script, such as that of keepalived. It asks
over the control socket, or else at the address in listen. A mistake in the configuration
file changes nothing as long as the controller answers. With -listen it reads no file.`,
	exits: map[int]string{exitOK: "the director is ready", exitFailure: "it is not, or the controller does not answer"},
	examples: `lvs-controller ready
lvs-controller ready -listen 127.0.0.1:9652`,
	new: func() task { return new(readyTask) },
}

// readyTask is one call of `lvs-controller ready`.
type readyTask struct {
	source
	listen, socket string
}

func (t *readyTask) flags(fs *flag.FlagSet) {
	t.source.flags(fs)
	fs.StringVar(&t.listen, "listen", "", "`address` of the controller's listener (default the configuration's)")
	fs.StringVar(&t.socket, "socket", "", "control `socket` of the controller (default "+controlSocket+" in state_dir)")
}

// run says by its exit code whether this director should get traffic. A program
// such as keepalived asks it once a second: a mistake in a file that is being edited does
// not make the director less ready.
func (t *readyTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	at, wrong := controllerAt{t.socket, t.listen, t.listen == ""}, error(nil)
	if t.listen == "" && t.socket == "" {
		at, _, wrong = locate(cmp.Or(t.path, defaultConfigPath), "") // without a path flags alone are the configuration
	}
	code, text := 0, []byte(nil)
	err := at.ask(ctx, "/readyz", readyTimeout, func(r *http.Response) (err error) {
		code = r.StatusCode
		text, err = io.ReadAll(io.LimitReader(r.Body, 4096)) // a line; another program there may send more
		return err
	})
	switch {
	case err != nil && wrong != nil:
		return fail(stderr, wrong)
	case err != nil:
		return fail(stderr, "NOT READY: the controller "+unanswered(err)+":", err)
	case code != http.StatusOK:
		return fail(stderr, "NOT READY:", strings.TrimSpace(string(text)))
	}
	fmt.Fprintln(stdout, "ready")
	return exitOK
}

// fetchStatus asks the running controller.
func fetchStatus(ctx context.Context, at controllerAt) (st status, err error) {
	err = at.ask(ctx, "/status.json", statusTimeout, func(r *http.Response) error {
		if r.StatusCode != http.StatusOK {
			return refused(r)
		}
		return st.read(io.LimitReader(r.Body, maxStatus))
	})
	return st, err
}

// read reads what writeStatus has written. The VIPs and services are read one by one: the
// text, which is several times as large as they are, is never in memory as a whole.
func (st *status) read(r io.Reader) error {
	dec := json.NewDecoder(r)
	if t, err := dec.Token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return notStatus(t, '{')
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		switch key {
		case "vips":
			err = readList(dec, &st.VIPs)
		case "services":
			err = readList(dec, &st.Services)
		default:
			var value json.RawMessage
			if err = dec.Decode(&value); err == nil {
				err = json.Unmarshal(fmt.Appendf(nil, "{%q:%s}", key, value), st)
			}
		}
		if err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

// notStatus says that an answer has have in place of want.
func notStatus(have json.Token, want json.Delim) error {
	return fmt.Errorf("the answer is not a status: it has %s in place of %v", shorten(fmt.Sprint(have), quotedText), want)
}

// readList reads a list, element by element. In JSON a list that is nil is null.
func readList[T any](dec *json.Decoder, to *[]T) error {
	switch t, err := dec.Token(); {
	case err != nil:
		return err
	case t == nil:
		return nil
	case t != json.Delim('['):
		return notStatus(t, '[')
	}
	*to = []T{}
	for dec.More() {
		var one T
		if err := dec.Decode(&one); err != nil {
			return err
		}
		*to = append(*to, one)
	}
	_, err := dec.Token()
	return err
}

// kernelStatus is what the kernel knows, without the controller. Without a configuration the
// state file says which services are the controller's.
func kernelStatus(cfg *Config, at controllerAt) (status, error) {
	st := status{
		Version: statusVersion, Table: readConnectionTable(),
		VIPs: []vipStatus{}, Services: []serviceStatus{},
	}
	name := func(ServiceKey) (string, bool) { return "", false }
	if cfg != nil {
		o := newOwners(cfg)
		st.Config.Path = cfg.Path
		name = func(k ServiceKey) (string, bool) {
			v := o.of(k)
			if v == nil {
				return "", false
			}
			return v.Name, true
		}
		devices, err := vipDevices()
		for i := range cfg.VIPs {
			st.VIPs = append(st.VIPs, newVIPStatus(cfg, &cfg.VIPs[i], devices, err, false))
		}
	} else {
		dir, named := strings.CutSuffix(at.socket, "/"+controlSocket)
		if !named {
			dir = defaultConfig().StateDir
		}
		saved, err := (&stateDir{path: dir}).load()
		if err != nil {
			return st, err
		}
		if len(saved.Owned)+len(saved.Marks) == 0 {
			return st, fmt.Errorf("which services are the controller's is not known: there is no usable configuration, and no state in %s; -config names a file", dir)
		}
		name = func(k ServiceKey) (string, bool) {
			vip, marked := saved.Marks[k.Mark]
			return vip, marked || saved.Owned[k.Address]
		}
	}
	err := observeKernel(func(k ServiceKey) bool { _, ours := name(k); return ours }, func(k *KernelService) {
		vip, _ := name(k.ServiceKey)
		st.Services = append(st.Services, newServiceStatus(k, vip, nil, nil, nil))
	})
	return st, err
}
