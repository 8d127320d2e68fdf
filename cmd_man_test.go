// The manual pages of install/man, made from the help of the commands and from
// config.toml.example: `make man` writes them, and the test fails when they are stale.

package main

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var updatePages = flag.Bool("update", false, "write the manual pages")

func TestManPages(t *testing.T) {
	example, err := os.ReadFile("config.toml.example")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"lvs-controller.8": commandPage(), "lvs-controller.toml.5": configPage(string(example))} {
		path := filepath.Join("install", "man", name)
		if *updatePages {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s is stale (%v): run `make man`", path, err)
			continue
		}
		groff, err := exec.LookPath("groff")
		if err != nil {
			continue // it is checked where there is one
		}
		// -ww: all warnings. -z: no output.
		if out, err := exec.Command(groff, "-man", "-Kutf8", "-Tutf8", "-ww", "-z", path).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
	}
}

// Each flag of each command, and each key of the example, has an entry.
func TestManPagesAreComplete(t *testing.T) {
	page := commandPage()
	for _, c := range commands() {
		_, part, found := strings.Cut(page, "\n.SS "+roff(strings.TrimPrefix(c.synopsis(), "lvs-controller "))+"\n")
		if !found {
			t.Errorf("no part for %s", c.name)
			continue
		}
		part, _, _ = strings.Cut(part, "\n.S")
		own, shared := c.flagGroups()
		for _, f := range shared {
			if !strings.Contains(page, "\n.B \\-"+roff(f.Name)) {
				t.Errorf("no entry for -%s", f.Name)
			}
		}
		for _, f := range own {
			if !strings.Contains(part, "\n.B \\-"+roff(f.Name)) {
				t.Errorf("%s: no entry for -%s", c.name, f.Name)
			}
		}
		for line := range strings.Lines(c.examples) {
			if !strings.Contains(part, roff(strings.TrimSpace(line))) {
				t.Errorf("%s: no example %q", c.name, line)
			}
		}
	}
	text, err := os.ReadFile("config.toml.example")
	if err != nil {
		t.Fatal(err)
	}
	keys := regexp.MustCompile(`(?m)^(?:# )?([a-z_0-9]+ = .*)$`).FindAllStringSubmatch(string(text), -1)
	if page = configPage(string(text)); len(keys) < 80 {
		t.Errorf("%d keys found", len(keys))
	}
	for _, m := range keys {
		if !strings.Contains(page, "\n.B "+roff(m[1])+"\n") {
			t.Errorf("no entry for %q", m[1])
		}
	}
}

var roffSpecial = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, `"`, `\(dq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)

// roff is text as groff prints it unchanged. A word that may be longer than a line can
// break at a comma.
func roff(text string) string {
	words := strings.Split(text, " ")
	for i, word := range words {
		if words[i] = roffSpecial.Replace(word); len(word) > textWidth/2 {
			words[i] = strings.ReplaceAll(words[i], ",", `,\:`)
		}
	}
	text = strings.Join(words, " ")
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text
}

// pageWriter writes a page in the macros of man(7).
type pageWriter struct{ bytes.Buffer }

func (w *pageWriter) head(title, section, name, does string) {
	fmt.Fprintf(w, ".\\\" Made by `make man`: do not edit.\n.TH %s %s \"\" lvs\\-controller\n.nh\n.ad l\n.SH NAME\n%s \\- %s\n", title, section, roff(name), roff(does))
}

// text writes a paragraph, wrapped so that the file can be compared line by line.
func (w *pageWriter) text(s string) {
	for line := range strings.Lines(wrapText(s, "", textWidth)) {
		w.WriteString(roff(strings.TrimSuffix(line, "\n")) + "\n")
	}
}

func (w *pageWriter) term(name, meaning string) {
	fmt.Fprintf(w, ".TP\n.B %s\n", roff(name))
	w.text(meaning)
}

// verbatim writes lines as they are.
func (w *pageWriter) verbatim(lines string) {
	w.WriteString(".PP\n.nf\n.RS 4\n")
	for line := range strings.Lines(lines + "\n") {
		w.WriteString(roff(strings.TrimRight(line, "\n")) + "\n")
	}
	w.WriteString(".RE\n.fi\n")
}

// commandPage is lvs-controller(8).
func commandPage() string {
	var w pageWriter
	all := commands()
	w.head("LVS\\-CONTROLLER", "8", "lvs-controller", "IPVS director in front of the ingress pods of a Kubernetes cluster")
	w.WriteString(".SH SYNOPSIS\n.B lvs\\-controller\n[flags]\n.br\n.B lvs\\-controller\nCOMMAND [flags]\n.SH DESCRIPTION\n")
	w.text(about + " The packets go through the kernel alone, also while this program does not run. Flags may have one or two dashes, and their value may follow \"=\".")
	w.WriteString(".SH COMMANDS\n")
	for _, c := range all {
		fmt.Fprintf(&w, ".SS %s\n", roff(strings.TrimPrefix(c.synopsis(), "lvs-controller ")))
		w.text(c.about)
		own, shared := c.flagGroups()
		for _, f := range own {
			w.term(flagTexts(f))
		}
		if len(shared) > 0 {
			w.WriteString(".PP\n")
			w.text("And the flags of the configuration, below.")
		}
		if c.exits != nil {
			w.WriteString(".PP\nExit codes:\n")
			codes := c.exitTexts()
			for _, code := range slices.Sorted(maps.Keys(codes)) {
				w.term(fmt.Sprint(code), codes[code])
			}
		}
		w.verbatim(c.examples)
	}
	w.WriteString(".SH FLAGS OF THE CONFIGURATION\n")
	_, shared := all[0].flagGroups()
	for _, f := range shared {
		w.term(flagTexts(f))
	}
	w.WriteString(".SH EXIT STATUS\n")
	for _, code := range slices.Sorted(maps.Keys(commonExits)) {
		w.term(fmt.Sprint(code), commonExits[code])
	}
	w.term(fmt.Sprint(exitChanges), "diff: there are changes")
	w.WriteString(".SH FILES\n")
	w.term(defaultConfigPath, "the configuration, lvs-controller.toml(5)")
	c := defaultConfig()
	w.term(c.StateDir, "state that belongs to the running kernel")
	w.term(c.CacheDir, "the last good state of the cluster, and an operator's drain")
	w.WriteString(".SH SEE ALSO\n.BR lvs\\-controller.toml (5),\n.BR ipvsadm (8),\n.BR keepalived (8)\n")
	return w.String()
}

var (
	shownKey   = regexp.MustCompile(`^(?:# )?([a-z_0-9]+ = .*)$`)
	shownTable = regexp.MustCompile(`^(?:# )?(\[\[?[a-z_.0-9]+\]\]?)$`)
)

// configPage is lvs-controller.toml(5), from the text of the example.
func configPage(example string) string {
	var w pageWriter
	w.head("LVS\\-CONTROLLER.TOML", "5", "lvs-controller.toml", "configuration of lvs-controller(8)")
	w.WriteString(".SH SYNOPSIS\n.B " + roff(defaultConfigPath) + "\n.SH DESCRIPTION\n")
	keys := false
	for block := range strings.SplitSeq(strings.ReplaceAll(example, "\n#\n", "\n\n"), "\n\n") {
		var comment []string
		var found bool
		flush := func() string { text := strings.Join(comment, " "); comment = nil; return text }
		for line := range strings.Lines(block) {
			line = strings.TrimSuffix(line, "\n")
			switch key, table := shownKey.FindStringSubmatch(line), shownTable.FindStringSubmatch(line); {
			case table != nil:
				if !keys {
					w.WriteString(".SH KEYS\n")
				}
				keys, found = true, true
				fmt.Fprintf(&w, ".SS %s\n", roff(table[1]))
				w.text(flush())
			case key != nil:
				if !keys {
					w.WriteString(".SH KEYS\n")
				}
				keys, found = true, true
				w.term(key[1], flush())
			default:
				comment = append(comment, strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "))
			}
		}
		if rest := flush(); rest != "" && !found {
			w.WriteString(".PP\n")
			w.text(rest)
		}
	}
	w.WriteString(".SH SEE ALSO\n.BR lvs\\-controller (8)\n")
	return w.String()
}
