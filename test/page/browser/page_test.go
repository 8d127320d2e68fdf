// Package browser looks at the controller's page in a real Chromium: the figures are
// those of ipvsadm, nothing overlaps or scrolls sideways, and the browser asks no other
// host.
//
// `make page` runs it. The controller runs in a virtual machine (test/page/guest), the
// browser here. The screenshots are written to .cache/page.
package browser

import (
	"context"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

var (
	root     = flag.String("root", "../../..", "the project's `folder`")
	chromium = flag.String("chromium", "/usr/bin/chromium", "the `browser`")
)

//go:embed layout.js
var layout string

// tab is a page in the browser, with what went wrong in it.
type tab struct {
	*testing.T
	ctx  context.Context
	base string

	mu     sync.Mutex
	faults []string
}

func newTab(t *testing.T, base string) *tab {
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(*chromium), chromedp.NoSandbox, chromedp.WSURLReadTimeout(2*time.Minute))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &tab{T: t, ctx: ctx, base: base}
	chromedp.ListenTarget(ctx, b.watch)
	if err := chromedp.Run(ctx); err != nil { // the browser lives as long as this context
		t.Fatal(err)
	}
	b.run(log.Enable(), network.Enable(), runtime.Enable())
	return b
}

// watch notes what the browser complains about, and what it asks for.
func (b *tab) watch(event any) {
	text := ""
	switch e := event.(type) {
	case *log.EventEntryAdded:
		text = "log: " + e.Entry.Text + " " + e.Entry.URL
	case *runtime.EventExceptionThrown:
		text = "exception: " + e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
	case *runtime.EventConsoleAPICalled:
		text = "console: " + string(e.Type)
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if err == nil && (u.Scheme == "data" || u.Scheme == "http" && u.Host == b.base && (u.Path == "/" || u.Path == "/page.json")) {
			return
		}
		text = "request: " + e.Request.URL
	}
	if text != "" {
		b.mu.Lock()
		b.faults = append(b.faults, text)
		b.mu.Unlock()
	}
}

func (b *tab) run(actions ...chromedp.Action) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// clean fails the test for what the browser has complained about.
func (b *tab) clean() {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.faults) > 0 {
		b.Errorf("the browser says:\n%s", strings.Join(b.faults, "\n"))
	}
	b.faults = nil
}

// look is the answer of layout.js.
type look struct {
	Faults                     []string
	Blocks                     []shownBlock
	Text, Title, State, Live   string
	Nodes, Links, Cells, Plots int
}

type shownBlock struct {
	Ports, Address string
	Services       int
	Rows           map[string]shownRow
}

type shownRow struct {
	row
	State, Why string
}

func (b *tab) look() (l look) {
	b.Helper()
	var text string
	b.run(chromedp.Evaluate(layout, &text))
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		b.Fatal(err)
	}
	return l
}

// size is a window with a colour scheme.
func size(width int, scheme string) chromedp.Action {
	return chromedp.Tasks{
		emulation.SetDeviceMetricsOverride(int64(width), 900, 1, false),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
	}
}

// within waits until check says nothing any more.
func (b *tab) within(limit time.Duration, check func() string) {
	b.Helper()
	end := time.Now().Add(limit)
	for {
		what := check()
		if what == "" {
			return
		}
		if time.Now().After(end) {
			b.Fatal(what)
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// differs compares the figures of the page with ipvsadm's.
func (l *look) differs(want table) string {
	got := 0
	for _, block := range l.Blocks {
		services := block.members(want)
		if len(services) != block.Services {
			return fmt.Sprintf("block %s of %s has %d services, ipvsadm %d", block.Ports, block.Address, block.Services, len(services))
		}
		got += len(services)
		sums := make(map[string][3]int)
		for _, name := range services {
			if servers, shown := slices.Sorted(maps.Keys(want[name])), slices.Sorted(maps.Keys(block.Rows)); !slices.Equal(servers, shown) {
				return fmt.Sprintf("%s: the page has the real servers %s, ipvsadm %s", name, shown, servers)
			}
			for server, r := range want[name] {
				if shown := block.Rows[server]; shown.Weight != r.Weight {
					return fmt.Sprintf("%s %s: weight %s, ipvsadm %s", name, server, shown.Weight, r.Weight)
				}
				sums[server] = [3]int{sums[server][0] + number(r.Active), sums[server][1] + number(r.Inactive), sums[server][2] + number(r.Total)}
			}
		}
		for server, sum := range sums {
			r := block.Rows[server]
			if shown := [3]int{number(r.Active), number(r.Inactive), number(r.Total)}; shown != sum {
				return fmt.Sprintf("%s %s: active, inactive and all connections %v, ipvsadm %v", block.Ports, server, shown, sum)
			}
		}
	}
	if got != len(want) {
		return fmt.Sprintf("the page has %d services, ipvsadm %d", got, len(want))
	}
	return ""
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}

// members are the services of want that belong to the block by its ports.
func (b *shownBlock) members(want table) (names []string) {
	for name := range want {
		rest, ours := strings.CutPrefix(name, b.Address+":")
		port, protocol, _ := strings.Cut(rest, "/")
		if ours && slices.ContainsFunc(strings.Split(b.Ports, ", "), func(text string) bool {
			numbers, of, _ := strings.Cut(text, "/")
			first, last, isRange := strings.Cut(numbers, "-")
			if !isRange {
				last = first
			}
			return of == protocol && number(first) <= number(port) && number(port) <= number(last)
		}) {
			names = append(names, name)
		}
	}
	return names
}

// openAll opens the blocks, each of which may be closed.
const openAll = `document.querySelectorAll(".block:not([open]) > summary").forEach(s => s.click())`

var (
	widths  = []int{390, 768, 1280}
	schemes = []string{"light", "dark"}
)

// checkLayout looks at the page in all widths and colours.
func (b *tab) checkLayout(name string) {
	for _, width := range widths {
		for _, scheme := range schemes {
			b.run(size(width, scheme), chromedp.Sleep(250*time.Millisecond))
			b.within(10*time.Second, func() string { // the plots are drawn anew with the next frame
				if faults := b.look().Faults; len(faults) > 0 {
					return fmt.Sprintf("%d px, %s: %s", width, scheme, strings.Join(faults, "\n"))
				}
				return ""
			})
			if scheme == "light" == (width != 390) {
				b.shoot(fmt.Sprintf("%s-%d-%s.png", name, width, scheme), width, 1400)
			}
		}
	}
}

// shoot writes a screenshot.
func (b *tab) shoot(name string, width, height int) {
	var png []byte
	b.run(emulation.SetDeviceMetricsOverride(int64(width), int64(height), 1, false), chromedp.Sleep(300*time.Millisecond), chromedp.CaptureScreenshot(&png))
	if err := os.WriteFile(filepath.Join(shots(b.T), name), png, 0o644); err != nil {
		b.Fatal(err)
	}
}

// load opens the page and waits until the script has drawn it.
func (b *tab) load() {
	b.Helper()
	b.run(chromedp.Navigate("http://" + b.base + "/"))
	b.within(20*time.Second, func() string {
		if l := b.look(); l.Live != "live" || l.Plots < 3 {
			return fmt.Sprintf("the page says %q and has %d plots", l.Live, l.Plots)
		}
		return ""
	})
}

// agrees waits until the page and ipvsadm say the same.
func (b *tab) agrees(g *guest, refresh func()) (l look) {
	b.Helper()
	b.within(25*time.Second, func() string {
		refresh()
		want := g.read(b.T)
		l = b.look()
		return l.differs(want)
	})
	return l
}

func TestPage(t *testing.T) {
	g := startGuest(t)
	b := newTab(t, g.page)
	for _, s := range []scenario{
		{},
		{Servers: 3, Ports: 21, Streams: 7},
		{Servers: 3, Ports: 938, VIPs: 60, Streams: 7},
		{Servers: 300, Ports: 1, Streams: 7},
	} {
		t.Run(s.String(), func(t *testing.T) {
			b := &tab{T: t, ctx: b.ctx, base: b.base}
			g.set(t, s)
			b.run(size(1280, "light"))
			began := time.Now()
			b.load()
			t.Logf("drawn after %s", time.Since(began).Round(time.Millisecond))
			open := func() { b.run(chromedp.Evaluate(openAll, nil)) }
			l := b.agrees(g, open)
			state := "Ready"
			if s.Servers == 0 {
				state = "Not ready"
			}
			nodes := l.Nodes
			if l.State != state || nodes < 2 || s.Servers > 0 && l.Links == 0 || s.Servers > 12 && l.Cells < s.Servers {
				t.Errorf("the page says %q; it draws %d boxes, %d lines and %d squares", l.State, nodes, l.Links, l.Cells)
			}
			if s.Servers > 0 && (!strings.Contains(l.Text, "pod <script>document.title='pod'</script>") || l.Title == "pod") {
				t.Errorf("a name is not shown as it is; the title is %q", l.Title)
			}
			b.checkLayout(s.String())
			b.withoutScript(g)
		})
	}
	b.clean()
	t.Run("drain", func(t *testing.T) {
		b := &tab{T: t, ctx: b.ctx, base: b.base}
		g.set(t, scenario{Servers: 3, Ports: 21, Streams: 7, Plain: true})
		b.run(size(1280, "light"))
		b.load()
		g.set(t, scenario{Servers: 2, Ports: 21, Streams: 7, Plain: true})
		b.drains(g)
	})
	t.Run("restart", func(t *testing.T) { (&tab{T: t, ctx: b.ctx, base: b.base}).restarts() })
	t.Run("filter", func(t *testing.T) { (&tab{T: t, ctx: b.ctx, base: b.base}).filter() })
	b.clean()
}

// withoutScript checks that the page has the same figures without JavaScript.
func (b *tab) withoutScript(g *guest) {
	b.run(emulation.SetScriptExecutionDisabled(true), size(1280, "light"))
	l := b.agrees(g, func() { b.run(chromedp.Navigate("http://" + b.base + "/")) })
	for _, width := range widths {
		b.run(size(width, "dark"))
		for _, fault := range b.look().Faults {
			b.Errorf("without JavaScript, %d px: %s", width, fault)
		}
	}
	if l.Nodes != 0 || !strings.Contains(l.Live, "as of ") {
		b.Errorf("a script has run: %d boxes, %q", l.Nodes, l.Live)
	}
	b.run(emulation.SetScriptExecutionDisabled(false))
}

// drains checks that a real server that leaves is shown with its time and its cause,
// on a page that is open.
func (b *tab) drains(g *guest) {
	var l look
	b.within(20*time.Second, func() string {
		l = b.look()
		drains := false
		for _, block := range l.Blocks {
			r := block.Rows["10.0.0.13"]
			drains = drains || r.State == "draining" && r.Weight == "0" && number(r.Active) > 0 && strings.Contains(r.Why, " left at most")
		}
		if !drains {
			return "10.0.0.13 does not drain:\n" + l.Text
		}
		for _, part := range []string{"10.0.0.11 node1", "pod ingress-0 ready; tcp up", "tcp 2 up, 0 down", "Drains 1", "10.0.0.13", "left at most", "real server edited", "weight 1 → 0", "no pod or static entry left"} {
			if !strings.Contains(l.Text, part) {
				return fmt.Sprintf("the page lacks %q:\n%s", part, l.Text)
			}
		}
		return ""
	})
	b.agrees(g, func() {})
	// The pictures of docs/, with some traffic in the plots.
	g.set(b.T, scenario{Servers: 2, Ports: 21, Streams: 12, Load: 5, Plain: true})
	b.run(chromedp.Sleep(14 * time.Second))
	b.shoot("wide.png", 1280, 800)
	b.run(size(390, "dark"))
	b.shoot("narrow.png", 390, 1100)
	b.run(size(1280, "light"))
}

// restarts checks that a page keeps nothing of a process that has ended, also when the
// next one has made as many changes.
func (b *tab) restarts() {
	var text string // at once: the next answer shows the truth
	b.run(chromedp.Evaluate(`state.status.since = "2020-01-01T00:00:00Z"; state.changes = [{ ...state.changes[0], what: "old change" }]; render(); document.body.innerText`, &text))
	if !strings.Contains(text, "old change") {
		b.Fatalf("the change is not shown:\n%s", text)
	}
	b.within(10*time.Second, func() string {
		if l := b.look(); strings.Contains(l.Text, "old change") || !strings.Contains(l.Text, "real server edited") {
			return "the page keeps the changes of another process:\n" + l.Text
		}
		return ""
	})
}

// slash presses a key, whose character follows unless the page prevents it.
var slash = chromedp.Tasks{input.DispatchKeyEvent(input.KeyDown).WithKey("/").WithText("/"), input.DispatchKeyEvent(input.KeyUp).WithKey("/")}

// filter types, as a person does.
func (b *tab) filter() {
	b.load()
	for _, step := range []struct {
		keys   string
		blocks int
		shows  string
	}{
		{"9010", 1, "9000-9020/tcp"},
		{"10.0.0.12", 2, "10.0.0.12"},
		{"draining", 1, "10.0.0.13"},
		{"edge 443/tcp in service", 1, "10.0.0.11"},
		{"9999", 0, "Nothing matches “9999”."},
		{"<img src=x>", 0, "Nothing matches “<img src=x>”."},
	} {
		b.run(slash, chromedp.SendKeys("#filter", step.keys))
		l := b.look()
		if len(l.Blocks) != step.blocks || !strings.Contains(l.Text, step.shows) || len(l.Faults) > 0 {
			b.Errorf("%q: %d blocks, want %d, and %q in\n%s\n%q", step.keys, len(l.Blocks), step.blocks, step.shows, l.Text, l.Faults)
		}
		if step.keys == "10.0.0.12" && len(l.Blocks) > 0 && len(l.Blocks[0].Rows) != 1 {
			b.Errorf("the filter %q leaves %d real servers", step.keys, len(l.Blocks[0].Rows))
		}
		b.run(chromedp.SendKeys("#filter", "\x1b"))
	}
	if l := b.look(); len(l.Blocks) != 2 || len(l.Blocks[0].Rows) != 3 {
		b.Errorf("after Esc: %+v", l.Blocks)
	}
}
