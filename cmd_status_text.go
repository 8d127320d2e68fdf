// The status as text, for people.
//
// Used by cmd*.go. No line is longer than the form allows. What is wrong comes
// first.

package main

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sort"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	narrowWidth = 100
	wideWidth   = 160
	// leastNarrow and leastWide are the columns of a smaller terminal's lines.
	leastNarrow = 60
	leastWide   = 130
	// whyWidth is how much room beside the numbers the reason has at least. With less it
	// is below them.
	whyWidth = 30

	// shownLines is how many lines of one kind come before the table.
	shownLines = 20
	// portLines is how many lines the ports of one group take.
	portLines = 3
	// reasonLines is how many lines the reason of a weight takes.
	reasonLines = 4
)

// style is how a line looks on a terminal: the parameters of ANSI's "select graphic
// rendition".
type style string

const (
	plain style = ""
	good  style = "32" // green
	bad   style = "31" // red
	doubt style = "33" // yellow
	title style = "1"  // bold
)

// textLine is a line of the status.
type textLine struct {
	style style
	text  string
}

// statusText is how the status is shown.
type statusText struct {
	width   int
	wide    bool
	ports   bool // a line for each service
	colours bool
	now     func() time.Time
	lines   []textLine
}

// newStatusText is the form for a writer.
func newStatusText(wide, ports bool, w io.Writer) *statusText {
	v := &statusText{wide: wide, ports: ports, colours: takesColours(w), now: time.Now}
	v.fit(w)
	return v
}

// fit sets the width for a writer: no line is longer than a terminal is wide.
func (v *statusText) fit(w io.Writer) {
	least, most := leastNarrow, narrowWidth
	if v.wide {
		least, most = leastWide, wideWidth
	}
	columns, _ := terminalSize(w, most)
	v.width = max(least, min(columns, most))
}

// takesColours reports whether w is a terminal whose user wants colours (no-color.org).
func takesColours(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// print writes st.
func (v *statusText) print(w io.Writer, st *status) error {
	out := bufio.NewWriter(w) // one that has failed fails until the end
	for _, l := range v.draw(st) {
		v.write(out, l, v.width)
		_ = out.WriteByte('\n')
	}
	return out.Flush()
}

// write writes one line, cut to width.
func (v *statusText) write(b io.StringWriter, l textLine, width int) {
	text := fitted(l.text, width)
	if v.colours && l.style != plain {
		text = "\x1b[" + string(l.style) + "m" + text + "\x1b[0m"
	}
	_, _ = b.WriteString(text)
}

// fitted is s in at most width characters.
func fitted(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:max(width-1, 0)]) + "…"
}

// draw makes the lines of st.
func (v *statusText) draw(st *status) []textLine {
	v.lines = nil
	v.summary(st)
	v.table(st)
	return v.lines
}

// say adds text, in as many lines as it needs.
func (v *statusText) say(s style, format string, args ...any) {
	const indent = "  "
	for i, line := range wrapped(printable(fmt.Sprintf(format, args...)), v.width-len(indent), shownLines) {
		if i > 0 {
			line = indent + line
		}
		v.lines = append(v.lines, textLine{s, line})
	}
}

// wrapped is text in lines of at most width characters, broken between words where it can
// be. What is behind most lines is left out. There is at least one line.
func wrapped(text string, width, most int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		switch n := utf8.RuneCountInString(line); {
		case line == "":
			line = word
		case n+1+utf8.RuneCountInString(word) > width:
			lines = append(lines, fitted(line, width))
			line = word
		default:
			line += " " + word
		}
	}
	lines = append(lines, fitted(line, width))
	if len(lines) > most {
		lines = lines[:most]
		lines[most-1] = fitted(lines[most-1]+" …", width)
	}
	return lines
}

// sayAll adds a text for each of items, and counts those that are too many.
func sayAll[T any](v *statusText, s style, format string, items []T) {
	for _, item := range items[:min(len(items), shownLines)] {
		v.say(s, format, item)
	}
	if more := len(items) - shownLines; more > 0 {
		v.say(s, format, fmt.Sprintf("and %d more, see -o json", more))
	}
}

// summary is what comes before the table.
func (v *statusText) summary(st *status) {
	if st.Config.Wrong != "" {
		v.say(bad, "%s", wrongFile(st.Config.Wrong))
	}
	if st.Ready {
		v.say(good, "ready")
	} else {
		v.say(bad, "NOT READY: %s", st.Reason)
	}
	v.role(st)
	sayAll(v, bad, "CONFLICT: %s", st.Conflicts)
	var missing []string
	for i := range st.VIPs {
		missing = append(missing, missingAddresses(&st.VIPs[i])...)
	}
	sayAll(v, doubt, "VIP: %s", missing)
	sayAll(v, doubt, "KEPT: the last working real servers of %s stay in service; by the inputs none would be", st.Kept)
	sayAll(v, bad, "QUORUM: %s", st.Below)
	sayAll(v, doubt, "DOWN: %s", st.Down)
	sayAll(v, doubt, "PROBES: %s", st.FailOpen)
	var streams []string
	for _, s := range st.Cluster {
		if s.LastError != "" {
			streams = append(streams, s.Name+": "+s.LastError)
		}
	}
	sayAll(v, bad, "cluster: %s", streams)
	if s := st.Source; s.Name != "" {
		if s.Current {
			v.say(plain, "cluster source: %s, current since %s", s.Name, v.moment(s.Since))
		} else {
			v.say(bad, "cluster source: %s, not current for %s; the last known state stays in force", s.Name, age(v.now().Sub(s.Since)))
		}
	}
	if c := st.Config; !c.Loaded.IsZero() && c.Path != "" {
		v.say(plain, "config file: %s, loaded %s", c.Path, v.moment(c.Loaded))
	}
	sayAll(v, doubt, "warning: %s", st.Warnings)
	v.connections(st)
}

// shownRole is how many addresses the line about the role names.
const shownRole = 4

// role is which VIP addresses this director has.
func (v *statusText) role(st *status) {
	all, here := 0, []string(nil)
	for i := range st.VIPs {
		for _, a := range st.VIPs[i].Addresses {
			if all++; a.Device != "" {
				here = append(here, VIPAddress{a.Device, a.Address}.String())
			}
		}
	}
	switch more := len(here) - shownRole; {
	case all == 0:
	case len(here) == 0:
		v.say(plain, "role: has none of %s", numberOf(all, "VIP address"))
	case more > 0:
		v.say(plain, "role: has %d of %s: %s, and %d more", len(here), numberOf(all, "VIP address"), strings.Join(here[:shownRole], ", "), more)
	default:
		v.say(plain, "role: has %d of %s: %s", len(here), numberOf(all, "VIP address"), strings.Join(here, ", "))
	}
}

// missingAddresses says which addresses of vip are on no device, those alike in one line.
func missingAddresses(vip *vipStatus) (lines []string) {
	var addresses []string
	for i, a := range vip.Addresses {
		if a.Device == "" && a.Missing != "" {
			addresses = append(addresses, a.Address.String())
		}
		if last := i == len(vip.Addresses)-1; last && len(addresses) > 0 {
			are := "is"
			if len(addresses) > 1 {
				are = "are"
			}
			why := vip.Addresses[slices.IndexFunc(vip.Addresses, func(a addressStatus) bool { return a.Missing != "" })].Missing
			lines = append(lines, fmt.Sprintf("%s: %s %s on no device of this host: %s", vip.Name, strings.Join(addresses, ", "), are, why))
		}
	}
	return lines
}

// moment is a time, and how long ago it is.
func (v *statusText) moment(at time.Time) string {
	return fmt.Sprintf("%s (%s ago)", at.Local().Format(time.DateTime), age(v.now().Sub(at)))
}

// connections are the lines about the connection table.
func (v *statusText) connections(st *status) {
	if c := st.Table; c.Bits > 0 {
		var n uint64
		switch {
		case c.Connections != nil:
			n = *c.Connections
		case c.Listed != nil:
			n = *c.Listed
		default:
			n = st.connections()
		}
		load := 0.0
		if c.Buckets > 0 {
			load = float64(n) / float64(c.Buckets)
		}
		v.say(plain, "connection table: %d buckets, %d connections, %.2f for each bucket", c.Buckets, n, load)
	}
	for _, name := range floodDefences {
		if st.Table.Defences[name] {
			v.say(bad, "FLOOD: the kernel defends itself with %s, see docs/tuning.md", name)
		}
	}
}

// nodeKey is a real server of a VIP.
type nodeKey struct {
	vip     string
	address netip.Addr
}

// table is the services and their real servers.
func (v *statusText) table(st *status) {
	nodes := make(map[nodeKey]*nodeStatus)
	for i := range st.VIPs {
		vip := &st.VIPs[i]
		for j := range vip.Nodes {
			nodes[nodeKey{vip.Name, vip.Nodes[j].Address}] = &vip.Nodes[j]
		}
	}
	all := groups(st.Services, v.ports)
	longest := len("REAL SERVER")
	for _, g := range all {
		for i := range g.servers {
			longest = max(longest, len(serverName(&g.servers[i])))
		}
	}
	longest = min(longest, 44)
	why := "NODE, WHY, PROBES"
	if v.wide {
		why = "WHY"
	}
	v.row(title, longest, "REAL SERVER", "WEIGHT", "ACTIVE", "INACTIVE", "CONNS/S", "BYTES/S", "SINCE", "NODE", "PROBES", why)
	for _, g := range all {
		v.group(st, g)
		for i := range g.servers {
			r := &g.servers[i]
			look := plain
			if r.Weight == 0 {
				look = doubt
			}
			n := nodes[nodeKey{g.vip, r.Address}]
			if n == nil {
				n = new(nodeStatus)
			}
			number := func(n uint64) string { return fmt.Sprint(n) }
			v.row(look, longest, serverName(r), number(uint64(r.Weight)), number(uint64(r.Connections.Active)), number(uint64(r.Connections.Inactive)),
				number(r.Traffic.ConnsPerSec), number(r.Traffic.InBytesPerS), v.since(st, r), n.Node, n.column(), v.why(r, n))
		}
	}
}

func serverName(r *serverStatus) string { return RealServer{Address: r.Address, Port: r.Port}.Name() }

// row adds a line of the table. The narrow one has no columns for the bytes, the node and
// the probes.
func (v *statusText) row(s style, longest int, server, weight, active, inactive, conns, bytes, since, node, probes, why string) {
	line := fmt.Sprintf("  %-*s %6s %7s %8s %7s", longest, fitted(server, longest), weight, active, inactive, conns)
	if v.wide {
		line += fmt.Sprintf(" %9s", bytes)
	}
	line += fmt.Sprintf(" %6s", since)
	if v.wide {
		line += fmt.Sprintf("  %-16s  %-16s", fitted(printable(node), 16), fitted(printable(probes), 16))
	}
	line += "  "
	indent := strings.Repeat(" ", utf8.RuneCountInString(line))
	if len(indent)+whyWidth > v.width {
		v.lines = append(v.lines, textLine{s, strings.TrimRight(line, " ")})
		indent = "      "
		if line = indent; why == "" {
			return
		}
	}
	for i, part := range wrapped(printable(why), v.width-len(indent), reasonLines) {
		if i > 0 {
			line = indent
		}
		v.lines = append(v.lines, textLine{s, strings.TrimRight(line+part, " ")})
	}
}

// group adds the lines with the name and the ports of g.
func (v *statusText) group(st *status, g *statusGroup) {
	key, ports := g.keys[0], g.marked
	name := g.vip + " " + key.Address.String()
	if key.Mark != 0 {
		name = g.vip + " " + key.String()
	} else {
		keys := slices.Clone(g.keys)
		sort.Slice(keys, func(i, j int) bool { return keys[i].Compare(keys[j]) < 0 })
		ports = portRanges(keys)
	}
	if text := name + " " + strings.Join(ports, ","); utf8.RuneCountInString(text) <= v.width {
		name = strings.TrimSpace(text)
	} else {
		name += " " + strings.Join(ports, ", ") // where say may break a line
	}
	device := ""
	for i := range st.VIPs {
		for _, a := range st.VIPs[i].Addresses {
			if a.Address == key.Address && a.Device != "" {
				device = " on " + a.Device
			}
		}
	}
	begin := len(v.lines)
	v.say(title, "%s", name)
	if lines := len(v.lines) - begin; lines > portLines {
		v.lines = v.lines[:begin+portLines]
		if key.Mark != 0 {
			v.say(title, "  and more; -o json lists each")
		} else {
			v.say(title, "  and more, %d ports in all; -ports lists each", len(g.keys))
		}
		v.lines[len(v.lines)-1].text = "  " + v.lines[len(v.lines)-1].text
	}
	last := &v.lines[len(v.lines)-1]
	rest := fmt.Sprintf("  (%s%s, %d conns/s, %d connections)", g.scheduler, device, g.traffic.ConnsPerSec, g.traffic.Connections)
	if utf8.RuneCountInString(last.text)+len(rest) <= v.width {
		last.text += rest
	} else {
		v.lines = append(v.lines, textLine{title, fitted(rest, v.width)})
	}
}

// since is the column of that name.
func (v *statusText) since(st *status, r *serverStatus) string {
	switch {
	case !r.Since.IsZero():
		return age(v.now().Sub(r.Since))
	case !st.Since.IsZero():
		return ">" + age(v.now().Sub(st.Since))
	}
	return "-"
}

// why is the reason of the weight with how long a drain may last, and what n has and no
// column shows.
func (v *statusText) why(r *serverStatus, n *nodeStatus) string {
	var all []string
	if !v.wide && n.Node != "" {
		all = append(all, n.Node)
	}
	switch {
	case !r.DrainUntil.IsZero():
		all = append(all, fmt.Sprintf("%s left: %s", age(r.DrainUntil.Sub(v.now())), r.Why))
	case r.Why != "":
		all = append(all, r.Why)
	}
	for _, text := range n.probed(r.Why) {
		if !v.wide || strings.Contains(text, ": ") { // an answer is too long for its column
			all = append(all, text)
		}
	}
	return strings.Join(all, ", ")
}

// column is the states of n's probes without their answers.
func (n *nodeStatus) column() string {
	all := n.probed("")
	for i := range all {
		all[i], _, _ = strings.Cut(all[i], ":")
		all[i], _, _ = strings.Cut(all[i], ",")
	}
	return strings.Join(all, ",")
}
