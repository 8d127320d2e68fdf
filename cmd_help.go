// The sub-command help, and what -h prints: texts of at most 80 columns.
//
// Used by cmd.go, cmd_completion.go and main.go. The texts themselves are in the file of
// each command. Pure but
// for the output.

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// textWidth is the most columns of a line of help.
const textWidth = 80

// about is what the whole program is for.
const about = `lvs-controller makes this host an IPVS director: it brings outside
traffic to the ready hostNetwork ingress pods of a Kubernetes cluster, in direct
routing. Without a command it runs the director.`

// overviewExamples follow the list of all commands.
const overviewExamples = `lvs-controller init -vip 10.135.22.77 -announce arp
lvs-controller check
lvs-controller
lvs-controller status`

// commonExits are the meanings of the exit codes, unless a command names its own.
var commonExits = map[int]string{
	exitOK:      "success",
	exitFailure: "failure; stderr has the reason",
	exitUsage:   "the command line is wrong",
}

// helpTask is one call of `lvs-controller help`.
type helpTask struct {
	all  []*command
	word string // the command to explain, "" for an overview
}

// newHelp is the sub-command help, which explains all and itself.
func newHelp(all []*command) *command {
	c := &command{
		name:    "help",
		summary: "explain a command",
		about: `Explains a command: what it does, its flags and its exit codes, with
examples. Without a command it lists all of them.`,
		examples: `lvs-controller help
lvs-controller help check`,
	}
	all = append(all, c)
	c.words = namesOf(all)
	c.new = func() task { return &helpTask{all: all} }
	return c
}

func (h *helpTask) flags(*flag.FlagSet) {}

func (h *helpTask) parsed(fs *flag.FlagSet) { h.word = fs.Arg(0) }

func (h *helpTask) run(_ context.Context, stdout, stderr io.Writer) int {
	write := func(w io.Writer) error { return writeOverview(w, h.all) }
	if i := slices.IndexFunc(h.all, func(c *command) bool { return c.name == h.word }); i >= 0 {
		write = h.all[i].writeHelp
	}
	if err := write(stdout); err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

func namesOf(all []*command) (names []string) {
	for _, c := range all {
		names = append(names, c.name)
	}
	return names
}

// writeOverview lists all commands.
func writeOverview(w io.Writer, all []*command) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n  lvs-controller [flags]\n  lvs-controller COMMAND [flags]\n\nCommands:\n", wrapText(about, "", textWidth))
	for _, c := range all {
		writeTerm(&b, c.name, c.summary, 12)
	}
	fmt.Fprintf(&b, "\n%s\n\nExit codes:\n", wrapText("Flags may have one or two dashes, and their value may follow \"=\". `lvs-controller help COMMAND` explains a command, `lvs-controller help run` the flags without one.", "", textWidth))
	codes := maps.Clone(commonExits)
	codes[exitChanges] = "diff: there are changes"
	writeExits(&b, codes)
	writeExamples(&b, overviewExamples)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeHelp explains c.
func (c *command) writeHelp(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n  %s\n", wrapText(c.about, "", textWidth), c.synopsis())
	own, shared := c.flagGroups()
	for _, group := range []struct {
		heading string
		flags   []*flag.Flag
	}{{"Flags", own}, {sharedHeading, shared}} {
		if len(group.flags) > 0 {
			fmt.Fprintf(&b, "\n%s:\n", group.heading)
		}
		for _, f := range group.flags {
			term, text := flagTexts(f)
			writeTerm(&b, term, text, 22)
		}
	}
	b.WriteString("\nExit codes:\n")
	writeExits(&b, c.exitTexts())
	writeExamples(&b, c.examples)
	_, err := io.WriteString(w, b.String())
	return err
}

// synopsis is how c is typed.
func (c *command) synopsis() string {
	text := c.title()
	if len(flagNames(c.flagSet(c.new()))) > 0 {
		text += " [flags]"
	}
	if c.operand != "" {
		return text + " " + c.operand
	}
	switch len(c.words) {
	case 0:
		return text
	case 1, 2, 3, 4:
		return text + " " + strings.Join(c.words, "|")
	}
	return text + " [COMMAND]"
}

// exitTexts is the meaning of each exit code of c.
func (c *command) exitTexts() map[int]string {
	codes := maps.Clone(commonExits)
	maps.Copy(codes, c.exits)
	return codes
}

// sharedHeading is above the flags that all commands with a configuration have.
const sharedHeading = "Flags of the configuration"

// flagGroups are the flags of c, those of the configuration apart from the others.
func (c *command) flagGroups() (own, shared []*flag.Flag) {
	configuration := flag.NewFlagSet("", flag.ContinueOnError)
	new(source).flags(configuration)
	c.flagSet(c.new()).VisitAll(func(f *flag.Flag) {
		if other := configuration.Lookup(f.Name); other != nil && other.Usage == f.Usage {
			shared = append(shared, f)
		} else {
			own = append(own, f)
		}
	})
	return own, shared
}

// flagTexts are how a flag is typed and what it does.
func flagTexts(f *flag.Flag) (term, text string) {
	value, text := flag.UnquoteUsage(f)
	if term = "-" + f.Name; value != "" {
		term += " " + strings.ToUpper(value)
	}
	switch f.DefValue {
	case "", "false", "0", "0s":
		return term, text
	}
	if strings.Contains(text, "(default ") {
		return term, text
	}
	return term, fmt.Sprintf("%s (default %s)", text, f.DefValue)
}

// writeTerm writes what a term means, in a separate column behind terms of less than
// width columns and below longer ones.
func writeTerm(b *strings.Builder, term, meaning string, width int) {
	text := wrapText(meaning, strings.Repeat(" ", width+2), textWidth)
	if len(term) < width {
		fmt.Fprintf(b, "  %-*s%s\n", width, term, strings.TrimLeft(text, " "))
		return
	}
	fmt.Fprintf(b, "  %s\n%s\n", term, text)
}

func writeExits(b *strings.Builder, codes map[int]string) {
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		writeTerm(b, fmt.Sprint(code), codes[code], 3)
	}
}

func writeExamples(b *strings.Builder, lines string) {
	if lines != "" {
		fmt.Fprintf(b, "\nExamples:\n  %s\n", strings.ReplaceAll(lines, "\n", "\n  "))
	}
}

// wrapText breaks text into lines of at most width columns, each of which begins with
// indent. A longer word has a line for itself.
func wrapText(text, indent string, width int) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		n := len([]rune(word))
		switch {
		case column == 0:
			b.WriteString(indent)
			column = len(indent)
		case column+1+n > width:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}
