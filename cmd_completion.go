// The sub-command completion: prints what a shell needs to complete command lines.
//
// Used by main.go. The script of a shell asks the program itself for the words that may
// come next (completeName), so that it never has other commands and flags than the
// program. Both read the commands, and change nothing.

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// completeName is the first argument of a shell that asks for the next word. The
// arguments after it are the words of the command line after the program's name, up to
// and with the one that is not complete yet.
const completeName = "__complete"

// completionScripts are the scripts, by shell. A line of an answer is a word and, after
// a tab, what it means. Without an answer the shell completes file names.
var completionScripts = map[string]string{
	"bash": `# bash completion of lvs-controller
_lvs_controller() {
	local words=("${COMP_WORDS[@]:1:COMP_CWORD}") word meaning
	COMPREPLY=()
	while IFS=$'\t' read -r word meaning; do
		COMPREPLY+=("$word")
	done < <("${COMP_WORDS[0]}" ` + completeName + ` "${words[@]}" 2>/dev/null)
}
complete -o default -F _lvs_controller lvs-controller
`,
	"zsh": `#compdef lvs-controller
_lvs_controller() {
	local -a answer described
	local line
	answer=("${(@f)$("${words[1]}" ` + completeName + ` "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	for line in $answer; do
		[[ -n $line ]] && described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
	done
	if (( $#described )); then
		_describe -o lvs-controller described
	else
		_files
	fi
}
if [[ ${funcstack[1]} == _lvs_controller ]]; then
	_lvs_controller "$@"
else
	compdef _lvs_controller lvs-controller
fi
`,
	"fish": `# fish completion of lvs-controller
function __lvs_controller_words
	set -l typed (commandline -opc)
	set -l answer ($typed[1] ` + completeName + ` $typed[2..-1] (commandline -ct) 2>/dev/null)
	if test (count $answer) -gt 0
		printf '%s\n' $answer
	else
		__fish_complete_path (commandline -ct)
	end
end
complete -c lvs-controller -f -a '(__lvs_controller_words)'
`,
}

// completionTask is one call of `lvs-controller completion`.
type completionTask struct {
	shell string
}

var completionCommand = command{
	name:    "completion",
	summary: "print the completion script of a shell",
	about: `Prints a script that makes a shell complete commands, flags and their values.
The shell asks the program for them, so the script is the same for all versions.`,
	words: []string{"bash", "zsh", "fish"},
	examples: `lvs-controller completion bash > /etc/bash_completion.d/lvs-controller
lvs-controller completion zsh > ~/.zfunc/_lvs-controller
lvs-controller completion fish > /etc/fish/completions/lvs-controller.fish`,
	new: func() task { return new(completionTask) },
}

func (c *completionTask) flags(*flag.FlagSet) {}

func (c *completionTask) parsed(fs *flag.FlagSet) { c.shell = fs.Arg(0) }

func (c *completionTask) run(_ context.Context, stdout, stderr io.Writer) int {
	script, ok := completionScripts[c.shell]
	if !ok {
		fmt.Fprintln(stderr, "lvs-controller completion: want bash, zsh or fish")
		return exitUsage
	}
	if _, err := io.WriteString(stdout, script); err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

// A candidate is a word that may come next, and what it means.
type candidate struct {
	word, meaning string
}

// complete writes the candidates for the last of words.
func complete(w io.Writer, all []*command, words []string) int {
	if words = joined(words); len(words) == 0 {
		words = []string{""}
	}
	for _, c := range candidates(all, words[:len(words)-1], words[len(words)-1]) {
		fmt.Fprintf(w, "%s\t%s\n", c.word, c.meaning)
	}
	return exitOK
}

// joined are words as they were typed: bash makes three of -flag=value. The value that is
// not complete yet stays a word, because bash completes that alone.
func joined(words []string) (all []string) {
	for i := 0; i < len(words); i++ {
		last := len(all) - 1
		switch value := i + 1; {
		case words[i] != "=" || last < 0 || !strings.HasPrefix(all[last], "-"):
			all = append(all, words[i])
		case value < len(words)-1:
			all[last] += "=" + words[value]
			i++
		case value == len(words):
			all = append(all, "")
		}
	}
	return all
}

// candidates are the words after before that begin with begun.
func candidates(all []*command, before []string, begun string) (found []candidate) {
	add := func(word, meaning string) {
		if strings.HasPrefix(word, begun) {
			found = append(found, candidate{word, meaning})
		}
	}
	if len(before) == 0 && !strings.HasPrefix(begun, "-") {
		for _, c := range all {
			add(c.name, c.summary)
		}
		return found
	}
	chosen := all[0] // what runs without a command
	if len(before) > 0 && !strings.HasPrefix(before[0], "-") {
		i := slices.IndexFunc(all, func(c *command) bool { return c.name == before[0] })
		if i < 0 {
			return nil
		}
		chosen, before = all[i], before[1:]
	}
	fs := chosen.flagSet(chosen.new())
	open, ended := openFlag(fs, before)
	head := "" // of begun, before the value
	if name, _, has := strings.Cut(begun, "="); has && open == nil && !ended {
		if open, _ = openFlag(fs, []string{name}); open != nil {
			head = name + "="
		}
	}
	switch {
	case open != nil:
		if comma := strings.LastIndex(begun, ","); comma >= 0 { // of a list, as for -role
			head = begun[:comma+1]
		}
		for _, v := range chosen.valuesOf(open) {
			add(head+v, "")
		}
	case ended:
	case strings.HasPrefix(begun, "-"):
		dashes := begun[:len(begun)-len(strings.TrimLeft(begun, "-"))]
		fs.VisitAll(func(f *flag.Flag) {
			_, text := flagTexts(f)
			add(dashes+f.Name, text)
		})
	default:
		for _, w := range chosen.words {
			add(w, "")
		}
	}
	return found
}

// openFlag is the flag whose value comes after words, nil for none. ended means that no
// flag can come any more.
func openFlag(fs *flag.FlagSet, words []string) (open *flag.Flag, ended bool) {
	for _, word := range words {
		switch {
		case open != nil:
			open = nil
			continue
		case word == "--" || !strings.HasPrefix(word, "-") || word == "-":
			return nil, true
		}
		name := strings.TrimPrefix(strings.TrimPrefix(word, "-"), "-")
		if f := fs.Lookup(name); f != nil && !isBoolFlag(f) {
			open = f
		}
	}
	return open, false
}

func isBoolFlag(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// valuesOf are the values that f accepts, as far as a list can say it.
func (c *command) valuesOf(f *flag.Flag) []string {
	if values := c.values[f.Name]; values != nil {
		return values
	}
	switch what, _ := flag.UnquoteUsage(f); {
	case f.Name == "announce":
		return announceNames()
	case f.Name == "schedname":
		return allSchedulers()
	case what == "device":
		return deviceNames()
	}
	return nil
}

// deviceNames are the network devices of this host.
func deviceNames() (names []string) {
	entries, _ := os.ReadDir("/sys/class/net") // without it there is nothing to complete
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
