// What all sub-commands share: exit codes, how a command line is read, and a
// configuration from a file, from flags or from both.
//
// Used by main.go. It reads the configuration file and nothing else, and changes
// nothing.

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Exit codes, the same for all sub-commands.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2 // the command line is wrong
	exitChanges = 3 // `diff`: there are changes
)

const defaultConfigPath = "/etc/lvs-controller/config.toml"

// A command is what the first word of the command line selects. Each has a file with
// its texts, its flags and what it does, and a line in the table of main.go.
type command struct {
	name     string
	summary  string              // what it does, for the list of all commands
	about    string              // a paragraph for its own help; line ends are white space
	words    []string            // one of them may follow the flags; none is allowed otherwise
	operand  string              // what may follow the flags and is no word of a list, as "FILE"
	exits    map[int]string      // what an exit code means, where commonExits does not say it
	examples string              // lines, shown as they are
	values   map[string][]string // what the flags accept that accept only some words
	new      func() task
}

// A task is one call of a command.
type task interface {
	// flags declares the flags, and does nothing else: help and completion call it too.
	flags(fs *flag.FlagSet)
	// run does the work, and returns the exit code.
	run(ctx context.Context, stdout, stderr io.Writer) int
}

// A parsedTask wants to see the command line after it was read without a mistake.
type parsedTask interface {
	parsed(fs *flag.FlagSet)
}

// title is the command as it is typed.
func (c *command) title() string { return "lvs-controller " + c.name }

// flagSet is the flags of t, a task of c.
func (c *command) flagSet(t task) *flag.FlagSet {
	fs := flag.NewFlagSet(c.title(), flag.ContinueOnError)
	fs.SetOutput(io.Discard) // a mistake is one line, which call prints
	fs.Usage = func() {}
	t.flags(fs)
	return fs
}

// call reads args and runs t, a task of c. It returns the exit code.
func (c *command) call(ctx context.Context, t task, args []string, stdout, stderr io.Writer) int {
	fs := c.flagSet(t)
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		if err := c.writeHelp(stdout); err != nil {
			return fail(stderr, err)
		}
		return exitOK
	case err != nil:
		return c.misused(stderr, c.mistake(fs, err))
	}
	if text := c.wrongWord(fs.Args()); text != "" {
		return c.misused(stderr, text)
	}
	if t, ok := t.(parsedTask); ok {
		t.parsed(fs)
	}
	return t.run(ctx, stdout, stderr)
}

// misused prints why the command line of c cannot be followed.
func (c *command) misused(stderr io.Writer, why any) int { return misused(stderr, c.title(), why) }

// misused prints why the command line of title cannot be followed, in one line.
func misused(stderr io.Writer, title string, why any) int {
	fmt.Fprintf(stderr, "%s: %s\n", title, printable(shorten(fmt.Sprint(why), reportedText)))
	return exitUsage
}

// mistake is what a person can do about err, which fs has found in the flags.
func (c *command) mistake(fs *flag.FlagSet, err error) string {
	text := err.Error()
	if name, unknown := strings.CutPrefix(text, "flag provided but not defined: -"); unknown {
		if near := nearest(name, flagNames(fs)); near != "" {
			return fmt.Sprintf("unknown flag -%s, did you mean -%s?", name, near)
		}
		return fmt.Sprintf("unknown flag -%s; `%s -h` lists the flags", name, c.title())
	}
	if name, found := strings.CutPrefix(text, "flag needs an argument: -"); found {
		return fmt.Sprintf("flag -%s needs a value", name)
	}
	const unread = ": parse error"
	fs.VisitAll(func(f *flag.Flag) {
		value, ok := f.Value.(flag.Getter)
		if !ok || !strings.HasSuffix(text, " -"+f.Name+unread) {
			return
		}
		want := "a number"
		switch value.Get().(type) {
		case time.Duration:
			want = "a duration such as 500ms, 10s or 5m"
		case bool:
			want = "true or false"
		}
		text = strings.TrimSuffix(text, unread) + ": want " + want
	})
	return text
}

// wrongWord is what is wrong with the words after the flags, or "".
func (c *command) wrongWord(words []string) string {
	switch {
	case len(words) == 0:
		return ""
	case len(words) > 1 && (len(c.words) > 0 || c.operand != ""):
		return fmt.Sprintf("unexpected argument %q", words[1])
	case c.operand != "":
		return ""
	case len(c.words) == 0:
		return fmt.Sprintf("unexpected argument %q", words[0])
	case slices.Contains(c.words, words[0]):
		return ""
	}
	return unknownWord("argument", words[0], c.words)
}

// unknownWord names the one of allowed that was probably meant, or all of them.
func unknownWord(what, word string, allowed []string) string {
	if near := nearest(word, allowed); near != "" {
		return fmt.Sprintf("unknown %s %q, did you mean %q?", what, word, near)
	}
	return fmt.Sprintf("unknown %s %q, want one of %s", what, word, strings.Join(allowed, ", "))
}

func flagNames(fs *flag.FlagSet) (names []string) {
	fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return names
}

// usageError is a mistake in the value of a flag that is found after the flags were read.
type usageError struct{ error }

func misusedf(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// fail prints why the program ends, and returns its exit code.
func fail(stderr io.Writer, why ...any) int {
	fmt.Fprintln(stderr, why...)
	for _, w := range why {
		if err, ok := w.(error); ok {
			if _, usage := errors.AsType[usageError](err); usage {
				return exitUsage
			}
		}
	}
	return exitFailure
}

// source is where the configuration comes from: a file, flags alone (the command line
// of the prototype), or a file some of whose values flags replace.
type source struct {
	path       string
	kubeconfig string
	vip        string
	scheduler  string
	namespace  string
	timeout    string
	announce   string
	set        map[string]bool // flags that were given
	refused    *reading        // of the file by load, if it cannot be used
}

// flags adds the flags of a configuration to those of a sub-command.
func (s *source) flags(fs *flag.FlagSet) {
	fs.StringVar(&s.path, "config", "", "configuration `file` (default "+defaultConfigPath+" unless -vip is given)")
	fs.StringVar(&s.kubeconfig, "kubeconfig", "", "kubeconfig `file`; replaces the configuration's")
	fs.StringVar(&s.vip, "vip", "", "VIP `address`, or several with commas; without -config it makes a VIP with ports 80 and 443")
	fs.StringVar(&s.scheduler, "schedname", "", "IPVS scheduler `name` of every VIP")
	fs.StringVar(&s.namespace, "nginxserver", "", "`namespace` of the ingress controller")
	fs.StringVar(&s.announce, "announce", "", "`method` that brings each VIP to this host: arp (the controller adds it to the device), dummy or none; replaces the configuration's")
	fs.StringVar(&s.timeout, "timeout", "", "connection timeouts in seconds, `TCP-TCPFIN-UDP`, as 120-50-50")
}

// parsed notes which flags were given.
func (s *source) parsed(fs *flag.FlagSet) {
	s.set = make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { s.set[f.Name] = true })
	if s.path == "" && !s.set["vip"] {
		s.path = defaultConfigPath
	}
}

// load reads the file, if there is one, and applies the flags to it.
func (s *source) load() (*Config, error) {
	if s.path == "" {
		return s.flagConfig()
	}
	if s.set["vip"] {
		return nil, misusedf("-vip: a configuration file names its own VIPs; give either -config or -vip")
	}
	got := readConfig(s.path)
	if got.err != nil {
		s.refused = &got
		return nil, got.err
	}
	c, err := s.parse(s.path, got.text)
	if _, mistakes := errors.AsType[ConfigErrors](err); mistakes {
		s.refused = &got
	}
	return c, err
}

// parse is load for a reload: text is the file's new content.
func (s *source) parse(path string, text []byte) (*Config, error) {
	return s.overlay(ParseConfig(path, text))
}

// lastGood is the configuration with which a controller goes on after load has refused the
// file, and the name of the copy that has it; nil when there is none that can be read.
func (s *source) lastGood() (c *Config, copied string) {
	if s.refused == nil {
		return nil, ""
	}
	text, copied, _, err := loadLastGood(s.path, s.refused.text)
	if err == nil {
		c, err = s.parse(s.path, text)
	}
	if err != nil {
		return nil, ""
	}
	return c, copied
}

// flagConfig is the configuration that the prototype's command line means.
func (s *source) flagConfig() (*Config, error) {
	s.kubeconfig = cmp.Or(s.kubeconfig, os.Getenv("KUBECONFIG"))
	if err := s.checkNamespace(); err != nil {
		return nil, err
	}
	var quoted []string
	for _, a := range strings.Split(s.vip, ",") {
		a = strings.TrimSpace(a)
		if _, err := parseUnicast(a); err != nil {
			return nil, misusedf("-vip: %q, want %s", shorten(a, quotedText), unicast)
		}
		if slices.Contains(quoted, strconv.Quote(a)) {
			return nil, misusedf("-vip: %s is there twice", a)
		}
		quoted = append(quoted, strconv.Quote(a))
	}
	text := fmt.Sprintf("[[vip]]\nname = \"vip\"\naddresses = [%s]\nports = [\"80/tcp\", \"443/tcp\"]\nnamespace = %q\ntcp_services = \"tcp-services\"\nudp_services = \"udp-services\"\n",
		strings.Join(quoted, ", "), cmp.Or(s.namespace, "ingress-nginx"))
	return s.overlay(ParseConfig("command line", []byte(text)))
}

// checkNamespace judges -nginxserver.
func (s *source) checkNamespace() error {
	if s.namespace != "" && !dnsLabels.MatchString(s.namespace) {
		return misusedf("-nginxserver: %q, want a namespace: %s", shorten(s.namespace, quotedText), dnsLabelRule)
	}
	return nil
}

// overlay puts the values of the flags into c, which was read without a mistake if err
// is nil.
func (s *source) overlay(c *Config, err error) (*Config, error) {
	if err != nil {
		return nil, err
	}
	c.Path = s.path // none for flags alone
	if s.kubeconfig != "" {
		c.Kubeconfig, c.ClusterFile = s.kubeconfig, ""
	}
	if s.set["timeout"] {
		if c.Timeouts, err = parseTimeouts(s.timeout); err != nil {
			return nil, err
		}
	}
	if err := s.checkNamespace(); err != nil {
		return nil, err
	}
	if s.announce != "" && !slices.Contains(announceNames(), s.announce) {
		return nil, misusedf("-announce: %s", unknownWord("value", s.announce, announceNames()))
	}
	for i := range c.VIPs {
		v := &c.VIPs[i]
		v.Announce = cmp.Or(Announcement(s.announce), v.Announce)
		if s.scheduler != "" {
			if !knownScheduler(s.scheduler) {
				return nil, misusedf("-schedname: %s", unknownWord("scheduler", s.scheduler, allSchedulers()))
			}
			v.SetScheduler(s.scheduler)
		}
		if s.set["nginxserver"] && s.namespace != "" { // "" would be all namespaces
			for _, name := range []*string{&v.TCPServices.Namespace, &v.UDPServices.Namespace} {
				if *name == v.Pods.Namespace {
					*name = s.namespace
				}
			}
			v.Pods.Namespace = s.namespace
			c.selectPods(i)
		}
	}
	return c, nil
}

func allSchedulers() []string { return schedulerNames(func(scheduler) bool { return true }) }

// parseTimeouts reads "120-50-50": TCP, TCP after FIN and UDP, in seconds. 0
// leaves the kernel's value, as ipvsadm --set does.
func parseTimeouts(text string) (Timeouts, error) {
	parts := strings.Split(text, "-")
	valid := len(parts) == 3
	var d [3]time.Duration
	for i := 0; i < len(d) && valid; i++ {
		n, err := strconv.ParseUint(parts[i], 10, 31)
		d[i] = time.Duration(n) * time.Second
		valid = err == nil && d[i] <= maxTimeout
	}
	if !valid {
		return Timeouts{}, misusedf("-timeout: %q is not TCP-TCPFIN-UDP in seconds, as 120-50-50", text)
	}
	return Timeouts{TCP: d[0], TCPFin: d[1], UDP: d[2]}, nil
}

// configured is load for a sub-command that is of no use without a configuration. When
// cfg is nil, the program ends with code.
func (s *source) configured(stderr io.Writer) (cfg *Config, code int) {
	cfg, err := s.load()
	if err != nil {
		return nil, fail(stderr, err)
	}
	return cfg, exitOK
}

// printLines prints each of items in a line with format.
func printLines[T any](w io.Writer, format string, items []T) {
	for _, item := range items {
		fmt.Fprintf(w, format, item)
	}
}
