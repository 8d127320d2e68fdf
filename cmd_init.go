// The sub-command init: writes a small configuration file to begin with.
//
// Used by main.go. It takes flags or, at a terminal, asks for what they do not say. It
// writes the file and nothing else, and replaces only one without any setting, as a package
// brings it, unless it gets -force.

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

var initCommand = command{
	name:    "init",
	summary: "write a configuration file to begin with",
	about: `Writes a small configuration file with comments: one VIP for an ingress controller
(docs/ingresses.md), and the ports of its ConfigMaps. At a terminal it asks for what no flag
says. It replaces no file that has more than comments without -force.`,
	exits: map[int]string{exitFailure: "the file is there already, or cannot be written"},
	examples: `lvs-controller init
lvs-controller init -vip 10.135.22.77 -interface eth0 -announce arp
lvs-controller init -vip 10.135.22.77,2001:db8::77 -o -
lvs-controller init -vip 10.135.22.77 -ingress envoy-gateway -gateway web/edge`,
	values: map[string][]string{"announce": announceNames(), "ingress": presetNames()},
	new:    func() task { return &initTask{in: os.Stdin, asks: isTerminal(os.Stdin)} },
}

// initTask is one call of `lvs-controller init`.
type initTask struct {
	vip, device, kubeconfig, ingress, gateway, announce, output string

	force bool
	given map[string]bool // flags
	in    io.Reader
	asks  bool // in is a person's
}

func (t *initTask) flags(fs *flag.FlagSet) {
	fs.StringVar(&t.vip, "vip", "", "VIP `address`, or several with commas; needed")
	fs.StringVar(&t.device, "interface", "", "`device` towards clients and nodes (default that of the default route)")
	fs.StringVar(&t.kubeconfig, "kubeconfig", "/etc/lvs-controller/kubeconfig", "kubeconfig `file` of the director")
	fs.StringVar(&t.ingress, "ingress", presets[0].name, "ingress `controller` of the cluster, one of: "+strings.Join(presetNames(), ", "))
	fs.StringVar(&t.gateway, "gateway", "", "`NAMESPACE/NAME` of the Gateway, or several with commas, whose listeners have the ports; needed with the ingress controllers of the Gateway API")
	fs.StringVar(&t.announce, "announce", string(AnnounceNone), "`method` that brings the VIP to this host: arp (the controller adds it to the device), dummy (for a routing daemon) or none (keepalived does it); arp is proposed at a terminal")
	fs.StringVar(&t.output, "o", defaultConfigPath, "`file` to write, or its directory; - for stdout")
	fs.BoolVar(&t.force, "force", false, "replace the file")
}

func (t *initTask) parsed(fs *flag.FlagSet) {
	t.given = make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { t.given[f.Name] = true })
}

// run writes the file.
func (t *initTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	// As with cp: a directory gets a file of the usual name.
	if info, err := os.Stat(t.output); strings.HasSuffix(t.output, "/") || err == nil && info.IsDir() {
		t.output = filepath.Join(t.output, filepath.Base(defaultConfigPath))
	}
	if t.output != "-" && !t.force {
		if _, err := os.Lstat(t.output); err == nil && !onlyComments(t.output) {
			return fail(stderr, "lvs-controller init:", t.output, "is there already; -force replaces it")
		}
	}
	if t.asks {
		if err := t.checkFlags(); err != nil {
			return initCommand.misused(stderr, err)
		}
		if err := t.ask(ctx, stderr); err != nil {
			return fail(stderr, "lvs-controller init:", err)
		}
	}
	text, err := t.text()
	if err != nil {
		return initCommand.misused(stderr, err)
	}
	if t.output == "-" {
		if _, err := io.WriteString(stdout, text); err != nil {
			return fail(stderr, err)
		}
		return exitOK
	}
	if err := os.MkdirAll(filepath.Dir(t.output), 0o755); err != nil {
		return fail(stderr, "lvs-controller init:", err)
	}
	if err := writeFileAtomic(t.output, []byte(text), 0o644); err != nil {
		return fail(stderr, "lvs-controller init:", err)
	}
	config := ""
	if t.output != defaultConfigPath {
		config = " -config " + t.output
	}
	fmt.Fprintf(stdout, "wrote %s\nnext, on each node:  lvs-controller realserver -vip %s\nthen, on this host:  lvs-controller check%s\nto serve:            lvs-controller run%s, or start its service\n", t.output, t.vip, config, config)
	if t.announce == string(AnnounceNone) {
		fmt.Fprintln(stdout, `With announce = "none" keepalived or a routing daemon brings the VIP to this host.`)
	}
	return exitOK
}

// onlyComments reports whether the file at path has no setting: that of a package, which
// nothing is lost of.
func onlyComments(path string) bool {
	text, err := readRegular(path, 1<<16)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

// checkFlags says what is wrong with the flags that are given: no answer mends that.
func (t *initTask) checkFlags() error {
	whole := *t
	if !t.given["vip"] {
		whole.vip = "192.0.2.1" // any: it is asked for
	}
	if t.needsGateway() && !t.given["gateway"] {
		whole.gateway = anyGateway
	}
	_, err := whole.text()
	return err
}

// anyGateway is in place of a Gateway that is asked for later.
const anyGateway = "any/any"

// needsGateway reports whether the ports of the ingress controller are those of Gateways.
func (t *initTask) needsGateway() bool {
	p := findPreset(t.ingress)
	return p != nil && p.portsFrom == "gateways"
}

// ask asks on w for what no flag says. An empty answer is the default, and after a wrong
// one it asks again.
func (t *initTask) ask(ctx context.Context, w io.Writer) error {
	lines := bufio.NewScanner(io.LimitReader(t.in, 1<<16))
	device, _ := defaultDevice(ctx) // without one the answer may stay empty
	// A Gateway that is needed is another one until it is asked for.
	placeholder := func() {
		if !t.given["gateway"] {
			t.gateway = ""
			if t.needsGateway() {
				t.gateway = anyGateway
			}
		}
	}
	placeholder()
	for _, q := range []struct {
		flag, text string
		value      *string
		proposed   string
	}{
		{"vip", "VIP address, or several with commas", &t.vip, ""},
		{"ingress", "ingress controller of the cluster, such as traefik or envoy-gateway", &t.ingress, t.ingress},
		{"gateway", "Gateway whose listeners have the ports, NAMESPACE/NAME, or several with commas", &t.gateway, ""},
		{"interface", "device towards clients and nodes", &t.device, device},
		{"kubeconfig", "kubeconfig of the director", &t.kubeconfig, t.kubeconfig},
		{"announce", "what brings the VIP to this host: arp (this program), dummy, or none (keepalived)", &t.announce, string(AnnounceARP)},
	} {
		if t.given[q.flag] || q.flag == "gateway" && !t.needsGateway() {
			continue
		}
		for wrong := error(nil); ; fmt.Fprintln(w, wrong) {
			fmt.Fprintf(w, "%s [%s]: ", q.text, q.proposed)
			if !lines.Scan() {
				return errors.Join(errors.New("no answer"), lines.Err())
			}
			*q.value = cmp.Or(strings.TrimSpace(lines.Text()), q.proposed)
			if q.flag == "ingress" {
				placeholder()
			}
			if _, wrong = t.text(); wrong == nil {
				break
			}
		}
	}
	return nil
}

// gateways are the elements of the list of that name, "" for none.
func (t *initTask) gateways(p *preset) (string, error) {
	switch {
	case p.portsFrom != "gateways" && t.gateway != "":
		return "", fmt.Errorf("-gateway: the ports of %s are not those of Gateways", p.name)
	case p.portsFrom != "gateways":
		return "", nil
	case t.gateway == "":
		return "", fmt.Errorf("-gateway is missing: the ports of %s are those of the listeners of a Gateway, NAMESPACE/NAME", p.name)
	}
	var quoted []string
	for g := range strings.SplitSeq(t.gateway, ",") {
		quoted = append(quoted, strconv.Quote(strings.TrimSpace(g)))
	}
	return strings.Join(quoted, ", "), nil
}

// text is the file. It is one that `check` accepts, or there is an error.
func (t *initTask) text() (string, error) {
	if t.vip == "" {
		return "", errors.New("-vip is missing: the address that clients use")
	}
	var plain, addresses []string
	for a := range strings.SplitSeq(t.vip, ",") {
		a = strings.TrimSpace(a)
		if _, err := netip.ParseAddr(a); err != nil {
			return "", fmt.Errorf("-vip: %q is not an address", shorten(a, quotedText))
		}
		plain, addresses = append(plain, a), append(addresses, strconv.Quote(a))
	}
	t.vip = strings.Join(plain, ",") // as it is printed for the nodes
	p := findPreset(t.ingress)
	if p == nil {
		return "", fmt.Errorf("-ingress: %s", unknownWord("value", t.ingress, presetNames()))
	}
	if !slices.Contains(announceNames(), t.announce) {
		return "", fmt.Errorf("-announce: %s", unknownWord("value", t.announce, announceNames()))
	}
	kubeconfig, err := filepath.Abs(t.kubeconfig)
	if err != nil {
		return "", fmt.Errorf("-kubeconfig: %w", err)
	}
	device := fmt.Sprintf("interface = %q # towards clients and nodes\n", t.device)
	if t.device == "" {
		device = "# interface = \"eth0\" # towards clients and nodes; default: that of the default route\n"
	}
	text := fmt.Sprintf(initText, kubeconfig, device, strings.Join(addresses, ", "), t.announce, p.name)
	if gateways, err := t.gateways(p); err != nil {
		return "", err
	} else if gateways != "" {
		text += "gateways = [" + gateways + "]\n"
	}
	if p.portNames != nil {
		text += "port_names = [" + quotedList(p.portNames) + "] # of the pods' ports, those for clients\n"
	}
	if p.tcp != "" {
		text += fmt.Sprintf("tcp_services = %q # ConfigMaps of %s with more ports\n", p.tcp, p.name)
	}
	if p.udp != "" {
		text += fmt.Sprintf("udp_services = %q\n", p.udp)
	}
	if _, err := ParseConfig(t.output, []byte(text)); err != nil {
		if mistakes, ok := errors.AsType[ConfigErrors](err); ok {
			return "", fmt.Errorf("%s: %s", mistakes.First[0].Key, mistakes.First[0].Msg)
		}
		return "", err
	}
	return text, nil
}

const initText = `# config.toml.example explains every key; "lvs-controller check" names mistakes.
kubeconfig = %q
%s[[vip]]
name = "edge"
addresses = [%s]
announce = %q # arp: the controller adds the addresses to the interface; none: keepalived does
ingress = %q # "lvs-controller check -explain" prints what it means
`
