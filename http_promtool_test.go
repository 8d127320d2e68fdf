// /metrics, the alerts and the dashboard, as Prometheus and Grafana read them.

package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// promtool runs Debian's promtool, which test/promtool/setup fetches.
func promtool(t *testing.T, stdin []byte, args ...string) {
	t.Helper()
	path, err := filepath.Abs(".cache/promtool/promtool")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("LVS_REQUIRE_ALL") != "" {
			t.Fatalf("promtool is missing: test/promtool/setup fetches it: %v", err)
		}
		t.Skip("promtool is missing: test/promtool/setup fetches it")
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "lvs_") && len(stdin) > 0 {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// wholePage is /metrics with a sample in each family.
func wholePage(t *testing.T) []byte {
	_, server := metricsBench(t)
	var page, kernel bytes.Buffer
	server.writeMetrics(&page)
	writeTwoServices(&kernel)
	families, err := parseExposition(kernel.String())
	if err != nil {
		t.Fatal(err)
	}
	// Of a kernel that has some, in place of those of the machine that tests.
	var whole bytes.Buffer
	head := regexp.MustCompile(`^# (?:HELP|TYPE) (\S+) `)
	skip := false
	for line := range strings.Lines(page.String()) {
		if m := head.FindStringSubmatch(line); m != nil {
			_, skip = families[m[1]]
		}
		if !skip {
			whole.WriteString(line)
		}
	}
	whole.Write(kernel.Bytes())
	return whole.Bytes()
}

func TestPromtoolMetrics(t *testing.T) { promtool(t, wholePage(t), "check", "metrics") }

func TestPromtoolAlerts(t *testing.T) {
	promtool(t, nil, "check", "rules", "install/alerts.yaml")
	promtool(t, nil, "test", "rules", "test/promtool/alerts_test.yaml")
}

// existing checks that each metric which text names is on the page, of a director or of a
// node.
func existing(t *testing.T, file, text string) {
	t.Helper()
	families, err := parseExposition(string(wholePage(t)))
	if err != nil {
		t.Fatal(err)
	}
	node, _ := scrape(t, writeNode)
	maps.Copy(families, node)
	names := regexp.MustCompile(`\b(lvs|process|go)_[a-z0-9_]+`).FindAllString(text, -1)
	if len(names) == 0 {
		t.Errorf("%s names no metric", file)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_") { // of several, written name_…
			some := func(known string) bool { return strings.HasPrefix(known, name) }
			if !slices.ContainsFunc(slices.Collect(maps.Keys(families)), some) {
				t.Errorf("%s names %s…, of which none is on /metrics", file, name)
			}
			continue
		}
		base := strings.TrimSuffix(name, "_bucket")
		if f, known := families[base]; !known || base != name && f.typ != "histogram" {
			t.Errorf("%s names %s, which is not on /metrics", file, name)
		}
	}
}

// Each alert has a row in docs/alerts.md, a case that fires and one that is silent, and
// asks for metrics that exist.
func TestAlerts(t *testing.T) {
	read := func(file string) string {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	rules, cases, page := read("install/alerts.yaml"), read("test/promtool/alerts_test.yaml"), read("docs/alerts.md")
	existing(t, "install/alerts.yaml", rules)
	existing(t, "docs/alerts.md", page)
	var alerts, documented []string
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(rules, -1) {
		alerts = append(alerts, m[1])
		for _, kind := range []string{"fires", "is silent"} {
			if !strings.Contains(cases, "  - name: "+m[1]+" "+kind+"\n") {
				t.Errorf("test/promtool/alerts_test.yaml has no case in which %s %s", m[1], kind)
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\| (\w+) \((?:warning|critical)\) \| .+ \| .+ \| .+ \|$`).FindAllStringSubmatch(page, -1) {
		documented = append(documented, m[1])
	}
	if len(alerts) == 0 || !slices.Equal(alerts, documented) {
		t.Errorf("install/alerts.yaml has the alerts\n%v\nand docs/alerts.md\n%v", alerts, documented)
	}
}

// The dashboard is what Grafana imports, and asks for metrics that exist.
func TestDashboard(t *testing.T) {
	b, err := os.ReadFile("install/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID, Title    string
		SchemaVersion int
		Panels        []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ H, W, X, Y int }
			Targets []struct{ RefID, Expr string }
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	if board.UID == "" || board.Title == "" || board.SchemaVersion < 38 { // that of Grafana 10
		t.Errorf("uid %q, title %q, schema %d", board.UID, board.Title, board.SchemaVersion)
	}
	variables := []string{"__rate_interval"}
	text := ""
	for _, v := range board.Templating.List {
		variables = append(variables, v.Name)
		text += v.Definition + "\n"
	}
	ids := make(map[int]bool)
	taken := make(map[[2]int]string)
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q: id %d twice", p.Title, p.ID)
		}
		ids[p.ID] = true
		if g := p.GridPos; g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
			t.Errorf("panel %q is outside the grid: %+v", p.Title, g)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, twice := taken[[2]int{x, y}]; twice && other != p.Title {
					t.Fatalf("panels %q and %q overlap", other, p.Title)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, q := range p.Targets {
			text += q.Expr + "\n"
		}
	}
	existing(t, "install/grafana.json", text)
	for _, m := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(variables, m[1]) {
			t.Errorf("a query uses the variable %s, which does not exist", m[1])
		}
	}
	// Grafana's variables are no PromQL; with values in their places, each query is.
	var rules strings.Builder
	rules.WriteString("groups: [{name: dashboard, rules: [")
	filled := strings.NewReplacer("$__rate_interval", "5m", "$job", "j", "$instance", ".*", "$vip", ".*")
	for _, p := range board.Panels {
		for i, q := range p.Targets {
			expr, err := json.Marshal(filled.Replace(q.Expr))
			if err != nil {
				t.Fatal(err)
			}
			rules.WriteString("{record: panel:" + strings.Repeat("x", i+1) + ", labels: {panel: " + string(mustJSON(t, p.Title)) + "}, expr: " + string(expr) + "},\n")
		}
	}
	rules.WriteString("]}]\n")
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, nil, "check", "rules", file)
}

func mustJSON(t *testing.T, text string) []byte {
	t.Helper()
	b, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
