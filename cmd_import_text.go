// VIPs of the import → the text of config.toml, with comments.
//
// Used by cmd_import.go. The result is one that `check` accepts: a VIP that ParseConfig
// refuses becomes a comment with the reason. A comment is one line of printable
// characters, whatever the source has. Pure.

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of the result: with what the first lines need it is below those of a
// configuration.
const (
	mostVIPText    = maxConfigSize / 10 * 6 // bytes of all VIPs, with their comments
	mostOtherText  = maxConfigSize / 10 * 3 // bytes of the other comments
	mostKeys       = maxKeys - 1000         // keys and list elements
	mostVIPRemarks = 300                    // comments of one VIP that are printed; the others are counted
)

// importBlock is a piece of the result: the comments of one place, or a VIP.
type importBlock struct {
	order int
	vip   *importVIP // nil for comments
	lines []string
}

// configuration is the text, and what it has.
func (f *imported) configuration() (string, importCount) {
	f.fit()
	all := f.vips()
	for round := 0; ; round++ {
		blocks, count := f.blocks(all)
		text := f.text(blocks, &count)
		if len(all) == 0 {
			return text, count
		}
		_, err := ParseConfig("config.toml", []byte(text))
		if err == nil {
			return text, count
		}
		all = refuseVIPs(all, blocks, text, err, round)
	}
}

// refuseVIPs takes out of all those VIPs in whose lines ParseConfig has found mistakes:
// some rules need the whole file. After some rounds, it takes out all.
func refuseVIPs(all []*importVIP, blocks []importBlock, text string, err error, round int) []*importVIP {
	mistakes, _ := errors.AsType[ConfigErrors](err)
	wrong := make(map[*importVIP]string)
	for _, m := range mistakes.First {
		line := strings.Count(text, "\n")
		for i := len(blocks) - 1; i >= 0; i-- {
			if line -= len(blocks[i].lines) + 1; m.Line > line {
				if v := blocks[i].vip; v != nil && wrong[v] == "" {
					_, key, _ := strings.Cut(m.Key, ".")
					wrong[v] = key + ": " + m.Msg
				}
				break
			}
		}
	}
	if len(wrong) == 0 || round > 20 {
		for _, v := range all {
			wrong[v] = report(err)
		}
	}
	return slices.DeleteFunc(all, func(v *importVIP) bool {
		for _, s := range v.services {
			if wrong[v] != "" {
				s.refuse("config.toml refuses it: " + wrong[v])
			}
		}
		return wrong[v] != ""
	})
}

// blocks are the pieces of the result in the order of the source, as many as there is
// room for, and what is in them.
func (f *imported) blocks(all []*importVIP) ([]importBlock, importCount) {
	var blocks []importBlock
	var c importCount
	c.services = len(f.services)
	for _, s := range f.services {
		c.rows += len(s.servers)
	}
	size, keys := 0, 0
	for _, v := range all {
		b := importBlock{order: v.first().at.order, vip: v}
		var w importWriter
		v.write(&w, f.keeps)
		b.lines = w.lines
		bytes := 0
		for _, line := range b.lines {
			bytes += len(line) + 1
		}
		names := 50 + w.keys + len(v.ports) + len(v.addresses) + 3*len(v.first().servers)
		if size+bytes > mostVIPText || keys+names > mostKeys {
			for _, s := range v.services {
				s.refuse("the configuration would be larger than the program reads")
			}
			continue
		}
		size, keys = size+bytes, keys+names
		c.vips++
		c.settings += w.count.settings
		c.hidden += w.count.hidden
		for _, s := range v.services {
			c.taken++
			for _, r := range s.fitting() {
				if r.Weight > 0 || !s.removesAtOnce() { // what the controller removes has a comment
					c.rowsTaken++
				}
			}
		}
		blocks = append(blocks, b)
	}
	ours := make(map[netip.Addr]bool)
	for i := range blocks {
		addAll(ours, blocks[i].vip.addresses)
	}
	var remarks []remark
	for _, s := range f.services {
		if s.refused != "" {
			why := s.refused
			if ours[s.Address] {
				why += "; a controller with this file removes it from the kernel, because it has the address"
			}
			text := fmt.Sprintf("%s: not taken, with %d %s: %s", s.what, len(s.servers), plural(len(s.servers), "real server", "real servers"), why)
			remarks = append(remarks, remark{at: s.at, note: true, text: text})
		}
	}
	size = 0
	for _, r := range append(remarks, f.remarks...) {
		if !r.note {
			c.settings++
		}
		line := "# " + r.String()
		if size += len(line) + 2; size > mostOtherText {
			c.hidden++
			continue
		}
		blocks = append(blocks, importBlock{order: r.at.order, lines: []string{line}})
	}
	stableBy(blocks, func(a, b importBlock) int { return a.order - b.order })
	return blocks, c
}

// text is the whole result.
func (f *imported) text(blocks []importBlock, c *importCount) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Made by `lvs-controller import` from %s.\n# config.toml.example explains every key; `lvs-controller check` names mistakes.\n", printable((&importPlace{file: f.source}).String()))
	for _, line := range c.lines() {
		fmt.Fprintf(&b, "# %s%s.\n", strings.ToUpper(line[:1]), line[1:])
	}
	for i := range blocks {
		b.WriteByte('\n')
		for _, line := range blocks[i].lines {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// importWriter collects the lines of a VIP.
type importWriter struct {
	lines []string
	count importCount
	notes int // comments, with those that are too many
	keys  int // of requests, with their list elements
}

func (w *importWriter) line(text string) { w.lines = append(w.lines, text) }

// text writes a key with a string, if that is not empty.
func (w *importWriter) text(key, value string) {
	if value != "" {
		w.line(key + " = " + strconv.Quote(value))
	}
}

// number writes a key with a number that is not 0.
func (w *importWriter) number(key string, value uint32) {
	if value != 0 {
		w.line(key + " = " + strconv.FormatUint(uint64(value), 10))
	}
}

// list writes a key with a list of strings.
func (w *importWriter) list(key string, words []string) {
	w.line(key + " = [" + quotedList(words) + "]")
}

// comments writes remarks, and counts them.
func (w *importWriter) comments(indent string, remarks []remark) {
	stableBy(remarks, func(a, b remark) int { return a.at.order - b.at.order })
	for _, r := range remarks {
		if !r.note {
			w.count.settings++
		}
		if w.notes++; w.notes > mostVIPRemarks {
			w.count.hidden++
			continue
		}
		w.line(indent + "# " + r.String())
	}
}

// write writes the [[vip]] of v.
func (v *importVIP) write(w *importWriter, keeps map[netip.Addr]string) {
	s, usual := v.first(), defaultVIP()
	servers, sorry, loose := v.remarks()
	w.line("[[vip]]")
	w.comments("", loose)
	var addresses []string
	for _, a := range v.addresses {
		addresses = append(addresses, a.String())
	}
	w.text("name", v.name)
	w.list("addresses", addresses)
	w.line(v.announce(keeps))
	if s.Scheduler != usual.Scheduler {
		w.text("scheduler", s.Scheduler)
	}
	if flags := v.flags &^ FlagPersistent; flags != findScheduler(s.Scheduler).fallback {
		odd := s.VirtualService
		odd.Flags = flags
		w.list("flags", strings.FieldsFunc(flagWords(&odd), func(r rune) bool { return r == ',' }))
	}
	w.list("ports", shortPorts(v.ports))
	all := v.servers()
	shape := &all[0]
	if shape.Forward == Tunnel {
		w.text("forward", "tunnel")
	}
	w.number("upper_threshold", shape.Upper)
	w.number("lower_threshold", shape.Lower)
	w.line(`selector = "" # no pods: real_servers are all`)
	w.line("real_servers = [")
	for i := range all {
		r := &all[i]
		line, end := `  { address = "`+r.Address.String()+`"`, " },"
		switch {
		case r.Weight == 0:
			end = ", weight = 0 }, # no new connections: the controller takes it out of the kernel's table"
		case r.Weight != usual.Weight:
			end = ", weight = " + strconv.Itoa(int(r.Weight)) + " },"
		}
		w.line(line + end)
		w.comments("  ", servers[r.Address])
		delete(servers, r.Address)
	}
	var rest []remark
	for _, of := range servers {
		rest = append(rest, of...)
	}
	w.comments("  ", rest)
	w.line("]")
	if sorry.IsValid() {
		w.text("sorry_server", sorry.String())
	}
	probes := probesOf(v)
	w.comments("", probes.remarks)
	shape.Tunnel.write(w)
	v.writePersistence(w)
	probes.write(w)
}

// remarks are those of v's services, each once: by real server, and the others. sorry is
// the sorry server.
func (v *importVIP) remarks() (servers map[netip.Addr][]remark, sorry netip.Addr, loose []remark) {
	servers = make(map[netip.Addr][]remark)
	seen := make(map[string]bool)
	// What concerns a real server of several services is said once; a setting, at each of
	// its places.
	add := func(to []remark, all ...remark) []remark {
		for _, r := range all {
			text := r.text
			if !r.note {
				text = r.String()
			}
			if !seen[text] {
				seen[text] = true
				to = append(to, r)
			}
		}
		return to
	}
	for _, s := range v.services {
		loose = add(loose, s.remarks...)
		for i := range s.servers {
			r := &s.servers[i]
			all := r.remarks
			if r.refused != "" {
				all = []remark{{r.at, r.label() + ": not taken: " + r.refused, true}}
			}
			servers[r.Address] = add(servers[r.Address], all...)
		}
		for i := range s.sorry {
			r := &s.sorry[i]
			loose = add(loose, r.remarks...)
			switch {
			case r.refused != "":
				loose = add(loose, remark{r.at, "sorry_server: " + r.refused, false})
			case !sorry.IsValid():
				sorry = r.Address
			case r.Address != sorry:
				loose = add(loose, remark{r.at, "sorry_server: the VIP has another one for all its ports, " + sorry.String(), false})
			}
		}
	}
	return servers, sorry, loose
}

// announce is the line that says who has the addresses.
func (v *importVIP) announce(keeps map[netip.Addr]string) string {
	var with, without []string
	for _, a := range v.addresses {
		if name, kept := keeps[a]; kept {
			with = append(with, a.String()+" (vrrp_instance "+name+")")
		} else {
			without = append(without, a.String())
		}
	}
	text := "keepalived keeps " + strings.Join(with, ", ")
	switch {
	case keeps == nil:
		text = "as it is now: another program has the address"
	case len(with) == 0:
		text = `no vrrp_instance of the file has it: "arp", "dummy" or a router can bring it here`
	case len(without) > 0:
		text += "; no vrrp_instance has " + strings.Join(without, ", ")
	}
	return `announce = "none" # ` + printable(shorten(text, mostRemark))
}

// write writes [vip.tunnel].
func (t TunnelSettings) write(w *importWriter) {
	if t.Type == TunnelIPIP { // without a tunnel too
		return
	}
	w.line("[vip.tunnel]")
	w.text("type", tunnelTypes[t.Type])
	w.number("port", uint32(t.Port))
	if t.Flags != TunnelNoChecksum {
		w.text("checksum", map[TunnelFlags]string{TunnelChecksum: "on", TunnelRemoteChecksum: "remote"}[t.Flags])
	}
}

// writePersistence writes [vip.persistence].
func (v *importVIP) writePersistence(w *importWriter) {
	s := v.first()
	if s.Persistence == 0 {
		return
	}
	w.line("[vip.persistence]")
	w.text("timeout", shortDuration(time.Duration(s.Persistence)*time.Second))
	key := "netmask"
	if s.Address.Is6() {
		key = "prefix"
	}
	w.number(key, uint32(s.Netmask))
	w.text("engine", v.engine)
}
