// What `import` makes of files, and that the result serves the same table.

package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// The files of testdata/import give the results beside them; -update writes these.
func TestImportGolden(t *testing.T) {
	for _, test := range []struct {
		golden, stderr string
		args           []string
	}{
		{"edge.toml", "testdata/import/edge.conf: taken: 13 of 19 virtual services, 26 of 67 real servers, as 7 VIPs\n" +
			"testdata/import/edge.conf: not taken: 6 virtual services, 41 real servers, 29 settings; each has a comment with the reason\n",
			[]string{"-config-id", "edge", "testdata/import/edge.conf"}},
		{"saved.toml", "testdata/import/saved.txt: taken: 8 of 14 virtual services, 11 of 19 real servers, as 4 VIPs\n" +
			"testdata/import/saved.txt: not taken: 6 virtual services, 8 real servers, 0 settings; each has a comment with the reason\n",
			[]string{"-ipvsadm", "testdata/import/saved.txt"}},
	} {
		code, text, stderr := cli(t, append([]string{"import"}, test.args...)...)
		if code != exitOK || stderr != test.stderr {
			t.Errorf("%s: exit %d, stderr\n%s", test.golden, code, stderr)
		}
		path := filepath.Join("testdata", "import", test.golden)
		if *updatePages {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), text); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.golden, diff)
		}
		if _, err := LoadConfig(path); err != nil {
			t.Errorf("%s: %v", test.golden, err)
		}
	}
}

// desiredListing is the table that the loop makes for a configuration without a cluster
// where there is none, as ipvsadm lists it.
func desiredListing(t *testing.T, text string) string {
	t.Helper()
	cfg, err := ParseConfig("config.toml", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	plans := planner{state: newState()}
	plans.own(cfg)
	p := plans.plan(planInputs{cluster: &Cluster{}, health: &Health{}, now: testTime})
	var table Table
	for o := range p.ops.all {
		switch o.Kind {
		case newService:
			s := *o.Service
			s.Servers = nil
			table = append(table, s)
		case newServer:
			at := table.index(o.Service.ServiceKey)
			if at < 0 {
				t.Fatalf("a real server of %s comes first", o.Service.ServiceKey)
			}
			table[at].Servers = append(table[at].Servers, Row{RealServer: *o.Server})
		default:
			t.Fatalf("an empty table needs %s", o)
		}
		slices.SortStableFunc(table, compareServices)
	}
	for i := range table {
		slices.SortFunc(table[i].Servers, compareRows)
	}
	return string(table.appendListing(nil))
}

// importedText is the result for a listing.
func importedText(t *testing.T, listing string) (string, importCount) {
	t.Helper()
	saved, err := readListing(strings.NewReader(listing))
	if err != nil {
		t.Fatalf("%v in\n%s", err, listing)
	}
	return importTable("saved.txt", saved.Table, saved.Lines).configuration()
}

// A thousand random configurations: the table that each asks for is imported whole, and
// `diff -table` finds no difference.
func TestImportOfAnyTable(t *testing.T) {
	skipShort(t)
	random := rand.New(rand.NewPCG(3, 9))
	saved := filepath.Join(t.TempDir(), "saved.txt")
	services, drained := 0, 0
	for range 1000 {
		written := randomStaticConfig(random)
		listing := desiredListing(t, written)
		text, count := importedText(t, listing)
		if n := strings.Count(listing, "-A "); count.taken != n || count.services != n || count.rowsTaken != strings.Count(listing, "-a ") {
			t.Fatalf("%+v of\n%s\n%s\n%s", count, written, listing, text)
		}
		services += count.taken
		if diff := cmp.Diff(listing, desiredListing(t, text)); diff != "" {
			t.Fatalf("(-want +got):\n%s\nof\n%s\nis\n%s", diff, written, text)
		}
		// On a director that runs, a real server of weight 0 drains.
		if drains := drainingServers(random, listing); drains != listing {
			listing = drains
			if text, count = importedText(t, listing); count.taken != count.services || count.rowsTaken != count.rows {
				t.Fatalf("%+v of\n%s\n%s", count, listing, text)
			}
			drained++
		}
		if err := os.WriteFile(saved, []byte(listing), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := ParseConfig("config.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		found, err := offlineChanges(t.Context(), cfg, saved)
		if err != nil || found.count() > 0 {
			t.Fatalf("%v, %d changes of\n%s\nin\n%s", err, found.count(), listing, text)
		}
	}
	if services < 5000 || drained < 200 {
		t.Errorf("only %d virtual services, %d tables with real servers that drain", services, drained)
	}
}

// drainingServers adds real servers of weight 0 to some virtual services of a listing,
// but for those where the controller removes them at once.
func drainingServers(r *rand.Rand, listing string) string {
	var b strings.Builder
	lines := strings.SplitAfter(listing, "\n")
	for i, line := range lines {
		b.WriteString(line)
		service, row, is := strings.Cut(line, " -r ")
		if !is || r.IntN(3) > 0 || i+1 < len(lines) && strings.HasPrefix(lines[i+1], "-a") || strings.HasPrefix(line, "-a -u") || strings.Contains(listing, "-s dh") {
			continue
		}
		at, settings, _ := strings.Cut(row, " ")
		end := at[strings.LastIndexByte(at, ':'):]
		other := "10.1.2.9" + end
		if at[0] == '[' {
			other = "[2001:db8:f2::9]" + end
		}
		words := strings.Fields(settings)
		words[slices.Index(words, "-w")+1] = "0"
		fmt.Fprintf(&b, "%s -r %s %s\n", service, other, strings.Join(words, " "))
	}
	return b.String()
}

// randomStaticConfig draws a configuration of static real servers with everything that a
// listing shows. Each address has a real server of its family, and no firewall marks. Some
// VIPs share an address.
func randomStaticConfig(r *rand.Rand) string {
	var b strings.Builder
	first := make(map[string]string) // by family, the first address of all
	for i := range 1 + r.IntN(3) {
		fmt.Fprintf(&b, "[[vip]]\nname = \"v%d\"\nselector = \"\"\n", i)
		families := pick(r, []string{"4"}, []string{"6"}, []string{"4", "6"})
		shares := r.IntN(2) == 0
		var addresses, servers []string
		for _, family := range families {
			for n := range 1 + r.IntN(2) {
				addresses = append(addresses, map[string]string{"4": fmt.Sprintf("10.9.%d.%d", i, n+1), "6": fmt.Sprintf("2001:db8:%d::%d", i+1, n+1)}[family])
			}
			if a := first[family]; a != "" && shares {
				addresses = append(addresses, a)
			} else if a == "" {
				first[family] = addresses[len(addresses)-1]
			}
			for n := range 1 + r.IntN(4) {
				weight := pick(r, "", ", weight = 0", ", weight = 1", ", weight = 65535")
				if n == 0 { // a virtual service has a real server
					weight = ""
				}
				servers = append(servers, fmt.Sprintf("{ address = %q%s }", map[string]string{"4": fmt.Sprintf("10.1.%d.%d", r.IntN(2), n+1), "6": fmt.Sprintf("2001:db8:f%d::%d", r.IntN(2), n+1)}[family], weight))
			}
		}
		ports := map[string]bool{pick(r, "80/tcp", "443/tcp", "53/udp", "5000/sctp"): true}
		for range r.IntN(4) {
			ports[pick(r, "80/tcp", "443/tcp", "53/udp", "53/tcp", "443/udp", "5000/sctp", "9000-9004/tcp", "9002-9005/udp")] = true
		}
		if shares { // no two have the same port
			ports = map[string]bool{pick(r, fmt.Sprintf("%d/tcp", 100+i), fmt.Sprintf("%d/sctp", 100+i), fmt.Sprintf("20%d0-20%d7/udp", i, i)): true, fmt.Sprintf("30%d/tcp", i): true}
		}
		fmt.Fprintf(&b, "addresses = [%s]\nreal_servers = [%s]\nports = [%s]\n", quotedList(addresses), strings.Join(servers, ", "), quotedList(slices.Sorted(maps.Keys(ports))))
		udp := slices.ContainsFunc(slices.Sorted(maps.Keys(ports)), func(p string) bool { return strings.HasSuffix(p, "/udp") })
		scheduler := pick(r, allSchedulers()...)
		fmt.Fprintf(&b, "scheduler = %q\nweight = %d\n", scheduler, 1+r.IntN(9))
		if r.IntN(2) == 0 {
			var flags []string
			for _, f := range serviceFlags {
				if (f.scheduler == scheduler || f.scheduler == "" && udp) && r.IntN(2) == 0 {
					flags = append(flags, f.word)
				}
			}
			fmt.Fprintf(&b, "flags = [%s]\n", quotedList(flags))
		}
		if r.IntN(3) == 0 {
			fmt.Fprintf(&b, "upper_threshold = %d\nlower_threshold = %d\n", 2+r.IntN(9), r.IntN(2))
		}
		if r.IntN(4) == 0 {
			fmt.Fprintf(&b, "sorry_server = %q\n", map[string]string{"4": "10.1.9.9", "6": "2001:db8:f9::9"}[families[0]])
		}
		if r.IntN(4) == 0 {
			b.WriteString("forward = \"tunnel\"\n[vip.tunnel]\n" + pick(r, "", "type = \"gue\"\nport = 77\nchecksum = \"remote\"\n", "type = \"gue\"\nchecksum = \"on\"\n", "type = \"gre\"\nchecksum = \"on\"\n"))
		}
		if r.IntN(3) == 0 {
			fmt.Fprintf(&b, "[vip.persistence]\ntimeout = \"%ds\"\nnetmask = %d\nprefix = %d\n", pick(r, 1, 300, 86400), 1+r.IntN(32), 1+r.IntN(128))
			if udp && r.IntN(2) == 0 {
				b.WriteString("engine = \"sip\"\n")
			}
		}
	}
	return b.String()
}

// checkResult looks for what each result has.
func checkResult(t *testing.T, text string, count importCount) {
	t.Helper()
	if len(text) > maxConfigSize || !utf8.ValidString(text) {
		t.Errorf("%d bytes, or no UTF-8", len(text))
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		t.Errorf("characters that do not print in %q", text)
	}
	cfg, err := ParseConfig("config.toml", []byte(text))
	switch {
	case count.vips == 0:
		for line := range strings.Lines(text) {
			if line != "\n" && line[0] != '#' {
				t.Errorf("%q without a VIP", line)
			}
		}
	case err != nil:
		t.Errorf("%v in\n%s", err, text)
	case len(cfg.VIPs) != count.vips:
		t.Errorf("%d VIPs, want %d", len(cfg.VIPs), count.vips)
	default:
		for i := range cfg.VIPs {
			if cfg.VIPs[i].Pods.Selector != "" || cfg.VIPs[i].Announce != AnnounceNone {
				t.Errorf("VIP %s selects pods or is announced", cfg.VIPs[i].Name)
			}
		}
	}
	if count.taken > count.services || count.rowsTaken > count.rows || (count.taken == 0) != (count.vips == 0) {
		t.Errorf("%+v", count)
	}
}

// Any table gives a result that is valid, and whose services the table has.
func TestImportOfAForeignTable(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	var table Table
	taken, left := 0, 0
	for range 1000 {
		table = randomTable(random, table)
		text, count := importTable("saved.txt", table, nil).configuration()
		checkResult(t, text, count)
		if count.vips == 0 {
			continue
		}
		listing := string(table.appendListing(nil))
		for line := range strings.Lines(desiredListing(t, text)) {
			if !strings.Contains(listing, line) {
				t.Fatalf("%s is not in\n%s\nbut in\n%s", line, listing, text)
			}
		}
		taken, left = taken+count.taken, left+count.services-count.taken
	}
	if taken < 100 || left < 100 {
		t.Errorf("%d taken, %d left", taken, left)
	}
}

// The largest tables are imported as far as a configuration can have them.
func TestImportBounds(t *testing.T) {
	skipShort(t)
	var listing strings.Builder
	for i := range 3000 {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		fmt.Fprintf(&listing, "-A -t %s:80 -s rr\n", a)
		for n := range 20 {
			fmt.Fprintf(&listing, "-a -t %s:80 -r 10.2.%d.%d:80 -g -w %d\n", a, n, i%250+1, 1+i)
		}
	}
	begun := time.Now()
	text, count := importedText(t, listing.String())
	checkResult(t, text, count)
	if count.vips < 500 || count.taken == count.services || !strings.Contains(text, "larger than the program reads") || count.hidden > 0 && !strings.Contains(text, "left out") {
		t.Errorf("%+v", count)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	// One VIP with more comments than are printed.
	conf := "virtual_server 10.0.0.1 80 {\nprotocol TCP\nlb_kind DR\nreal_server 10.0.0.2 80 {\n" + strings.Repeat("notify_up x\n", 5000) + "}\n}\n"
	text, count = importConf(t, conf)
	checkResult(t, text, count)
	if count.settings != 5000 || count.hidden != 5000-mostVIPRemarks || count.taken != 1 {
		t.Errorf("%+v", count)
	}
}

// FuzzImportListing imports what readListing accepts.
func FuzzImportListing(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		f.Add(string(randomTable(random, nil).appendListing(nil)))
	}
	saved, err := os.ReadFile("testdata/import/saved.txt")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(saved))
	f.Fuzz(func(t *testing.T, text string) {
		saved, err := readListing(strings.NewReader(text))
		if err != nil {
			return
		}
		result, count := importTable("saved\n.txt", saved.Table, saved.Lines).configuration()
		checkResult(t, result, count)
	})
}

// The command line: what is wrong ends with 2, what cannot be read with 1.
func TestImportCommandLine(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.conf")
	if err := os.WriteFile(none, []byte("global_defs {\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{nil, exitUsage, "lvs-controller import: want the FILE of a keepalived.conf, or -ipvsadm\n"},
		{[]string{"a", "b"}, exitUsage, "lvs-controller import: unexpected argument \"b\"\n"},
		{[]string{"-ipvsadm", "-config-id", "a", "b"}, exitUsage, "lvs-controller import: -config-id is for a keepalived.conf, not for -ipvsadm\n"},
		{[]string{"absent.conf"}, exitFailure, "lvs-controller import: open absent.conf: no such file or directory\n"},
		{[]string{"-ipvsadm", "absent.txt"}, exitFailure, "lvs-controller import: read the saved table: open absent.txt: no such file or directory\n"},
		{[]string{"-ipvsadm", "testdata/import/edge.conf"}, exitFailure, "lvs-controller import: testdata/import/edge.conf: line 1: it begins with \"!\", want -A or -a, as ipvsadm -Sn prints it\n"},
		{[]string{none}, exitFailure, none + ": taken: 0 of 0 virtual services, 0 of 0 real servers, as 0 VIPs\n" + none + ": not taken: nothing\n"},
	} {
		code, _, stderr := cli(t, append([]string{"import"}, test.args...)...)
		if code != test.code || stderr != test.stderr {
			t.Errorf("%q: exit %d, stderr %q", test.args, code, stderr)
		}
	}
	// A pipe without FILE, and - with the FILE of either kind.
	for _, test := range []struct {
		task importTask
		file string
	}{
		{importTask{listing: true}, "testdata/import/saved.txt"},
		{importTask{listing: true, file: "-"}, "testdata/import/saved.txt"},
		{importTask{file: "-", configID: "edge"}, "testdata/import/edge.conf"},
	} {
		text, err := os.ReadFile(test.file)
		if err != nil {
			t.Fatal(err)
		}
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = out.Write(text); out.Close() }()
		test.task.in = in
		var stdout, stderr strings.Builder
		if code := test.task.run(t.Context(), &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), "from standard input.\n") || !strings.HasPrefix(stderr.String(), "standard input: taken: ") {
			t.Errorf("%+v: exit %d, %s", test.task, code, stderr.String())
		}
		in.Close()
	}
	// A pipe that brings nothing, as that of a program which starts this one.
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out.Close()
	var stdout, stderr strings.Builder
	task := importTask{listing: true, in: in}
	if task.run(t.Context(), &stdout, &stderr); !strings.Contains(stderr.String(), "the kernel's table: ") {
		t.Errorf("an empty pipe: %s", stderr.String())
	}
}
