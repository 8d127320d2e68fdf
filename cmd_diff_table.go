// The form of `diff` for people: a table by VIP and virtual service.
//
// Used by cmd_diff_forms.go. Virtual services of an address that change alike are one
// entry. No line is longer than diffWidth, whatever the texts are. No I/O but to the
// writer that it is given.

package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	diffWidth   = 100 // columns
	mostName    = 40  // columns of a name: an IPv6 address
	mostSetting = 46  // and of a kernel setting
	leastWhy    = 28  // columns of the last one
	sameAsGroup = 8   // so many entries before are compared with a service
)

// diffRow is a line of the table.
type diffRow struct{ sign, name, change, why string }

// diffGroup is virtual services of one address with the same changes.
type diffGroup struct {
	first serviceChanges
	keys  []ServiceKey
	rows  []diffRow
}

// printChanges writes the table.
func printChanges(stdout, _ io.Writer, c *changeSet) error {
	out := bufio.NewWriter(stdout)
	groups := c.groups()
	t := diffTable{out: out, most: mostName}
	for _, g := range groups {
		t.fit(g.rows)
	}
	if len(groups) > 0 {
		t.row(diffHead)
	}
	for _, g := range groups {
		t.heading(g.title(), g.ports())
		t.all(g.rows)
	}
	if len(c.beside) > 0 {
		host := diffTable{out: out, most: mostSetting}
		rows := make([]diffRow, len(c.beside))
		for i := range c.beside {
			p := &c.beside[i]
			rows[i] = diffRow{opSigns[p.Action], p.Kind + " " + p.Name, p.change(), p.Why}
		}
		host.fit(rows)
		if len(groups) == 0 {
			host.row(diffHead)
		}
		host.heading("host", nil)
		host.all(rows)
	}
	if n := c.count(); n > 0 {
		fmt.Fprintf(out, "\n%d %s\n", n, plural(n, "change", "changes"))
	}
	return out.Flush()
}

var diffHead = diffRow{" ", "WHAT", "FROM → TO", "WHY"}

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// opSigns begin the lines of the table.
var opSigns = map[string]string{actAdd: "+", actEdit: "~", actRemove: "-"}

// groups are the entries of the table.
func (c *changeSet) groups() []diffGroup {
	var all []diffGroup
	for _, s := range c.byService() {
		at := -1
		for i := len(all) - 1; i >= max(0, len(all)-sameAsGroup); i-- {
			if all[i].first.alike(&s) {
				at = i
				break
			}
		}
		if at < 0 {
			at = len(all)
			all = append(all, diffGroup{first: s, rows: s.rows()})
		}
		all[at].keys = append(all[at].keys, s.key)
	}
	return all
}

// alike reports whether s and o are of one address and change the same way.
func (s *serviceChanges) alike(o *serviceChanges) bool {
	return s.vip == o.vip && s.key.Address == o.key.Address && s.key.Mark == 0 && o.key.Mark == 0 &&
		(s.service == nil) == (o.service == nil) && (s.service == nil || sameService(s.service, o.service)) &&
		slices.EqualFunc(s.servers, o.servers, sameServer)
}

// sameService reports whether two operations on services of different keys are the same
// otherwise.
func sameService(a, b *op) bool {
	x, y := a.Service.VirtualService, b.Service.VirtualService
	x.ServiceKey = y.ServiceKey
	var was, wasToo VirtualService
	if a.WasService != nil && b.WasService != nil {
		was, wasToo = *a.WasService, *b.WasService
		was.ServiceKey = wasToo.ServiceKey
	}
	return a.Kind == b.Kind && x == y && was == wasToo && a.Why == b.Why
}

func sameServer(a, b *op) bool {
	if a.Kind != b.Kind || a.edit == b.edit {
		return a.Kind == b.Kind
	}
	return *a.Server == *b.Server && (a.WasServer == nil || *a.WasServer == *b.WasServer) && a.Why == b.Why
}

// rows are the lines for s.
func (s *serviceChanges) rows() (rows []diffRow) {
	if o := s.service; o != nil {
		change := o.change()
		if o.Kind != setService {
			change = serviceText(&o.Service.VirtualService)
		}
		if n := len(o.Service.Servers); o.Kind == delService && n > 0 {
			change += fmt.Sprintf(", with %d %s", n, plural(n, "real server", "real servers"))
		}
		rows = append(rows, diffRow{opSigns[opActions[o.Kind]], "service", change, o.Why})
	}
	for _, o := range s.servers {
		change := o.change()
		if o.Kind != setServer {
			change = serverText(o.Server)
		}
		rows = append(rows, diffRow{opSigns[opActions[o.Kind]], o.Server.Name(), change, o.Why})
	}
	return rows
}

// serviceText describes a whole virtual service.
func serviceText(v *VirtualService) string {
	text := "scheduler " + v.Scheduler
	flags := *v
	if v.Persistence != 0 {
		flags.Flags &^= FlagPersistent
	}
	if words := flagWords(&flags); words != "" {
		text += ", flags " + words
	}
	if v.Persistence != 0 {
		text += fmt.Sprintf(", persistence %ds", v.Persistence)
	}
	if v.Netmask != 0 {
		text += ", clients by " + prefixName(v.Netmask)
	}
	if v.Engine != "" {
		text += ", persistence engine " + v.Engine
	}
	return text
}

// serverText describes a whole real server.
func serverText(r *RealServer) string {
	text := fmt.Sprintf("weight %d", r.Weight)
	switch {
	case r.Forward == Tunnel:
		text += ", tunnel " + r.Tunnel.String()
	case r.Forward != DirectRoute:
		text += ", forwarding " + r.Forward.String()
	}
	if r.Upper != 0 {
		text += fmt.Sprintf(", upper threshold %d", r.Upper)
	}
	if r.Lower != 0 {
		text += fmt.Sprintf(", lower threshold %d", r.Lower)
	}
	return text
}

// title is the heading of g without the ports.
func (g *diffGroup) title() string {
	title := "vip " + g.first.vip
	if g.first.vip == "" {
		title = "configured no more"
	}
	if g.first.key.Mark == 0 {
		return title + "  " + g.first.key.Address.String()
	}
	return title + "  " + g.first.key.String()
}

// ports are those of g. The packets of a firewall mark that is wanted no more have those
// that the kernel gives it.
func (g *diffGroup) ports() []string {
	switch {
	case g.first.key.Mark == 0:
		return portRanges(g.keys)
	case len(g.first.ports) > 0:
		return g.first.ports
	}
	return g.first.portsNow
}

// portRanges writes keys in short: "80/tcp", "9000-9020/tcp", and marks behind the ports.
func portRanges(keys []ServiceKey) []string {
	var (
		ports []Port
		marks []string
	)
	for _, k := range keys {
		if k.Mark != 0 {
			marks = append(marks, k.String())
		} else {
			ports = append(ports, Port{k.Port, k.Protocol})
		}
	}
	return append(shortPorts(ports), marks...)
}

// diffTable writes rows in columns.
type diffTable struct {
	out          *bufio.Writer
	most         int // width of a name at most
	name, change int // widths
}

// fit makes the columns wide enough for rows, as far as there is room.
func (t *diffTable) fit(rows []diffRow) {
	for i := range rows {
		t.name = max(t.name, min(utf8.RuneCountInString(rows[i].name), t.most))
		t.change = max(t.change, utf8.RuneCountInString(rows[i].change), len("FROM > TO"))
	}
	t.change = min(t.change, diffWidth-len("  ~ ")-t.name-2-2-leastWhy)
}

// heading begins an entry. Texts that do not fit go on in the next lines.
func (t *diffTable) heading(title string, texts []string) {
	line := "\n" + title
	for i, text := range texts {
		separator := ", "
		if i == 0 {
			separator = "  "
		}
		if utf8.RuneCountInString(line)+len(separator)+len(text) >= diffWidth {
			fmt.Fprintln(t.out, strings.TrimRight(line+separator, " "))
			line, separator = "   ", " "
		}
		line += separator + text
	}
	fmt.Fprintln(t.out, line)
}

// all writes rows.
func (t *diffTable) all(rows []diffRow) {
	for _, r := range rows {
		t.row(r)
	}
}

// row writes one row, in several lines where a text does not fit.
func (t *diffTable) row(r diffRow) {
	cells := [...][]string{
		fold(r.name, max(t.name, 1)),
		fold(r.change, max(t.change, 1)),
		fold(r.why, diffWidth-len("  ~ ")-t.name-2-t.change-2),
	}
	cell := func(column, line int) string {
		if line < len(cells[column]) {
			return cells[column][line]
		}
		return ""
	}
	sign := r.sign
	for i := range max(len(cells[0]), len(cells[1]), len(cells[2])) {
		line := fmt.Sprintf("  %s %-*s  %-*s  %s", sign, t.name, cell(0, i), t.change, cell(1, i), cell(2, i))
		fmt.Fprintln(t.out, strings.TrimRight(line, " "))
		sign = " "
	}
}

// fold breaks text into lines of at most width columns, between words where it can.
func fold(text string, width int) (lines []string) {
	runes := []rune(printable(text))
	for len(runes) > width {
		at, skip := width, 0
		if i := slices.Index(reversed(runes[:width+1]), ' '); i >= 0 && i < width {
			at, skip = width-i, 1
		}
		lines = append(lines, string(runes[:at]))
		runes = runes[at+skip:]
	}
	return append(lines, string(runes))
}

func reversed(r []rune) []rune {
	r = slices.Clone(r)
	slices.Reverse(r)
	return r
}
