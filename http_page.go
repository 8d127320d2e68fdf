// The page at / and its figures at /page.json.
//
// Used by http*.go. The page is one file that asks for nothing but the figures, and
// only from here. It reads the kernel's table through a separate socket, as often as
// the size of the table allows, for all who look. It changes nothing.

package main

import (
	"bufio"
	"crypto/sha256"
	_ "embed" // the page's style and script
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

var (
	//go:embed page/page.css
	pageStyle string
	//go:embed page/draw.js
	pageDrawing string
	//go:embed page/page.js
	pageLogic string

	pageScript = pageDrawing + pageLogic
)

const (
	// pageGap is the time between two readings for the page at least, and pageShare
	// bounds what they cost: the next one is so many times as far away as the last took.
	pageGap   = time.Second
	pageShare = 10
)

// ofPage is the shared table of v. A slow reading is used for longer.
func (s *httpServer) ofPage(v *loopState) (t *pageTable, at, until time.Time, err error) {
	return s.page.of(nil, func() (*pageTable, error) {
		t := newPageTable(v)
		if err := s.observe(t.owned, t.add); err != nil {
			return nil, err
		}
		t.finish()
		s.explain(v, t)
		return t, nil
	}, func(took time.Duration) time.Duration { return max(pageGap, pageShare*took) })
}

// pageState is what the page shows.
type pageState struct {
	Host     string       `json:"host"`
	Version  string       `json:"version"`
	Time     time.Time    `json:"time"`
	Read     time.Time    `json:"read,omitzero"`   // the kernel's table
	Next     int64        `json:"next_ms"`         // until the next reading
	Fault    string       `json:"fault,omitempty"` // why it could not be read
	Status   status       `json:"status"`          // without services, and with lists of pageLines
	LeftOff  pageLeftOff  `json:"left_off,omitzero"`
	Load     pageTotals   `json:"load"`             // of all VIPs
	Drains   []*pageDrain `json:"drains"`           // pageLines at most, those with the least time first
	VIPs     []*pageVIP   `json:"vips"`             //
	Places   pagePlaces   `json:"places"`           // where their addresses are
	MoreVIPs int          `json:"more_vips"`        // that are left out
	Number   uint64       `json:"number"`           // of the newest change
	Changes  []Change     `json:"changes"`          // null for one who knows the newest
	Probes   []pageProbes `json:"probes"`           //
	Series   *pageSeries  `json:"series,omitempty"` // for one who knows nothing yet
}

// pageLeftOff is how many lines of the status the page does not have.
type pageLeftOff struct {
	FailOpen int `json:"fail_open,omitempty"`
	Kept     int `json:"kept,omitempty"`
	Down     int `json:"probed_down,omitempty"`
	Warnings int `json:"warnings,omitempty"`
}

// cutStatus leaves pageLines of each list of st. The page does not show the addresses
// that are announced.
func cutStatus(st *status) (left pageLeftOff) {
	st.Announced = nil
	for _, l := range []struct {
		list *[]string
		more *int
	}{{&st.FailOpen, &left.FailOpen}, {&st.Kept, &left.Kept}, {&st.Down, &left.Down}, {&st.Warnings, &left.Warnings}} {
		*l.more = max(0, len(*l.list)-pageLines)
		*l.list = (*l.list)[:len(*l.list)-*l.more]
	}
	return left
}

// explain adds to t where the VIPs' addresses are, and the nodes and probes of the real
// servers.
func (s *httpServer) explain(v *loopState, t *pageTable) {
	devices, err := s.ofDevices()
	cluster, answers, draining := s.loop.cluster.Get(), s.prober.Answers(), v.Shards.draining()
	for i := range v.Config.VIPs {
		vip := &v.Config.VIPs[i]
		p := t.byName[vip.Name]
		if p == nil {
			continue
		}
		for _, a := range newVIPStatus(v.Config, vip, devices, err, !v.Drained.IsZero()).Addresses {
			t.places[a.Address] = a
		}
		if len(p.Blocks) > 0 {
			nodes := nodesOf(vip, cluster, answers, draining[vip.Name], s.loop.nodes.of)
			p.explain(nodes)
			for _, d := range t.soon {
				if d.VIP == vip.Name {
					d.Node = nodeName(nodes, d.address)
				}
			}
		}
	}
}

// pageProbes are the probes of one kind.
type pageProbes struct {
	Kind    string `json:"kind"`
	Up      int    `json:"up"`
	Down    int    `json:"down"`
	Unknown int    `json:"unknown"`
}

// pageSeries are the series of the VIPs, and that of all together under "". All end
// with the last of Times.
type pageSeries struct {
	Times []int64                 `json:"times"` // milliseconds since 1970
	VIPs  map[string][][4]float64 `json:"vips"`  // active, inactive, connections and bytes in a second
}

// pageState joins the loop's snapshot with the kernel's counters.
func (s *httpServer) pageState() *pageState {
	v := s.loop.published.Load()
	p := &pageState{Version: version, Time: time.Now(), Status: s.head(v), VIPs: []*pageVIP{}, Drains: []*pageDrain{}, Changes: s.loop.changes.last(), Probes: []pageProbes{}}
	p.LeftOff = cutStatus(&p.Status)
	p.Host, _ = os.Hostname() // without a name the page has none
	if len(p.Changes) > 0 {
		p.Number = p.Changes[0].Number
	}
	for kind, stats := range s.prober.Stats().Kinds {
		if n := stats.Targets; n[up]+n[down]+n[unknown] > 0 {
			p.Probes = append(p.Probes, pageProbes{probeKind(kind).String(), n[up], n[down], n[unknown]})
		}
	}
	if v == nil || v.Config == nil {
		return p
	}
	t, at, until, err := s.ofPage(v)
	p.Read, p.Next = at, max(0, time.Until(until).Milliseconds())
	if err != nil {
		p.Fault = err.Error()
		if errors.Is(err, errNoIPVS) {
			p.Status.Ready, p.Status.Reason = false, p.Fault
		}
		return p
	}
	p.Load, p.Drains, p.VIPs, p.MoreVIPs, p.Places = t.total, t.soon, t.vips, t.more, t.places
	return p
}

// series are the points that the program has kept.
func (s *httpServer) series() *pageSeries {
	times, vips := s.loop.loads.last()
	all := &pageSeries{Times: make([]int64, 0, len(times)), VIPs: make(map[string][][4]float64, len(vips))}
	for _, at := range times {
		all.Times = append(all.Times, at.UnixMilli())
	}
	for name, points := range vips {
		list := make([][4]float64, 0, len(points))
		for _, p := range points {
			list = append(list, [4]float64{float64(p.Active), float64(p.Inactive), tenths(p.ConnsPerSec), tenths(p.BytesPerS)})
		}
		all.VIPs[name] = list
	}
	return all
}

// tenths is v with one digit behind the point.
func tenths(v float32) float64 { return float64(int64(float64(v)*10+0.5)) / 10 }

// pageJSON gives the figures of the page. The parameter known is the number of the
// newest change that the page has; without it the page gets the series, too.
func (s *httpServer) pageJSON(w http.ResponseWriter, r *http.Request) {
	text := r.URL.Query().Get("known")
	known, err := strconv.ParseUint(text, 10, 64)
	if text != "" && err != nil {
		http.Error(w, "known is not a number", http.StatusBadRequest)
		return
	}
	p := s.pageState()
	switch {
	case text == "":
		p.Series = s.series()
	case known == p.Number:
		p.Changes = nil
	}
	harden(w.Header())
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(p); err != nil {
		s.log.Debug("the figures of the page could not be sent completely", "err", err)
	}
}

// pageHTML gives the page with the figures of this moment.
func (s *httpServer) pageHTML(w http.ResponseWriter, _ *http.Request) {
	p := s.pageState()
	harden(w.Header())
	w.Header().Set("Content-Security-Policy", pagePolicy())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	out := bufio.NewWriter(w)
	writePage(out, p)
	if err := out.Flush(); err != nil {
		s.log.Debug("the page could not be sent completely", "err", err)
	}
}

// harden sets the headers that keep a browser from doing more with an answer than
// showing it here and now.
func harden(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}

// pagePolicy lets a browser run the page's own script, use its own style and ask only
// this listener. An icon is part of the page.
var pagePolicy = sync.OnceValue(func() string {
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; script-src " + hash(pageScript) + "; style-src " + hash(pageStyle) +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
})

// writePage writes the page around its body.
func writePage(w io.Writer, p *pageState) {
	h := htmlWriter{w}
	h.print(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>%s – lvs-controller</title>
<style>`, p.Host)
	_, _ = io.WriteString(w, pageStyle) // an error shows when the answer is flushed
	h.print("</style>\n</head>\n<body>\n")
	h.body(p)
	h.print("<script>")
	_, _ = io.WriteString(w, pageScript)
	h.print("</script>\n</body>\n</html>\n")
}
