// The page as HTML, for browsers without scripts and until the script has run.
//
// Used by http_page.go. Every text goes through htmlWriter.print, which escapes it:
// names of pods, VIPs and devices come from outside. The script draws the same from
// /page.json, so what changes here changes in page/page.js. It decides nothing.

package main

import (
	"fmt"
	"html"
	"io"
	"strconv"
	"strings"
	"time"
)

// htmlWriter writes HTML.
type htmlWriter struct{ w io.Writer }

// print writes format, which is HTML, with args as escaped texts: each verb is %s. An
// error shows when the answer is flushed.
func (h htmlWriter) print(format string, args ...any) {
	for i, a := range args {
		args[i] = html.EscapeString(fmt.Sprint(a))
	}
	fmt.Fprintf(h.w, format, args...)
}

// body writes all that is visible.
func (h htmlWriter) body(p *pageState) {
	class, word := "ok", "Ready"
	switch {
	case !p.Status.Drained.IsZero():
		class, word = "warn", "Drained"
	case !p.Status.Ready:
		class, word = "bad", "Not ready"
	}
	h.print("<header class=\"top\"><h1><span class=\"host\">%s</span> <span class=\"what\">lvs-controller %s</span></h1>\n", p.Host, p.Version)
	h.print("<p class=\"state\"><b id=\"state\" class=\"pill %s\">%s</b> <span id=\"live\">as of %s</span></p></header>\n", class, word, p.Time.Format("2006-01-02 15:04:05 MST"))
	h.print("<noscript><p class=\"note\">Without JavaScript the page has no drawing and no plots, and does not refresh itself: reload it for newer figures.</p></noscript>\n<main id=\"main\">\n")
	h.notices(p)
	h.facts(p)
	if len(p.VIPs) == 0 && p.Fault == "" {
		h.print("<p class=\"empty\">No VIP is known yet.</p>\n")
	}
	for _, v := range p.VIPs {
		h.vip(v, p.Places)
	}
	if p.MoreVIPs > 0 {
		h.print("<p class=\"note\">%s more VIPs are not shown: <code>lvs-controller status</code> has all.</p>\n", grouped(uint64(p.MoreVIPs)))
	}
	h.drains(p)
	h.probes(p)
	h.changes(p.Changes)
	h.print("</main>\n")
}

// notice is one line about something that is wrong.
type notice struct{ Level, What, Text string }

// notices are what is wrong, the worst first.
func (p *pageState) notices() (all []notice) {
	add := func(level, what string, texts ...string) {
		for _, text := range texts {
			all = append(all, notice{level, what, text})
		}
	}
	st := &p.Status
	if !st.Ready {
		add("bad", "Not ready", st.Reason)
	}
	if p.Fault != "" && p.Fault != st.Reason {
		add("bad", "Kernel", p.Fault)
	}
	if st.Config.Wrong != "" {
		add("bad", "Configuration", st.Config.Path+" is refused, and the last good configuration stays in force: "+st.Config.Wrong)
	}
	for _, c := range st.Conflicts {
		add("bad", "Conflict", c.String())
	}
	add("bad", "All probes fail", st.FailOpen...)
	for _, set := range st.Kept {
		add("bad", "Kept", "the last working real servers of "+set+" stay in service; by the inputs none would be")
	}
	add("bad", "Quorum", st.Below...)
	for _, s := range st.Cluster {
		if s.LastError != "" {
			add("warn", "Cluster", s.Name+": "+s.LastError)
		}
	}
	for _, name := range floodDefences {
		if st.Table.Defences[name] {
			add("warn", "Flood", "the kernel defends itself with "+name+", see docs/tuning.md")
		}
	}
	add("warn", "Warning", st.Warnings...)
	return all
}

// pageNotices is how many notices are shown, and noticeText how many characters of a
// long one at first.
const (
	pageNotices = 100
	noticeText  = 200
)

func (h htmlWriter) notices(p *pageState) {
	all := p.notices()
	if len(all) == 0 {
		return
	}
	h.print("<section class=\"notices\"><h2>What is wrong</h2><ul>\n")
	for _, n := range all[:min(len(all), pageNotices)] {
		h.print("<li class=\"%s\"><b>%s</b> ", n.Level, n.What)
		if short := shorten(n.Text, noticeText); len(short) < len(n.Text) {
			h.print("<details><summary>%s</summary><span>%s</span></details></li>\n", short, n.Text)
		} else {
			h.print("<span>%s</span></li>\n", n.Text)
		}
	}
	if more := len(all) + p.LeftOff.FailOpen + p.LeftOff.Kept + p.LeftOff.Below + p.LeftOff.Warnings - pageNotices; more > 0 {
		h.print("<li>and %s more: <code>lvs-controller status -o json</code> has all</li>\n", count(more))
	}
	h.print("</ul></section>\n")
}

// facts are the sums of all VIPs.
func (h htmlWriter) facts(p *pageState) {
	fact := func(name, value, more string) {
		h.print("<div><dt>%s</dt><dd><b>%s</b> <small>%s</small></dd></div>\n", name, value, more)
	}
	blocks := 0
	for _, v := range p.VIPs {
		blocks += len(v.Blocks)
	}
	t := &p.Load.Traffic
	h.print("<section class=\"all\"><h2>All VIPs</h2><dl class=\"facts\">\n")
	fact("VIPs", count(len(p.VIPs)+p.MoreVIPs), "")
	fact("Services", count(p.Load.Services), "in "+countOf(blocks, "block"))
	fact("Real servers", count(p.Load.Servers), count(p.Load.Serving)+" in service")
	fact("Active connections", grouped(uint64(p.Load.Connections.Active)), grouped(uint64(p.Load.Connections.Inactive))+" inactive")
	fact("New connections", grouped(t.ConnsPerSec), "/s")
	fact("Bytes in", byteRate(t.InBytesPerS), "/s")
	if c := &p.Status.Table; c.Bits > 0 {
		more := "buckets"
		if c.Connections != nil {
			more += ", " + grouped(*c.Connections) + " connections"
		}
		fact("Connection table", grouped(c.Buckets), more)
	}
	h.print("</dl></section>\n")
}

func (h htmlWriter) vip(v *pageVIP, places pagePlaces) {
	name := v.Name
	if name == "" {
		name = "not configured"
	}
	h.print("<section class=\"vip\"><div class=\"head\"><h2>%s</h2> <p class=\"addresses\">", name)
	for _, a := range v.Addresses {
		h.print("<code>%s</code> ", a)
		if at := places[a]; at.Device != "" {
			h.print("<span class=\"pill ok\">on %s</span> ", at.Device)
		} else if at.Missing != "" {
			h.print("<span class=\"pill off\" title=\"%s\">on no device here</span> ", at.Missing)
		}
	}
	t := &v.Load.Traffic
	h.print("</p>\n<p class=\"sum\">%s active, %s inactive, %s new/s, %s/s in</p></div>\n", grouped(uint64(v.Load.Connections.Active)), grouped(uint64(v.Load.Connections.Inactive)), grouped(t.ConnsPerSec), byteRate(t.InBytesPerS))
	if len(v.Blocks) == 0 {
		h.print("<p class=\"empty\">No service: no real server has been in service yet.</p>\n")
	}
	for _, b := range v.Blocks {
		h.block(b)
	}
	if v.LeftOut > 0 {
		h.print("<p class=\"note\">%s more services are not shown.</p>\n", count(v.LeftOut))
	}
	h.print("</section>\n")
}

// openRows is up to how many rows a block is open at first.
const openRows = 40

// blockPorts is how many ports and ranges of a block are named.
const blockPorts = 12

func (h htmlWriter) block(b *pageBlock) {
	open := ""
	if len(b.Rows) <= openRows {
		open = " open"
	}
	ports := strings.Join(b.Ports[:min(len(b.Ports), blockPorts)], ", ")
	if more := len(b.Ports) - blockPorts; more > 0 {
		ports += " and " + count(more) + " more"
	}
	h.print("<details class=\"block\""+open+"><summary><span class=\"ports\"><code>%s</code></span> <span class=\"of\">%s</span> <span class=\"serves\">%s of %s in service</span> <span class=\"load\">%s active, %s new/s</span></summary>\n",
		ports, b.describe(), count(b.InService), countOf(b.Servers, "real server"), grouped(uint64(b.Load.Connections.Active)), grouped(b.Load.Traffic.ConnsPerSec))
	switch {
	case b.Servers == 0:
		h.print("<p class=\"empty\">No real server.</p>")
	case len(b.Rows) == 0:
		h.print("<p class=\"note\">The page has no room for these rows: <code>lvs-controller status</code> has all.</p>")
	default:
		h.rows(b.Rows)
	}
	h.print("</details>\n")
}

// describe is what b has beside its ports.
func (b *pageBlock) describe() string {
	text := b.Scheduler
	if b.Address.IsValid() {
		text = b.Address.String() + ", " + text
	}
	if b.Persistence > 0 {
		text += ", persistent " + count(int(b.Persistence)) + " s"
	}
	if b.Services > 1 {
		text += ", " + count(b.Services) + " services"
	}
	return text
}

func (h htmlWriter) rows(rows []pageRow) {
	h.print(`<table><thead><tr><th scope="col">Real server</th><th scope="col">State</th><th scope="col" class="n">Weight</th><th scope="col" class="n">Active</th><th scope="col" class="n">Inactive</th><th scope="col" class="n wide">New/s</th><th scope="col" class="n wide">Total</th><th scope="col" class="why">Reason, probes</th></tr></thead><tbody>
`)
	for i := range rows {
		r := &rows[i]
		why := r.Why
		if !r.Until.IsZero() {
			why += ", until " + r.Until.Format(time.TimeOnly) + " at most"
		}
		if r.Probes != "" {
			why += "; " + r.Probes
		}
		h.print("<tr><th scope=\"row\"><code>%s</code>", r.Server)
		if r.Node != "" {
			h.print(" <small>%s</small>", r.Node)
		}
		h.print("</th><td><span class=\"dot %s\">%s</span></td><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n wide\">%s</td><td class=\"n wide\">%s</td><td class=\"why\">%s</td></tr>\n",
			stateClass(r.State), r.State, count(int(r.Weight)), grouped(uint64(r.Load.Connections.Active)), grouped(uint64(r.Load.Connections.Inactive)), grouped(r.Load.Traffic.ConnsPerSec), grouped(r.Load.Traffic.Connections), why)
	}
	h.print("</tbody></table>")
}

// stateClass is the class of a row's state in the style.
func stateClass(state string) string {
	switch state {
	case rowServes:
		return "ok"
	case rowDrains:
		return "warn"
	}
	return "off"
}

// pageDrains is how many drains are listed.
const pageDrains = 100

func (h htmlWriter) drains(p *pageState) {
	all := p.Drains
	if len(all) == 0 {
		return
	}
	h.print("<section class=\"drains\"><h2>Drains <small>%s</small></h2><ul class=\"list\">\n", count(p.Load.Drains))
	for _, d := range all[:min(len(all), pageDrains)] {
		h.print("<li><code>%s</code> <span>leaves %s of %s, %s active</span> <b class=\"left\">%s left at most</b></li>\n",
			d.Server, countOf(d.Services, "service"), d.VIP, grouped(d.Active), max(0, d.Until.Sub(p.Time)).Round(time.Second))
	}
	h.print("</ul></section>\n")
}

// pageDown is how many failing probes are listed.
const pageDown = 100

func (h htmlWriter) probes(p *pageState) {
	down := p.Status.Down
	failing := len(down) + p.LeftOff.Down
	if len(p.Probes)+failing == 0 {
		return
	}
	h.print("<section class=\"probes\"><h2>Probes <small>%s</small></h2>\n<ul class=\"kinds\">", countOf(failing, "failing target"))
	for _, k := range p.Probes {
		h.print("<li><b>%s</b> %s up, %s down, %s not known yet</li>", k.Kind, count(k.Up), count(k.Down), count(k.Unknown))
	}
	h.print("</ul>\n<ul class=\"list\">\n")
	for _, text := range down[:min(len(down), pageDown)] {
		h.print("<li><span class=\"dot bad\">down</span> <span>%s</span></li>\n", text)
	}
	if more := failing - pageDown; more > 0 {
		h.print("<li>and %s more</li>\n", count(more))
	}
	h.print("</ul></section>\n")
}

func (h htmlWriter) changes(all []Change) {
	h.print("<section class=\"changes\"><h2>Last changes <small>%s</small></h2><ol class=\"list\">\n", count(len(all)))
	for i := range all {
		c := &all[i]
		h.print("<li><time>%s</time> <span><b>%s</b> <code>%s</code> <span class=\"at\">%s</span> <span class=\"change\">%s</span> <span class=\"why\">%s</span></span></li>\n",
			c.Time.Format("01-02 15:04:05"), c.What, c.Server, c.place(), c.Change, c.Why)
	}
	h.print("</ol></section>\n")
}

// place is what c is a change of.
func (c *Change) place() string {
	text := c.VIP
	if c.Address.IsValid() {
		text += " " + c.Address.String()
	}
	return strings.TrimSpace(text + " " + c.Ports)
}

// grouped is n with a comma before each three digits.
func grouped(n uint64) string {
	text := strconv.FormatUint(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func count(n int) string { return grouped(uint64(max(n, 0))) }

// countOf is "1 block", "2 blocks".
func countOf(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return count(n) + " " + noun
}

// byteRate is a number of bytes for people, in steps of 1,000.
func byteRate(n uint64) string {
	v, unit := float64(n), 0
	units := [...]string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	for v >= 999.5 && unit < len(units)-1 {
		v /= 1000
		unit++
	}
	if unit == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, units[unit])
	}
	return fmt.Sprintf("%.1f %s", v, units[unit])
}
