// The forms of `diff` for programs: JSON and lines for ipvsadm.
//
// Used by cmd_diff.go. docs/diff.md lists the fields of the JSON form: a test compares
// them. No I/O but to the writers that it is given.

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// diffForms are the values of -o.
var diffForms = map[string]func(stdout, stderr io.Writer, c *changeSet) error{
	"table":   printChanges,
	"json":    encodeChanges,
	"ipvsadm": writeLines,
}

// writeLines writes the lines that `ipvsadm -R` reads, in the order of execution. It
// refuses a comment, so what it cannot do is a line on stderr.
func writeLines(stdout, stderr io.Writer, c *changeSet) error {
	out := bufio.NewWriter(stdout)
	for i := range c.beside {
		switch p := &c.beside[i]; {
		case p.line != "":
			fmt.Fprintln(out, p.line)
		case p.Kind != kindTimeout: // the first timeout has the line of all
			fmt.Fprintf(stderr, "# %s %s: %s (%s)\n", p.Kind, p.Name, p.change(), p.Why)
		}
	}
	var line []byte
	for o := range c.ops.all {
		line = append(o.appendLine(line[:0]), '\n')
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return out.Flush()
}

// change is the text for what p changes.
func (p *pendingChange) change() string {
	switch {
	case p.Action == actAdd:
		return p.To
	case p.Action == actRemove, p.To == "":
		return p.From
	case p.From == "":
		return p.To
	}
	return p.From + " → " + p.To
}

// serviceChanges are the changes of one virtual service, with those of its real servers.
type serviceChanges struct {
	key     ServiceKey
	vip     string
	service *op // nil: only real servers change
	servers []*op
	// of a firewall mark: whose packets get it after the pass, and before
	ports, portsNow []string
}

// byService sorts the operations by VIP and virtual service.
func (c *changeSet) byService() []serviceChanges {
	var all []serviceChanges
	places := make(map[ServiceKey]int)
	for o := range c.ops.all {
		k := o.Service.ServiceKey
		at, known := places[k]
		if !known {
			at = len(all)
			places[k] = at
			all = append(all, serviceChanges{key: k, vip: o.Service.VIP})
		}
		if o.Server == nil {
			all[at].service = o
		} else {
			all[at].servers = append(all[at].servers, o)
		}
	}
	sortBy(all, func(a, b serviceChanges) int {
		return cmp.Or(cmp.Compare(a.vip, b.vip), a.key.Compare(b.key))
	})
	ports, now := markPorts(c.marked), markPorts(c.markedNow)
	for i := range all {
		all[i].ports, all[i].portsNow = ports[all[i].key], now[all[i].key]
		stableBy(all[i].servers, func(a, b *op) int { return a.Server.Compare(*b.Server) })
	}
	return all
}

// changesVersion is raised when the meaning of a field changes, or one is removed.
const changesVersion = 1

// The parts of the JSON form.
type (
	jsonService struct {
		Service ServiceKey   `json:"service"`
		VIP     string       `json:"vip"` // "" for one that is configured no more
		Ports   *jsonPorts   `json:"ports,omitempty"`
		Action  string       `json:"action"`
		From    *jsonKind    `json:"from,omitempty"`
		To      *jsonKind    `json:"to,omitempty"`
		Why     string       `json:"why,omitempty"`
		Servers []jsonServer `json:"servers"`
	}
	jsonPorts struct {
		From []string `json:"from,omitempty"`
		To   []string `json:"to,omitempty"`
	}
	jsonKind struct {
		Scheduler   string   `json:"scheduler"`
		Flags       []string `json:"flags,omitempty"`
		Persistence uint32   `json:"persistence,omitempty"`
		Netmask     string   `json:"netmask,omitempty"`
		Engine      string   `json:"engine,omitempty"`
	}
	jsonServer struct {
		Address netip.Addr `json:"address"`
		Port    uint16     `json:"port"`
		Action  string     `json:"action"`
		From    *jsonRow   `json:"from,omitempty"`
		To      *jsonRow   `json:"to,omitempty"`
		Why     string     `json:"why"`
	}
	jsonRow struct {
		Weight  uint32 `json:"weight"`
		Forward string `json:"forward"`
		Tunnel  string `json:"tunnel,omitempty"`
		Upper   uint32 `json:"upper_threshold,omitempty"`
		Lower   uint32 `json:"lower_threshold,omitempty"`
	}
)

// opActions are the words for the kinds of operations.
var opActions = [...]string{
	newService: actAdd, setService: actEdit, delService: actRemove,
	newServer: actAdd, setServer: actEdit, delServer: actRemove,
}

// encodeChanges writes the JSON form, one virtual service after the other: the text of a
// large table is never in memory as a whole.
func encodeChanges(stdout, _ io.Writer, c *changeSet) error {
	out := bufio.NewWriter(stdout)
	fmt.Fprintf(out, "{\n  \"version\": %d,\n  \"changes\": %d,\n  \"services\": [", changesVersion, c.count())
	end := "]"
	for i, s := range c.byService() {
		separator := "\n    "
		if i > 0 {
			separator = ",\n    "
		}
		out.WriteString(separator)
		if err := encodeValue(out, "    ", s.json()); err != nil {
			return err
		}
		end = "\n  ]"
	}
	out.WriteString(end)
	for _, list := range []struct {
		name  string
		value any
	}{
		{"host", append([]pendingChange{}, c.beside...)},
		{"warnings", append([]string{}, c.warnings...)},
		{"not_compared", append([]string{}, c.notCompared...)},
	} {
		fmt.Fprintf(out, ",\n  %q: ", list.name)
		if err := encodeValue(out, "  ", list.value); err != nil {
			return err
		}
	}
	out.WriteString("\n}\n")
	return out.Flush()
}

// encodeValue writes v, whose lines after the first begin with prefix.
func encodeValue(out io.Writer, prefix string, v any) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetIndent(prefix, "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := out.Write(bytes.TrimSuffix(text.Bytes(), []byte("\n")))
	return err
}

// json is s in the JSON form.
func (s *serviceChanges) json() jsonService {
	j := jsonService{Service: s.key, VIP: s.vip, Action: "none", Servers: []jsonServer{}}
	if len(s.ports)+len(s.portsNow) > 0 {
		j.Ports = &jsonPorts{From: s.portsNow, To: s.ports}
	}
	if o := s.service; o != nil {
		j.Action, j.Why = opActions[o.Kind], o.Why
		if o.Kind != newService {
			j.From = newJSONKind(o.WasService)
		}
		if o.Kind != delService {
			j.To = newJSONKind(&o.Service.VirtualService)
		}
	}
	for _, o := range s.servers {
		r := jsonServer{Address: o.Server.Address, Port: cmp.Or(o.Server.Port, s.key.Port), Action: opActions[o.Kind], Why: o.Why}
		if o.Kind != newServer {
			r.From = newJSONRow(o.WasServer)
		}
		if o.Kind != delServer {
			r.To = newJSONRow(o.Server)
		}
		j.Servers = append(j.Servers, r)
	}
	return j
}

func newJSONKind(v *VirtualService) *jsonKind {
	k := jsonKind{Scheduler: v.Scheduler, Persistence: v.Persistence, Engine: v.Engine}
	if words := flagWords(v); words != "" {
		k.Flags = strings.Split(words, ",")
	}
	if v.Netmask != 0 {
		k.Netmask = prefixName(v.Netmask)
	}
	return &k
}

func newJSONRow(r *RealServer) *jsonRow {
	row := jsonRow{Weight: r.Weight, Forward: r.Forward.String(), Upper: r.Upper, Lower: r.Lower}
	if r.Forward == Tunnel {
		row.Tunnel = r.Tunnel.String()
	}
	return &row
}
