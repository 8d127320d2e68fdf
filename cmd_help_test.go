// What a person reads and types: the help of each command, the completion of each
// shell, and the command lines of the documentation.

package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each command explains itself in lines that fit a terminal, and in the same form.
func TestHelpOfEachCommand(t *testing.T) {
	all := commands()
	_, overview, _ := cli(t, "help")
	listed := regexp.MustCompile(`(?m)^  ([a-z]+)  `).FindAllStringSubmatch(overview, -1)
	var names []string
	for _, m := range listed {
		names = append(names, m[1])
	}
	if want := namesOf(all); !slices.Equal(names, want) {
		t.Errorf("the overview lists %q, want %q", names, want)
	}
	texts := map[string]string{"the overview": overview}
	for _, c := range all {
		code, text, stderr := cli(t, "help", c.name)
		if code != exitOK || stderr != "" {
			t.Errorf("help %s: exit %d, stderr %q", c.name, code, stderr)
		}
		if _, same, _ := cli(t, c.name, "--help"); same != text {
			t.Errorf("%s --help differs from help %s", c.name, c.name)
		}
		texts[c.name] = text
		if c.summary == "" || len(c.summary) > textWidth-14 {
			t.Errorf("%s: the summary has %d characters", c.name, len(c.summary))
		}
		for name, values := range c.values {
			if c.flagSet(c.new()).Lookup(name) == nil || len(values) == 0 {
				t.Errorf("%s: %q are the values of -%s, which it does not have", c.name, values, name)
			}
		}
	}
	for name, text := range texts {
		for _, heading := range []string{"Usage:", "Exit codes:", "Examples:"} {
			if strings.Count(text, "\n"+heading+"\n") != 1 {
				t.Errorf("%s: want one part %q:\n%s", name, heading, text)
			}
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if len([]rune(line)) > textWidth || line != strings.TrimRight(line, " ") {
				t.Errorf("%s: %q has %d columns", name, line, len([]rune(line)))
			}
		}
		_, examples, _ := strings.Cut(text, "\nExamples:\n")
		_, wrong := wrongCommandLines(examples)
		for _, w := range wrong {
			t.Errorf("help of %s: %s", name, w)
		}
	}
}

var (
	calledProgram = regexp.MustCompile("(?:^|[ `/])lvs-controller(?: +([^`#|;&>()]*))?")
	openBracket   = strings.NewReplacer("[", "", "]", "", "'", "", `"`, "")
)

// wrongCommandLines parses each `lvs-controller …` of text, a line of a shell each. It
// returns their number, and those that the program would refuse.
func wrongCommandLines(text string) (n int, wrong []string) {
	for line := range strings.Lines(text) {
		for _, m := range calledProgram.FindAllStringSubmatch(strings.TrimSpace(line), -1) {
			if err := parseCommandLine(strings.Fields(openBracket.Replace(m[1]))); err != nil {
				wrong = append(wrong, fmt.Sprintf("%q: %v", strings.TrimSpace(line), err))
			}
			n++
		}
	}
	return n, wrong
}

// parseCommandLine reads words as the program would, and runs nothing.
func parseCommandLine(words []string) error {
	all := commands()
	c := all[0]
	if len(words) > 0 && !strings.HasPrefix(words[0], "-") {
		i := slices.IndexFunc(all, func(c *command) bool { return c.name == words[0] })
		if i < 0 {
			return fmt.Errorf("no command %s", words[0])
		}
		c, words = all[i], words[1:]
	}
	fs := c.flagSet(c.new())
	if err := fs.Parse(words); err != nil && err != flag.ErrHelp {
		return err
	}
	if wrong := c.wrongWord(fs.Args()); wrong != "" {
		return fmt.Errorf("%s", wrong)
	}
	return nil
}

// Each command line of the documentation is one that the program accepts.
func TestDocumentedCommandLines(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, page := range append(pages, "README.md", "CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		found, wrong := wrongCommandLines(documentedLines(string(text)))
		for _, w := range wrong {
			t.Errorf("%s: %s", page, w)
		}
		n += found
	}
	if n < 60 {
		t.Errorf("%d command lines found, want more", n)
	}
	for _, wrong := range []string{"lvs-controller chekc", "`lvs-controller check -confg x`", "  lvs-controller drain now # go", "/usr/local/sbin/lvs-controller run -nope"} {
		if n, found := wrongCommandLines(wrong); n != 1 || len(found) != 1 {
			t.Errorf("%q is not found to be wrong", wrong)
		}
	}
}

var (
	quotedCommand = regexp.MustCompile("`(lvs-controller [^`]*)`")
	shownCommand  = regexp.MustCompile(`^(?:ssh \S+ )?(?:\./|/usr/local/sbin/)?lvs-controller(?: [a-z-].*)?$`)
)

// documentedLines are the lines of a page that show how the program is called: those of
// a block of code that begin with it, and what is between back quotes.
func documentedLines(page string) string {
	var found []string
	fenced := false
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if fenced || strings.HasPrefix(line, "    ") {
			for part := range strings.SplitSeq(strings.TrimPrefix(strings.TrimSpace(line), "$ "), " && ") {
				if shownCommand.MatchString(part) {
					found = append(found, part)
				}
			}
		}
		for _, m := range quotedCommand.FindAllStringSubmatch(line, -1) {
			found = append(found, m[1])
		}
	}
	return strings.Join(found, "\n")
}

var (
	tomlBlock = regexp.MustCompile("(?ms)^ *```toml\n(.*?)^ *```$")
	quotedKey = regexp.MustCompile("`((?:\\[[a-z]+\\] )?[a-z][a-z_0-9]* = [^`]+)`")
)

// settingsOfTheKernel are shown in the notation of sysctl.
var settingsOfTheKernel = []string{"sync_threshold = 0 0", "watermark_scale_factor = 1000"}

// acceptedSettings is the error of the parser for settings that a page shows, in the
// table where they belong and with what the page does not repeat.
func acceptedSettings(settings string) (last error) {
	const (
		vip      = "[[vip]]\nname = \"edge\"\naddresses = [\"192.0.2.1\"]\n"
		gateways = "selector = \"app=gw\"\nnamespace = \"gw\"\ngateway_class = \"envoy\"\n"
		pods     = "ports_from = \"pods\"\n"
		static   = "ports = [80]\nreal_servers = [{ address = \"192.0.2.11\" }]\n"
	)
	for _, rest := range []string{"", "ports = [80, 443]\n", "ports = [80]\nscheduler = \"mh\"\n", "ports = [80]\nscheduler = \"wlc\"\nweight = 10\n", "ports = [\"80/udp\"]\n", static, gateways, pods} {
		texts := []string{settings}
		if strings.Contains(settings, "[[vip]]\n") {
			if !regexp.MustCompile(`(?m)^name +=`).MatchString(settings) {
				texts[0] = strings.Replace(settings, "[[vip]]\n", vip+rest, 1)
			}
		} else {
			texts = nil
			for _, head := range []string{"", "[sysctl]\n", "[timeouts]\n"} {
				texts = append(texts, head+settings+"\n"+vip+rest)
			}
			for _, table := range []string{"", "[vip.drain]\n", "[vip.health]\ntcp = 80\n", "[vip.health.udp]\nport = 9\n", "sorry_server = '10.0.0.9'\n[vip.health]\ntcp = 80\nquorum = 1\n"} {
				texts = append(texts, vip+rest+table+settings)
			}
			texts = append(texts, vip+strings.Replace(static, " }", ", "+settings+" }", 1))
		}
		for _, text := range texts {
			if _, last = ParseConfig("config.toml", []byte(text)); last == nil {
				return nil
			}
		}
	}
	return last
}

// Each piece of config.toml in the documentation is one that the parser accepts.
func TestDocumentedConfig(t *testing.T) {
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks, keys := 0, 0
	for _, page := range append(pages, "README.md", "CONTRIBUTING.md") {
		text := readText(t, page)
		for _, m := range tomlBlock.FindAllStringSubmatch(text, -1) {
			blocks++
			if err := acceptedSettings(m[1]); err != nil {
				t.Errorf("%s: %v\n%s", page, err, m[1])
			}
		}
		for _, m := range quotedKey.FindAllStringSubmatch(text, -1) {
			setting := strings.Join(strings.Fields(m[1]), " ")
			if slices.Contains(settingsOfTheKernel, setting) {
				continue
			}
			keys++
			if table, rest, found := strings.Cut(setting, "] "); found && strings.HasPrefix(setting, "[") {
				setting = table + "]\n" + rest
			}
			if err := acceptedSettings(setting); err != nil {
				t.Errorf("%s: %s: %v", page, setting, err)
			}
		}
	}
	if blocks < 8 || keys < 60 {
		t.Errorf("%d blocks and %d settings found, want more", blocks, keys)
	}
	for _, wrong := range []string{"anounce = \"arp\"", "[[vip]]\nscheduler = \"xx\"\n"} {
		if acceptedSettings(wrong) == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, test := range []struct {
		words []string
		want  []string
	}{
		{[]string{"che"}, []string{"check"}},
		{[]string{"-conf"}, []string{"-config"}},
		{[]string{"--conf"}, []string{"--config"}},
		{[]string{"check", "-al"}, []string{"-all"}},
		{[]string{"check", "--al"}, []string{"--all"}},
		{[]string{"chekc", ""}, nil},
		{[]string{"status", "-o", ""}, []string{"text", "wide", "json"}},
		{[]string{"status", "-o", "j"}, []string{"json"}},
		{[]string{"status", "-o", "json", "-con"}, []string{"-config"}},
		{[]string{"status", "-o=j"}, []string{"-o=json"}},                    // zsh, fish
		{[]string{"status", "-o", "=", "j"}, []string{"json"}},               // bash
		{[]string{"status", "-o", "="}, []string{"text", "wide", "json"}},    // bash
		{[]string{"status", "-o", "=", "json", "-con"}, []string{"-config"}}, // bash
		{[]string{"status", "-ports=t"}, nil},
		{[]string{"doctor", "-role", "director,n"}, []string{"director,node"}},
		{[]string{"-schedname", "w"}, []string{"wrr", "wlc"}},
		{[]string{"check", "-config", "-a"}, nil}, // a file's name
		{[]string{"check", "--", "-a"}, nil},
		{[]string{"check", "-all", "-sched"}, []string{"-schedname"}},
		{[]string{"realserver", "-dev", "l"}, []string{"lo"}},
		{[]string{"completion", ""}, []string{"bash", "zsh", "fish"}},
		{[]string{"help", "ver"}, []string{"version"}},
	} {
		var out bytes.Buffer
		complete(&out, commands(), test.words)
		var got []string
		for line := range strings.Lines(out.String()) {
			word, _, found := strings.Cut(line, "\t")
			if !found {
				t.Errorf("%q: %q has no meaning", test.words, line)
			}
			got = append(got, word)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.words, got, test.want)
		}
	}
	var out bytes.Buffer
	if complete(&out, commands(), nil); strings.Count(out.String(), "\n") != len(commands()) {
		t.Errorf("without a word, want all commands:\n%s", &out)
	}
}

// completedWords is set where TestCompletionScripts runs itself as the program.
const completedWords = "LVS_TEST_COMPLETE"

// The scripts work in the shells that they are for. Without LVS_REQUIRE_ALL those that are
// not installed are left out.
func TestCompletionScripts(t *testing.T) {
	if words, asked := os.LookupEnv(completedWords); asked {
		run(t.Context(), strings.Split(words, "\n"), os.Stdout, io.Discard)
		os.Exit(0)
	}
	skipShort(t)
	dir := t.TempDir()
	program := filepath.Join(dir, "lvs-controller")
	script := fmt.Sprintf("#!/bin/sh\nset -f; IFS='\n'; export %s=\"$*\"\nexec %s -test.run='^TestCompletionScripts$'\n", completedWords, os.Args[0])
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for shell, ask := range map[string]string{
		"bash": `source ./script; COMP_WORDS=(lvs-controller realserver -tunnel g) COMP_CWORD=3; _lvs_controller; echo "${COMPREPLY[@]}"
			COMP_WORDS=(lvs-controller check -) COMP_CWORD=2; _lvs_controller; echo "${COMPREPLY[@]}"`,
		"zsh": `compdef() { }; _describe() { print -- ${${(P)3}%%:*} }; _files() { print files }; source ./script
			words=(lvs-controller realserver -tunnel g) CURRENT=4; _lvs_controller
			words=(lvs-controller check -) CURRENT=3; _lvs_controller`,
		"fish": `source ./script
			complete -C "lvs-controller realserver -tunnel g" | cut -f1 | string join " "
			complete -C "lvs-controller check -" | cut -f1 | string join " "`,
	} {
		path, err := exec.LookPath(shell)
		if err != nil && os.Getenv("LVS_REQUIRE_ALL") == "" {
			continue
		}
		_, text, _ := cli(t, "completion", shell)
		if err := os.WriteFile(filepath.Join(dir, "script"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, "-c", ask)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir)
		out, err := cmd.CombinedOutput()
		want := "gre gue\n-all -announce -config -explain -kubeconfig -nginxserver -schedname -timeout -vip\n"
		got := strings.Replace(string(out), "gue gre", "gre gue", 1)
		if err != nil || got != want {
			t.Errorf("%s: %v\n%s, want\n%s", shell, err, out, want)
		}
	}
}
