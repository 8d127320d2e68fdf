// What all sub-commands share: exit codes, the help text, flags, and a configuration
// from a file, from flags or from both.
//
// Used by main.go. It reads the configuration file and nothing else, and changes
// nothing.

package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Exit codes, the same for all sub-commands.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitChanges = 2 // `diff`: there are changes
)

const defaultConfigPath = "/etc/lvs-controller/config.toml"

const usage = `lvs-controller brings outside traffic to the ready hostNetwork ingress pods of
a Kubernetes cluster through the kernel's IPVS, in direct routing.

  lvs-controller -config FILE [-log-format text|json|journal]
                 [-log-level debug|info|warn|error]
                                         run
  lvs-controller -config FILE -cleanup   remove from the kernel what the controller
                                         put there
  lvs-controller check [-all] -config FILE
                                         check the file; 1 = it has mistakes
  lvs-controller diff -config FILE       show what would change in the kernel now;
                                         2 = changes
  lvs-controller status [-config FILE] [-o json]
                                         show services, real servers, reasons and
                                         connections
  lvs-controller doctor [-config FILE]   examine this host as a director, with the
                                         commands that mend what is wrong; 1 = FAIL
  lvs-controller ready [-config FILE | -listen ADDR:PORT]
                                         ask whether /readyz says ok; 0 = yes, 1 = no
  lvs-controller drain [-undo] [-config FILE]
                                         move the traffic away from this director;
                                         -undo ends that
  lvs-controller keepalived -config FILE -peer ADDR [-source ADDR] [-priority N]
                                         print a keepalived.conf that matches the file
  lvs-controller realserver -vip ADDR[,ADDR] [-dev lo] [-check | -remove]
                                         prepare (or undo) a node
  lvs-controller version

Without a file: lvs-controller -kubeconfig FILE -vip ADDR [-schedname rr]
                               [-nginxserver NAMESPACE] [-timeout TCP-TCPFIN-UDP] [-debug]
`

// newFlags makes a flag set that writes to stderr and never ends the process.
func newFlags(name string, stderr io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, usage, "\nFlags of ", name, ":\n")
		fs.PrintDefaults()
	}
	return fs
}

// parse reads args. When done, the program ends with code.
func parse(fs *flag.FlagSet, args []string) (code int, done bool) {
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK, true
	case err != nil:
		return exitUsage, true
	case fs.NArg() > 0:
		fmt.Fprintf(fs.Output(), "lvs-controller: unexpected argument %q\n", fs.Arg(0))
		return exitUsage, true
	}
	return exitOK, false
}

// fail prints why the program ends, and returns its exit code.
func fail(stderr io.Writer, why ...any) int {
	fmt.Fprintln(stderr, why...)
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
	set        map[string]bool // flags that were given
}

// newSource adds the flags of a configuration to those of a sub-command, and parses
// args. When it returns nil, the program ends with code.
func newSource(fs *flag.FlagSet, args []string) (s *source, code int) {
	s = &source{set: make(map[string]bool)}
	fs.StringVar(&s.path, "config", "", "configuration `file` (default "+defaultConfigPath+" unless -vip is given)")
	fs.StringVar(&s.kubeconfig, "kubeconfig", "", "kubeconfig `file`; replaces the configuration's")
	fs.StringVar(&s.vip, "vip", "", "VIP `address`(es), comma-separated; without -config makes a VIP with ports 80 and 443")
	fs.StringVar(&s.scheduler, "schedname", "", "IPVS scheduler `name` of every VIP")
	fs.StringVar(&s.namespace, "nginxserver", "", "`namespace` of the ingress controller")
	fs.StringVar(&s.timeout, "timeout", "", "connection timeouts in seconds, `TCP-TCPFIN-UDP`, as 120-50-50")
	if code, done := parse(fs, args); done {
		return nil, code
	}
	fs.Visit(func(f *flag.Flag) { s.set[f.Name] = true })
	if s.path == "" && !s.set["vip"] {
		s.path = defaultConfigPath
	}
	return s, exitOK
}

// load reads the file, if there is one, and applies the flags to it.
func (s *source) load() (*Config, error) {
	if s.path == "" {
		return s.flagConfig()
	}
	if s.set["vip"] {
		return nil, errors.New("-vip: a configuration file names its own VIPs; give either -config or -vip")
	}
	return s.overlay(LoadConfig(s.path))
}

// parse is load for a reload: text is the file's new content.
func (s *source) parse(path string, text []byte) (*Config, error) {
	return s.overlay(ParseConfig(path, text))
}

// flagConfig is the configuration that the prototype's command line means.
func (s *source) flagConfig() (*Config, error) {
	s.kubeconfig = cmp.Or(s.kubeconfig, os.Getenv("KUBECONFIG"))
	var quoted []string
	for _, a := range strings.Split(s.vip, ",") {
		quoted = append(quoted, strconv.Quote(strings.TrimSpace(a)))
	}
	text := fmt.Sprintf("[[vip]]\nname = \"vip\"\naddresses = [%s]\nports = [\"80/tcp\", \"443/tcp\"]\nnamespace = %q\ntcp_services = \"tcp-services\"\nudp_services = \"udp-services\"\n",
		strings.Join(quoted, ", "), cmp.Or(s.namespace, "ingress-nginx"))
	return s.overlay(ParseConfig("command line", []byte(text)))
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
	if s.namespace != "" && !dnsLabels.MatchString(s.namespace) {
		return nil, fmt.Errorf("-nginxserver: %q, want a namespace: %s", shorten(s.namespace, quotedText), dnsLabelRule)
	}
	for i := range c.VIPs {
		v := &c.VIPs[i]
		if s.scheduler != "" {
			if !knownScheduler(s.scheduler) {
				return nil, fmt.Errorf("-schedname: unknown scheduler %q", s.scheduler)
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
		return Timeouts{}, fmt.Errorf("-timeout: %q is not TCP-TCPFIN-UDP in seconds, as 120-50-50", text)
	}
	return Timeouts{TCP: d[0], TCPFin: d[1], UDP: d[2]}, nil
}

// configured parses args into fs, which has the flags of a sub-command, and loads the
// configuration that they name. When cfg is nil, the program ends with code.
func configured(fs *flag.FlagSet, args []string) (src *source, cfg *Config, code int) {
	if src, code = newSource(fs, args); src == nil {
		return nil, nil, code
	}
	cfg, err := src.load()
	if err != nil {
		return nil, nil, fail(fs.Output(), err)
	}
	return src, cfg, exitOK
}
