// A soak: inputs that change without end, and what the process has grown to meanwhile.

package director

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lvs-controller/test/args"
	"lvs-controller/test/lab"
	"lvs-controller/test/markdown"
	"lvs-controller/test/plot"
)

const (
	soakPace  = 350 * time.Millisecond // between two rounds: a cluster file is read when it has been the same for 200ms
	soakKills = 0.4                    // part of the operations in which the process is killed: after that it lives on
	soakWarm  = 0.1                    // part of that last life which no slope counts
)

// soakMeasures are what is sampled, in the order of the drawing.
var soakMeasures = [...]string{
	"resident memory, KiB", "of it anonymous, KiB", "of it from files, KiB", "heap and stacks in use, KiB",
	"goroutines", "file descriptors", "rows of the kernel's table", "files in state_dir and cache_dir",
}

// soakSample is what there was after so many operations.
type soakSample struct {
	operations int
	values     [len(soakMeasures)]float64 // of soakMeasures
	life       int                        // of the process
}

// TestSoak changes the inputs so many times. Now and then it stops, waits until the
// kernel's table is exactly what the inputs ask for, and takes a sample.
func TestSoak(t *testing.T) {
	of(t, "soak")
	l := lab.New(t.Fatalf)
	dir := t.TempDir()
	t.Cleanup(l.Close)
	s := newSoak(&rig{T: t, lab: l, director: l.Host("director", 2), dir: dir}, *args.Seed)
	t.Setenv("LOG", s.log)
	s.movePorts(0.5)
	s.putInputs()
	s.run()
	s.settles()
	client := l.Host("client", 3)
	load := client.StartLoad(netip.MustParseAddrPort("10.0.0.100:80"), 2, 50*time.Millisecond)

	began := time.Now()
	every := min(20*time.Second, max(4*time.Second, *args.Duration/40))
	var (
		samples []soakSample
		total   int
		sampled = time.Now()
		kills   = 1
	)
	part := func() float64 {
		p := float64(total) / float64(*args.Operations)
		if *args.Duration > 0 {
			p = max(p, float64(time.Since(began))/float64(*args.Duration))
		}
		return p
	}
	samples = append(samples, s.sample(0))
	for round := 1; part() < 1; round++ {
		total += s.round(round)
		if float64(kills)*soakKills/10 <= min(part(), soakKills) {
			kills++
			total += s.count("kill -9", 1)
			s.process.Kill()
			s.run()
		}
		if time.Since(sampled) >= every {
			s.settles()
			samples = append(samples, s.sample(total))
			s.Logf("%d operations: %.0f", total, samples[len(samples)-1].values)
			sampled = time.Now()
		}
	}
	s.settles()
	samples = append(samples, s.sample(total))
	report := load.Stop()
	s.report(samples, total, time.Since(began), report)
}

// count adds n operations of that kind, and returns n.
func (s *soak) count(kind string, n int) int {
	s.done[kind] += n
	return n
}

// round makes some changes of each kind, and returns how many.
func (s *soak) round(n int) (operations int) {
	began := time.Now()
	operations += s.count("pods", s.movePods(0.2))
	operations += s.count("ports of the ConfigMap", s.movePorts(0.4))
	operations += s.count("answers to probes", s.failProbes(0.1))
	s.putCluster()
	if n%4 == 0 {
		operations += s.count("keys of config.toml", s.editConfig())
		s.putConfig()
	}
	if n%5 == 0 {
		operations += s.count("services of other programs", s.otherPrograms())
	}
	if n%15 == 0 {
		operations += s.count("our rows changed with ipvsadm", s.meddle())
	}
	if n%25 == 0 {
		s.director.Run("nft", "flush", "table", "inet", "lvs-controller")
		operations += s.count("our nftables table flushed", 1)
	}
	time.Sleep(time.Until(began.Add(soakPace)))
	return operations
}

// settles has all probes pass, and waits until the kernel's table is what the inputs ask
// for, and so are the marks.
func (s *soak) settles() {
	s.Helper()
	for n := range s.healthy {
		s.healthy[n].Store(true)
	}
	want := lab.SortTable(s.wanted())
	lab.Within(s.T, time.Minute, func() string {
		if s.process.Ended() {
			s.Fatalf("the controller has ended:\n%s", s.tail())
		}
		if got := markNumber.ReplaceAllLiteralString(s.director.Table(), "-f MARK "); lab.SortTable(got) != want {
			return fmt.Sprintf("ipvsadm -Sn (-want +got):\n%.4000s\nlog:\n%s", cmp.Diff(want, lab.SortTable(got)), s.tail())
		}
		out, err := s.director.Try("nft", "list", "table", "inet", "lvs-controller")
		if got := strings.Count(out, "10.0.0.101 . "); got != len(s.marked) {
			return fmt.Sprintf("%d ports are marked, want %d (%v)\n%.2000s", got, len(s.marked), err, out)
		}
		return ""
	})
}

var markNumber = regexp.MustCompile(`-f \d+ `)

// wanted is the kernel's table as `ipvsadm -Sn` shows it.
func (s *soak) wanted() string {
	var b strings.Builder
	service := func(name, rest string, port, weight int) {
		fmt.Fprintf(&b, "-A %s -s %s\n", name, rest)
		for n, state := range s.state {
			if state == podReady {
				fmt.Fprintf(&b, "-a %s -r %s:%d -g -w %d\n", name, s.address(n), port, weight)
			}
		}
	}
	service("-t 10.0.0.100:80", "wrr", 80, 1)
	for p := range s.ports {
		service(fmt.Sprintf("-t 10.0.0.100:%d", p), "wrr", p, 1)
	}
	scheduler := s.mail.scheduler
	if s.mail.persists {
		scheduler += " -p 300"
	}
	service("-f MARK", scheduler, 0, s.mail.weight)
	for p := range s.foreign {
		fmt.Fprintf(&b, "-A -t %s:%d -s rr\n", soakForeign, p)
	}
	return b.String()
}

// sample measures the process, and empties its log.
func (s *soak) sample(operations int) soakSample {
	s.Helper()
	memory := processStatus(s.T, s.process.PID())
	descriptors, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.process.PID()))
	lab.Must(s.T, err)
	shown := make(map[string]float64)
	for line := range strings.Lines(s.director.Run("curl", "-s", "http://127.0.0.1:9652/metrics")) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), " "); found && strings.HasPrefix(name, "go_") {
			shown[name], err = strconv.ParseFloat(value, 64)
			lab.Must(s.T, err)
		}
	}
	files := 0
	for _, dir := range []string{"state", "cache"} {
		lab.Must(s.T, filepath.WalkDir(filepath.Join(s.dir, dir), func(_ string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				files++
			}
			return nil
		}))
	}
	s.readLog()
	return soakSample{operations, [len(soakMeasures)]float64{
		float64(memory["VmRSS"]), float64(memory["RssAnon"]), float64(memory["RssFile"] + memory["RssShmem"]), (shown["go_memstats_alloc_bytes"] + shown["go_memstats_stack_inuse_bytes"]) / 1024, // a tmpfs counts as shared
		shown["go_goroutines"], float64(len(descriptors)), float64(strings.Count(s.director.Table(), "\n")), float64(files),
	}, s.lives}
}

var logMessage = regexp.MustCompile(`level=(?:WARN|ERROR) msg=(?:"((?:[^"\\]|\\.)*)"|(\S+))`)

// readLog counts the complaints of the log, and empties it.
func (s *soak) readLog() {
	text, err := os.ReadFile(s.log)
	lab.Must(s.T, err)
	lab.Must(s.T, os.Truncate(s.log, 0))
	for _, m := range logMessage.FindAllSubmatch(text, -1) {
		s.said[string(m[1])+string(m[2])]++
	}
	if strings.Contains(string(text), "panic:") || strings.Contains(string(text), "goroutine ") {
		s.Fatalf("the controller has failed:\n%.8000s", text)
	}
}

// tail is the end of the log.
func (s *soak) tail() string {
	text, _ := os.ReadFile(s.log)
	return string(text[max(0, len(text)-3000):])
}

// report logs what was measured, writes it where -out says, and fails when something grows.
func (s *soak) report(samples []soakSample, total int, took time.Duration, load lab.Report) {
	s.Helper()
	var last []soakSample // the life without a kill, but for its beginning
	for _, sample := range samples {
		if sample.life == s.lives {
			last = append(last, sample)
		}
	}
	from := last[0].operations
	begin := from + int(soakWarm*float64(total-from))
	last = slices.DeleteFunc(last, func(sample soakSample) bool { return sample.operations < begin })
	curves := make([]plot.Curve, len(soakMeasures))
	slopes := markdown.Table{Head: []string{"Measured", "at the end", "mean", "slope per 100,000 operations", "noise (standard error)"}}
	for i, name := range soakMeasures {
		curves[i].Name = name
		for _, sample := range samples {
			curves[i].Points = append(curves[i].Points, plot.Point{X: float64(sample.operations), Y: sample.values[i]})
		}
		fit := plot.Fit(curves[i].Points[len(samples)-len(last):])
		end := samples[len(samples)-1].values[i]
		slopes.Add(name, fmt.Sprintf("%.0f", end), fmt.Sprintf("%.1f", fit.Mean), fmt.Sprintf("%+.2f", 1e5*fit.Slope), fmt.Sprintf("±%.2f", 1e5*fit.Error))
		// Over a whole run, and beyond all doubt: a leak that matters.
		if growth := (fit.Slope - 4*fit.Error) * float64(total-begin); len(last) >= 10 && growth > max(0.25*fit.Mean, 8) {
			s.Errorf("%s grows by %.0f (mean %.0f)", name, growth, fit.Mean)
		}
	}
	const files = len(soakMeasures) - 1
	if first, end := samples[0].values[files], samples[len(samples)-1].values[files]; end > first+8 {
		s.Errorf("files in state_dir and cache_dir: %.0f at first, %.0f at the end", first, end)
	}
	kinds := markdown.Table{Head: []string{"Operations", "number"}}
	for _, kind := range slices.Sorted(maps.Keys(s.done)) {
		kinds.Add(kind, markdown.Grouped(strconv.Itoa(s.done[kind])))
	}
	complaints := markdown.Table{Head: []string{"Warnings and errors in the log", "lines"}}
	for _, message := range slices.Sorted(maps.Keys(s.said)) {
		complaints.Add(message, markdown.Grouped(strconv.Itoa(s.said[message])))
	}
	text := fmt.Sprintf("%s operations in %s, seed %d, %d samples; at each sample the kernel's table was exactly the wanted one. The process was killed %d times in the first %s operations. The slopes are those of the %s after operation %s.\n\n%s\n%s\n%s",
		markdown.Grouped(strconv.Itoa(total)), took.Round(time.Second), *args.Seed, len(samples), s.lives-1, markdown.Grouped(strconv.Itoa(from)),
		fmt.Sprintf("%d samples", len(last)), markdown.Grouped(strconv.Itoa(begin)), &slopes, &kinds, &complaints)
	s.Logf("%s\nclients: %s", text, load)
	if *args.Out != "" {
		lab.Must(s.T, os.WriteFile(*args.Out+".txt", []byte(text), 0o644))
		lab.Must(s.T, os.WriteFile(*args.Out+".svg", []byte(plot.SVG("lvs-controller while its inputs change", "operations", curves, []float64{float64(from)})), 0o644))
	}
}
