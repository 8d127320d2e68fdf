// The commands of README.md and docs/: each is one that a test runs, or is in a short list
// with the reason why not.

package director

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lvs-controller/test/lab"
)

var (
	codeFence   = regexp.MustCompile("^ *```([a-z]*)$")
	codeInText  = regexp.MustCompile("(?s)`([^`]+)`")
	shellRemark = regexp.MustCompile(`(^|\s)#\s.*$`)
)

// blockKinds are what a block of a page can have. Only the first two have commands: in a
// console they begin with "$ ", and what they print follows.
var blockKinds = []string{"sh", "console", "ini", "toml", "yaml", "json", "sysctl", "text"}

// subcommands of lvs-controller that the text calls by themselves.
var subcommands = []string{"check", "diff", "doctor", "drain", "keepalived", "ready", "realserver", "status"}

// documentation is README.md and the pages of docs/, by their names.
func documentation(t *testing.T) map[string]string {
	t.Helper()
	pages, err := filepath.Glob(installed("../docs/*.md"))
	lab.Must(t, err)
	all := make(map[string]string)
	for _, path := range append(pages, installed("../README.md")) {
		text, err := os.ReadFile(path)
		lab.Must(t, err)
		all[filepath.Base(path)] = string(text)
	}
	if len(all) < 20 {
		t.Fatalf("%d pages of documentation, want all", len(all))
	}
	return all
}

// documentedLine is one command, and the page that has it.
type documentedLine struct{ page, text string }

// documentedLines are the commands of blocks, and the code in the text that can be a
// command: it has two words or more, and is no setting, flag, line of a log or sentence.
func documentedLines(t *testing.T, page, text string) (commands, code []documentedLine) {
	t.Helper()
	kind, fenced := "", false
	var prose strings.Builder
	add := func(line string) {
		if line = strings.TrimSpace(shellRemark.ReplaceAllString(line, "")); line != "" && line != "…" {
			commands = append(commands, documentedLine{page, line})
		}
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := codeFence.FindStringSubmatch(line); m != nil {
			if fenced = !fenced; fenced && !slices.Contains(blockKinds, m[1]) {
				t.Errorf("%s: a block begins with ```%s, want one of %q", page, m[1], blockKinds)
			}
			kind = m[1]
			continue
		}
		exec, isExec := strings.CutPrefix(line, "ExecStart=")
		typed, isTyped := strings.CutPrefix(line, "$ ")
		switch {
		case !fenced:
			prose.WriteString(line + "\n")
			if word, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(line, "    ") && isProgram(word) {
				t.Errorf("%s: %q is no block ```sh", page, line)
			}
		case kind == "sh":
			add(line)
		case kind == "console" && isTyped:
			add(typed)
		case kind == "ini" && isExec:
			add(exec)
		}
	}
	for _, m := range codeInText.FindAllStringSubmatch(prose.String(), -1) {
		line := strings.ReplaceAll(strings.Join(strings.Fields(m[1]), " "), `\|`, "|")
		word, rest, found := strings.Cut(line, " ")
		if !found || notCode.MatchString(line) || slices.Contains(phrases, line) {
			continue
		}
		if slices.Contains(subcommands, word) && strings.HasPrefix(rest, "-") {
			line = "lvs-controller " + line
		}
		code = append(code, documentedLine{page, line})
	}
	return commands, code
}

// isProgram reports whether a command can begin with word.
func isProgram(word string) bool {
	_, err := exec.LookPath(word)
	return err == nil || word == "lvs-controller" || documentedTools[word] != ""
}

// notCode is a setting, a flag, a line of a log or of status, or has a part left out.
var notCode = regexp.MustCompile(`^[-\[(0-9#]|^[A-Z]+: |^[A-Z][a-z]|^NOT |^msg=|^RUN=|^LVS_DRILL=|: |:$| = |…`)

// phrases are code in the text that is no command: words of configurations and logs.
var phrases = []string{
	"SYNs a second × 60 × 320 bytes",
	"cannot follow the cluster", "repaired, another program changed it", "the IPVS table could not be updated completely",
	"permission denied",
	"no answer to ARP", "no answer to neighbour discovery", "not drained", "on no device here",
	"configmap NAMESPACE/NAME", "pods NAMESPACE SELECTOR", "gateways NAMESPACE/NAME", "gateways SELECTOR", "gateways class=NAME", "gue port 6080 checksum", "inet lvs-controller", "inet lvs-controller-notrack",
	"connection tracking", "firewall marks", "local route", "sync daemon", // kinds of changes in the JSON of diff
	"ct count", "ct state", "ct state invalid drop", "established,related accept", // words of nft
	"icmp type destination-unreachable accept", "icmpv6 type packet-too-big accept", "ip daddr 10.135.22.77 tcp dport 443 accept",
	"merge paths on", "protocol kernel", // words of bird
	"install MODULE /bin/false", // words of modprobe.d
	// Names of programs, with the flag that is meant, which the text speaks of.
	"ip address flush", "ipvsadm -R", "keepalived --check", "kill -9", "kubectl cordon", "kubectl get -o json", "modprobe -r", "sleep 5", "sysctl -w",
	"kong quit --wait=15", "nginx -s quit",
	"endpointslices NAMESPACE kubernetes.io/service-name=NAME", "service NAMESPACE/NAME", // names of streams
	"fewer real servers in service than the quorum",
	"lvs-controller import", "lvs-controller keepalived", "lvs-controller realserver", "lvs-controller realserver -watch", "realserver -tunnel", "realserver -remove -owner",
	"go test", "go test -bench", "go vet", "go tool trace",
}

// targetLines are run by something else than the lists of this package: file has the line
// word by word, after what calls it. Of the targets of make .ci/run calls all but
// release-test, which takes six minutes.
var targetLines = []struct{ line, file, after string }{
	{"journalctl -p warning -u lvs-controller", "test/director/unit_test.go", "= `"},                     // TestKernelUnit
	{"go tool pprof lvs-controller cpu", "http_socket_test.go", `"`},                                     // TestControlSocketDebug
	{"go test -bench . -benchmem", "Makefile", "code=0; "},                                               // make unit
	{"test/vm/run -file lvs-controller -- ./lvs-controller version", "Makefile", "\t"},                   // make kernel
	{"test/kube/build kube-proxy", "Makefile", "\t"},                                                     // make bench-short
	{"go run ./test/bench -render", "Makefile", "\t$(if $(PART),,"},                                      // make bench-short
	{"git clone -q . ../again && make -C ../again release", "packaging/test", "repeat='"},                // make release-test-short
	{"cmp dist/SHA256SUMS ../again/dist/SHA256SUMS", "packaging/test", "as_documented \"$work/one\" '"},  // make release-test-short
	{"sha256sum --ignore-missing -c SHA256SUMS", "packaging/test", "as_documented \"$two\" '"},           // make release-test-short
	{"apt-get install ./lvs-controller_*_amd64.deb", "packaging/test-system", "run 0 sh -c 'cd old && "}, // make release-test
	{"apt-get purge lvs-controller", "packaging/test-system", "run 0 "},                                  // make release-test
}

// otherCommands are run by no test, and why.
var otherCommands = []struct{ line, why string }{}

// hereCommands run on this machine, from the top of the project.
var hereCommands = []struct{ line, want string }{
	{"go run ./test/scale -sizing -cost 0.6 -cores 32 -line 100 -packet 250 -lifetime 30", `directors`},
	{"test/vm/run -h", `usage: test/vm/run`},
}

// checkTargetLine looks for the line in the file that is said to run it.
func checkTargetLine(t *testing.T, line, file, after string) {
	t.Helper()
	text, err := os.ReadFile(installed("../" + file))
	lab.Must(t, err)
	if !strings.Contains(string(text), after+line) {
		t.Errorf("%s: %s does not run it after %q", line, file, after)
	}
}

// checkMake has make say what it would do for a line, and looks for the tests that RUN
// names. What the targets do is the work of make itself: they are the tests.
func checkMake(t *testing.T, line, sources string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", strings.Replace(line, "make ", "make -n ", 1))
	cmd.Dir = installed("..")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) == 0 {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	if m := regexp.MustCompile(`RUN='\^(\w+)(\$?)'`).FindStringSubmatch(line); m != nil {
		name := "func " + m[1]
		if m[2] != "" {
			name += "("
		}
		if !strings.Contains(sources, name) {
			t.Errorf("%s: there is no test %s", line, m[1])
		}
	}
}

// checkGo has go look for the packages and flags of a line.
func checkGo(t *testing.T, line string) {
	t.Helper()
	words := strings.Fields(line)
	list := []string{"list", "-test"}
	if i := slices.Index(words, "-tags"); i >= 0 {
		list = append(list, "-tags", words[i+1])
		sources, err := os.ReadFile(installed("../Makefile"))
		if lab.Must(t, err); !strings.Contains(string(sources), words[i+1]) {
			t.Errorf("%s: make knows no tag %s", line, words[i+1])
		}
	}
	cmd := exec.Command("go", append(list, words[len(words)-1])...)
	cmd.Dir = installed("..")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), ".test") {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
}

var (
	makeLine = regexp.MustCompile(`^(?:LVS_DRILL=long )?(?:RUN='[^']+' )?make [a-z]`)
	goLine   = regexp.MustCompile(`^go (?:test|vet) (?:-c )?(?:-tags \w+ )?\.`)
	madeLine = regexp.MustCompile("(?s)`((?:LVS_DRILL=long )?(?:RUN='[^`]*' )?make\\s[^`…]*)`")
)

// Each command of the documentation is in a list of what the tests run, and each entry of
// those lists is in the documentation.
func TestDocumentedCommands(t *testing.T) {
	of(t, "host")
	unused := make(map[string]bool)
	known := func(line string) { unused[line] = true }
	for _, s := range documentedSteps {
		for line := range strings.SplitSeq(s.lines, "\n") {
			known(line)
		}
	}
	for _, s := range clusterSteps {
		known(s.line)
	}
	for _, l := range targetLines {
		checkTargetLine(t, l.line, l.file, l.after)
		known(l.line)
	}
	for _, o := range otherCommands {
		known(o.line)
		if o.why == "" {
			t.Errorf("%s: no reason", o.line)
		}
	}
	for _, h := range hereCommands {
		known(h.line)
	}
	for _, p := range phrases {
		known(p)
	}
	quick := make(map[string]bool)
	admin, node, director, client := quickStart(t)
	for line := range strings.Lines(admin + node + director + client + withoutFile(t)) {
		quick[strings.TrimSpace(line)] = true
	}
	listed := make(map[string]bool)
	for line := range unused {
		listed[line] = true
	}
	makes := make(map[string]bool)
	gos := make(map[string]bool)
	for page, text := range documentation(t) {
		commands, code := documentedLines(t, page, text)
		for _, m := range madeLine.FindAllStringSubmatch(text, -1) {
			makes[strings.Join(strings.Fields(m[1]), " ")] = true
		}
		for _, line := range append(commands, code...) {
			delete(unused, line.text)
			switch {
			case listed[line.text], quick[line.text]:
			case makeLine.MatchString(line.text):
				makes[line.text] = true
			case goLine.MatchString(line.text):
				gos[line.text] = true
			default:
				t.Errorf("%s: no test runs `%s`: make it a step of documentedSteps, or say in otherCommands or phrases why not", page, line.text)
			}
		}
		for _, p := range phrases {
			if strings.Contains(strings.Join(strings.Fields(text), " "), p) {
				delete(unused, p)
			}
		}
	}
	for line := range unused {
		t.Errorf("no page has %q any more", line)
	}

	var sources strings.Builder
	for _, pattern := range []string{"../*_test.go", "../test/director/*_test.go", "../test/bench/datapath/*_test.go"} {
		files, err := filepath.Glob(installed(pattern))
		lab.Must(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			lab.Must(t, err)
			sources.Write(text)
		}
	}
	for line := range makes {
		checkMake(t, line, sources.String())
	}
	for line := range gos {
		checkGo(t, line)
	}
	for _, h := range hereCommands {
		cmd := exec.Command("sh", "-c", h.line)
		cmd.Dir = installed("..")
		if out, err := cmd.CombinedOutput(); err != nil || !regexp.MustCompile(h.want).Match(out) {
			t.Errorf("%s: %v, want %q\n%s", h.line, err, h.want, out)
		}
	}
	if len(makes) < 30 || len(gos) < 4 || len(listed) < 60 {
		t.Errorf("%d lines of make, %d of go, %d others: want more", len(makes), len(gos), len(listed))
	}
}
