// The sub-command keepalived: prints a keepalived.conf that matches config.toml.
//
// Used by main.go. The output has VRRP for the VIPs whose address the controller
// does not announce, and no IPVS, which the controller programs. It reads from the
// kernel this host's addresses and the default of -interface. It writes to stdout
// only.

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
)

// vrrp is what a pair of directors needs for VRRP and config.toml does not say.
type vrrp struct {
	Interface string
	Peer      netip.Addr    // the other director, where advertisements go; its family is that of VRRP
	Source    netip.Addr    // of this director; invalid = the first address of the device
	Router    uint          // VRRP virtual router id, 1–255 (RFC 5798 section 5.2.3)
	Priority  uint          // 2–254; 255 is for the owner of an address, 1 for a director that is not ready
	Interval  time.Duration // of advertisements, in hundredths of a second (RFC 5798 section 5.2.7)
	State     string        // of keepalived at its start: BACKUP or MASTER
	NoPreempt bool          // keepalived's nopreempt in place of equal priorities
	Binary    string        // the controller, for the track script
	Flags     string        // of the command that prints this file
}

// Limits of an advertisement interval: the field is 12 bits of hundredths.
const (
	minAdvertisement = 10 * time.Millisecond
	maxAdvertisement = 4095 * 10 * time.Millisecond
)

// defaultBinary is where an installation by hand has the controller.
const defaultBinary = "/usr/local/sbin/lvs-controller"

// plainWord is what keepalived reads literally everywhere in its file: it begins no
// comment, block, quotation or definition.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9._:/\[\]-]+$`)

var keepalivedCommand = command{
	name:    "keepalived",
	summary: "print a keepalived.conf that matches the configuration",
	about: `Prints a keepalived.conf for this director of a pair: VRRP for the VIPs with
announce = "none", and a script that asks the controller whether it is ready. keepalived
gets no virtual server: the controller programs IPVS. docs/high-availability.md has the
steps.`,
	examples: `lvs-controller keepalived -peer 10.135.22.3 > keepalived.conf
lvs-controller keepalived -peer 10.135.22.3 -router-id 52 -interval 1s`,
	values: map[string][]string{"state": {"BACKUP", "MASTER"}},
	new:    func() task { return new(keepalivedTask) },
}

// keepalivedTask is one call of `lvs-controller keepalived`.
type keepalivedTask struct {
	source
	vrrp       vrrp
	peer, from string
	given      *flag.FlagSet // for the file's first lines
}

func (t *keepalivedTask) flags(fs *flag.FlagSet) {
	t.source.flags(fs)
	v := &t.vrrp
	fs.StringVar(&t.peer, "peer", "", "`address` of the other director; of either family, needed")
	fs.StringVar(&t.from, "source", "", "this director's own `address` towards it (default the device's first)")
	fs.StringVar(&v.Interface, "interface", "", "`device` of the VIPs (default the configuration's, else that of the default route)")
	fs.UintVar(&v.Router, "router-id", 51, "VRRP virtual router `id`, 1 to 255: the same on both directors, another for each pair")
	fs.UintVar(&v.Priority, "priority", 100, "VRRP `priority`, 2 to 254: the same on both, so that a director that comes back does not take the VIPs back")
	fs.DurationVar(&v.Interval, "interval", 200*time.Millisecond, "`time` between two advertisements, 10ms to 40.95s in steps of 10ms: the same on both")
	fs.StringVar(&v.State, "state", "BACKUP", "`state` to start in, BACKUP or MASTER")
	fs.BoolVar(&v.NoPreempt, "nopreempt", false, "for directors of different priorities; then a director that is not ready gives up its VIPs even if the other is not ready either")
	fs.StringVar(&v.Binary, "binary", "", "`path` of the controller on the director (default that of this program below /usr, else "+defaultBinary+")")
}

func (t *keepalivedTask) parsed(fs *flag.FlagSet) {
	t.source.parsed(fs)
	t.given = fs
}

// run prints a keepalived.conf.
func (t *keepalivedTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	v := &t.vrrp
	cfg, code := t.configured(stderr)
	if cfg == nil {
		return code
	}
	var text string
	for _, step := range []func() error{
		func() error { return v.fillIn(ctx, cfg, t.peer, t.from) },
		func() error { return v.check(cfg.Listen) },
		func() error { return v.noteFlags(t.given, t.path) },
		func() (err error) { text, err = v.conf(cfg); return err },
		v.checkPeer,
	} {
		if err := step(); err != nil {
			return fail(stderr, "lvs-controller keepalived:", err)
		}
	}
	if _, err := io.WriteString(stdout, text); err != nil {
		return fail(stderr, err)
	}
	return exitOK
}

// fillIn completes v: addresses from their flags, and the device from the
// configuration or the host where -interface is not given.
func (v *vrrp) fillIn(ctx context.Context, cfg *Config, peer, source string) (err error) {
	if peer == "" {
		return misusedf("-peer is missing: the other director's address")
	}
	if v.Peer, err = parseHost("-peer", peer); err != nil {
		return err
	}
	if source != "" {
		if v.Source, err = parseHost("-source", source); err != nil {
			return err
		}
		if v.Source.Is6() != v.Peer.Is6() || v.Source == v.Peer {
			return misusedf("-source %s: want this director's own address, of the family of -peer %s", v.Source, v.Peer)
		}
	}
	v.Binary = cmp.Or(v.Binary, installedBinary(os.Executable()))
	if v.Interface = cmp.Or(v.Interface, cfg.Interface); v.Interface != "" {
		return nil
	}
	r, err := openRtnl(ctx)
	if err != nil {
		return fmt.Errorf("find the device of the VIPs: %w", err)
	}
	defer r.Close()
	if v.Interface, err = r.DefaultDevice(); err != nil {
		return fmt.Errorf("no interface is known: set interface in the configuration, or give -interface (%w)", err)
	}
	return nil
}

// installedBinary is the path for keepalived of a program that runs as path: that of a
// package is below /usr. A program that is tried elsewhere will be installed by hand.
func installedBinary(path string, err error) string {
	if err != nil || !strings.HasPrefix(path, "/usr/") {
		return defaultBinary
	}
	return path
}

// check refuses what VRRP cannot do and what keepalived would not read as it is
// meant.
func (v *vrrp) check(listen string) error {
	switch {
	case v.Router < 1 || v.Router > 255:
		return misusedf("-router-id %d: want 1 to 255", v.Router)
	case v.Priority < 2 || v.Priority > 254:
		return misusedf("-priority %d: want 2 to 254", v.Priority)
	case v.Interval < minAdvertisement || v.Interval > maxAdvertisement || v.Interval%minAdvertisement != 0:
		return misusedf("-interval %s: want %s to %s in steps of %s", v.Interval, minAdvertisement, maxAdvertisement, minAdvertisement)
	case v.State != "BACKUP" && v.State != "MASTER":
		return misusedf("-state %q: want BACKUP or MASTER", v.State)
	case v.State == "MASTER" && v.NoPreempt:
		return misusedf("-state MASTER: a director with -nopreempt must start as BACKUP")
	case listen == "":
		return errors.New("listen is off in the configuration: keepalived could not ask whether the director is ready")
	}
	if !plainWord.MatchString(v.Binary) || !strings.HasPrefix(v.Binary, "/") {
		return misusedf("-binary %q: want an absolute path of letters, digits and . _ : / -", v.Binary)
	}
	for _, word := range []struct{ what, text string }{{"interface", v.Interface}, {"listen", listen}} {
		if !plainWord.MatchString(word.text) {
			return fmt.Errorf("%s %q: keepalived.conf can have only letters, digits and . _ : / - there", word.what, word.text)
		}
	}
	return nil
}

// checkPeer refuses a peer that is this host. Such a director would get no
// advertisements, and be master beside the other director.
func (v *vrrp) checkPeer() error {
	conn, err := openRtnl(context.Background())
	if err != nil {
		return err
	}
	defer conn.Close()
	own := false
	err = conn.eachAddress(func(_ uint32, a deviceAddress) { own = own || a.Address == v.Peer.Unmap() })
	if err == nil && own {
		err = fmt.Errorf("-peer %s: this host has it, want the other director's address", v.Peer)
	}
	return err
}

// noteFlags notes the flags of fs that were given and differ from their defaults,
// as words of a shell. config is the configuration's path, "" for none.
func (v *vrrp) noteFlags(fs *flag.FlagSet, config string) error {
	words := []string{"-peer", v.Peer.String()}
	if config != "" {
		path, err := filepath.Abs(config)
		if err != nil {
			return fmt.Errorf("-config %s: %w", config, err)
		}
		if path != defaultConfigPath {
			words = append(words, "-config", path)
		}
	}
	fs.Visit(func(f *flag.Flag) {
		if f.Name == "peer" || f.Name == "config" || f.Value.String() == f.DefValue {
			return
		}
		words = append(words, "-"+f.Name)
		if is, ok := f.Value.(interface{ IsBoolFlag() bool }); !ok || !is.IsBoolFlag() {
			words = append(words, f.Value.String())
		}
	})
	for i, word := range words {
		if strings.ContainsFunc(word, unicode.IsControl) {
			return fmt.Errorf("%s %q: the first lines of keepalived.conf cannot contain it", words[i-1], word)
		}
		if !plainWord.MatchString(word) {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	v.Flags = strings.Join(words, " ")
	return nil
}

// parseHost reads an address of one host.
func parseHost(flag, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	a = a.Unmap()
	if err != nil || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "" {
		return a, misusedf("%s %q: want a host's IPv4 or IPv6 address", flag, text)
	}
	return a, nil
}

// left are the lines of cfg's addresses that the controller does not announce, with the
// names of their VIPs, in the order of the file. Those of the family of VRRP come first.
func (v *vrrp) left(cfg *Config) ([]string, error) {
	var own, other []string // of the family of VRRP and of the other one
	var seen []netip.Addr   // several VIPs may share an address
	for i := range cfg.VIPs {
		vip := &cfg.VIPs[i]
		for _, a := range vip.Addresses {
			if slices.Contains(seen, a) {
				continue
			}
			seen = append(seen, a)
			line := fmt.Sprintf("        %s    # %s\n", netip.PrefixFrom(a, a.BitLen()), vip.Name)
			switch {
			case a == v.Peer || a == v.Source:
				return nil, fmt.Errorf("%s is an address of VIP %q, want a director's own", a, vip.Name)
			case vip.Announce.method().byController():
			case a.Is6() == v.Peer.Is6():
				own = append(own, line)
			default:
				other = append(other, line)
			}
		}
	}
	switch {
	case len(own) > 0:
		return append(own, other...), nil
	case len(other) > 0:
		return nil, fmt.Errorf("-peer %s: no VIP with announce = \"none\" has an %s address; name the other director by its %s address",
			v.Peer, familyName(v.Peer.Is6()), familyName(!v.Peer.Is6()))
	}
	return nil, errors.New(`no VIP has announce = "none": the controller announces all of them`)
}

// silence is how long a director sends no advertisement before the other one takes
// over: three intervals and the skew time of RFC 5798 section 6.1.
func (v *vrrp) silence() time.Duration {
	return 3*v.Interval + time.Duration(256-v.Priority)*v.Interval/256
}

// conf is the file. The same options and configuration make the same text.
func (v *vrrp) conf(cfg *Config) (string, error) {
	addresses, err := v.left(cfg)
	if err != nil {
		return "", err
	}
	effect, weight, preempt := confFalls, fmt.Sprintf("    weight -%d\n", v.Priority-1), confEqual
	if v.NoPreempt {
		effect, weight, preempt = "A director that is not ready gives up the VIPs.", "", "    nopreempt"
	}
	source, excluded := "", ""
	if v.Source.IsValid() {
		source = fmt.Sprintf("    unicast_src_ip %s\n", v.Source)
	}
	if len(addresses) > 1 {
		excluded = confExcluded + strings.Join(addresses[1:], "") + "    }\n"
	}
	return fmt.Sprintf(confText, v.Flags, effect, v.Binary, cfg.Listen, weight,
		v.State, preempt, v.Priority, v.Interface, v.Router, seconds(v.silence()), seconds(v.Interval), source, v.Peer,
		addresses[0], excluded), nil
}

const confText = `# keepalived.conf of a director: VRRP for the VIPs that config.toml leaves to
# keepalived. Printed by
#   lvs-controller keepalived %s
# Print it again with these flags after a change of addresses, announce, interface
# or listen in config.toml. On the other director unicast_peer is the address of this
# one; the rest is the same. IPVS is not configured here: lvs-controller programs it
# on both directors at all times.

global_defs {
    vrrp_version 3
    # The script needs no privileges, but with another user keepalived 2.2.7
    # --config-test kills itself at its end.
    script_user root
    enable_script_security
}

# A director is ready when it has read the kernel's table, a real server is in
# service and its uplink is up. %s
vrrp_script lvs_controller {
    script "%s ready -listen %s"
    interval 1    # seconds
    timeout 2
    fall 3        # a restart of the controller takes less time
    rise 2
%s    init_fail
}

vrrp_instance lvs {
    state %s
%s
    priority %d
    interface %s
    virtual_router_id %d

    # Seconds. The other director takes over after %s s without an advertisement.
    advert_int %s
%s    unicast_peer {
        %s
    }
    check_unicast_src

    # Gratuitous ARP and neighbour advertisements: at the take-over, a second later,
    # and every minute, which repairs a neighbour that has learned another MAC address.
    garp_master_delay 1
    garp_master_refresh 60

    virtual_ipaddress {
%s    }
%s    track_script {
        lvs_controller
    }
}
`

// What the file says without -nopreempt, and of more than one address.
const (
	confFalls = `A director that is not ready falls to
# priority 1, below one that is. If neither is ready, the VIPs stay where they are:
# the kernel continues to forward.`

	confEqual = `    # The same on both directors: a director that comes back does not take the VIPs
    # back. nopreempt would do that too, but would leave the VIPs with a director that
    # is not ready.`

	confExcluded = `    # They move together with the first, whatever their family, but are not in the
    # advertisements: two directors may differ in them for a time, as during a reload.
    virtual_ipaddress_excluded {
`
)

// seconds writes d as keepalived reads it, in hundredths at the finest.
func seconds(d time.Duration) string {
	text := fmt.Sprintf("%.2f", d.Seconds())
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}
