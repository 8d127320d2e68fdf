// The sub-command keepalived: prints a keepalived.conf that fits config.toml.
//
// Used by main.go. The output has VRRP for the VIPs whose address the
// controller does not announce, and no IPVS: that is the controller's work. It
// reads from the kernel this host's addresses and the default of -interface. It
// writes to stdout only.

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// vrrp is what the directors of a pair agree on beside config.toml.
type vrrp struct {
	Interface string
	Peer      netip.Addr    // where the other director is told; its family is that of VRRP
	Source    netip.Addr    // where from; invalid = the device's first address
	Router    uint          // VRRP virtual router id, 1–255 (RFC 5798 section 5.2.3)
	Priority  uint          // 2–254; 255 is an address owner's, 1 is a director's that is not ready
	Interval  time.Duration // of advertisements, in hundredths of a second (RFC 5798 section 5.2.7)
	State     string        // in which keepalived starts: BACKUP or MASTER
	NoPreempt bool          // keepalived's own nopreempt in place of equal priorities
	Binary    string        // the controller, for the track script
	Flags     string        // of the command that prints this file
}

// Limits of an advertisement interval: the field is 12 bits of hundredths.
const (
	minAdvertisement = 10 * time.Millisecond
	maxAdvertisement = 4095 * 10 * time.Millisecond
)

// plainWord is what keepalived takes literally anywhere in its file: nothing
// that begins a comment, a block, a quotation or a definition.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9._:/\[\]-]+$`)

// runKeepalived prints a keepalived.conf.
func runKeepalived(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var (
		v            vrrp
		peer, source string
	)
	fs := newFlags("lvs-controller keepalived", stderr)
	fs.StringVar(&peer, "peer", "", "`address` of the other director; of either family, needed")
	fs.StringVar(&source, "source", "", "this director's own `address` towards it (default the device's first)")
	fs.StringVar(&v.Interface, "interface", "", "`device` of the VIPs (default the configuration's, else that of the default route)")
	fs.UintVar(&v.Router, "router-id", 51, "VRRP virtual router `id`, 1 to 255: the same on both directors, another for each pair")
	fs.UintVar(&v.Priority, "priority", 100, "VRRP `priority`, 2 to 254: the same on both, so that a director that comes back takes nothing back")
	fs.DurationVar(&v.Interval, "interval", 200*time.Millisecond, "`time` between two advertisements, 10ms to 40.95s in steps of 10ms: the same on both")
	fs.StringVar(&v.State, "state", "BACKUP", "`state` to start in, BACKUP or MASTER")
	fs.BoolVar(&v.NoPreempt, "nopreempt", false, "for directors of different priorities; then one that is not ready gives its VIPs up even if the other is not ready either")
	fs.StringVar(&v.Binary, "binary", "/usr/local/sbin/lvs-controller", "`path` of the controller on the director")
	src, cfg, code := configured(fs, args)
	if cfg == nil {
		return code
	}
	text, err := func() ([]byte, error) {
		if err := v.settle(ctx, cfg, peer, source); err != nil {
			return nil, err
		}
		if err := v.recall(fs, src.path); err != nil {
			return nil, err
		}
		text, err := v.conf(cfg)
		if err != nil {
			return nil, err
		}
		return text, v.elsewhere()
	}()
	if err != nil {
		fmt.Fprintln(stderr, "lvs-controller keepalived:", err)
		return exitFailure
	}
	if _, err := stdout.Write(text); err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailure
	}
	return exitOK
}

// settle fills v with what the flags left to the configuration and the host,
// and refuses what VRRP cannot do.
func (v *vrrp) settle(ctx context.Context, cfg *Config, peer, source string) error {
	if peer == "" {
		return errors.New("-peer is missing: the other director's address")
	}
	var err error
	if v.Peer, err = parseHost("-peer", peer); err != nil {
		return err
	}
	if source != "" {
		if v.Source, err = parseHost("-source", source); err != nil {
			return err
		}
		if v.Source.Is6() != v.Peer.Is6() || v.Source == v.Peer {
			return fmt.Errorf("-source %s: want this director's own address, of the family of -peer %s", v.Source, v.Peer)
		}
	}
	if v.Interface == "" {
		v.Interface = cfg.Interface
	}
	if v.Interface == "" {
		r, err := openRtnl(ctx)
		if err != nil {
			return fmt.Errorf("find the device of the VIPs: %w", err)
		}
		defer r.Close()
		if v.Interface, err = r.DefaultDevice(); err != nil {
			return fmt.Errorf("no interface is known: set interface in the configuration, or give -interface (%w)", err)
		}
	}
	switch {
	case v.Router < 1 || v.Router > 255:
		return fmt.Errorf("-router-id %d: want 1 to 255", v.Router)
	case v.Priority < 2 || v.Priority > 254:
		return fmt.Errorf("-priority %d: want 2 to 254", v.Priority)
	case v.Interval < minAdvertisement || v.Interval > maxAdvertisement || v.Interval%minAdvertisement != 0:
		return fmt.Errorf("-interval %s: want %s to %s in steps of %s", v.Interval, minAdvertisement, maxAdvertisement, minAdvertisement)
	case v.State != "BACKUP" && v.State != "MASTER":
		return fmt.Errorf("-state %q: want BACKUP or MASTER", v.State)
	case v.State == "MASTER" && v.NoPreempt:
		return errors.New("-state MASTER: a director with -nopreempt has to start as BACKUP")
	case cfg.Listen == "":
		return errors.New("listen is off in the configuration: nobody could be asked whether the director is ready")
	}
	for _, word := range []struct{ what, text string }{{"interface", v.Interface}, {"listen", cfg.Listen}, {"-binary", v.Binary}} {
		if !plainWord.MatchString(word.text) {
			return fmt.Errorf("%s %q: keepalived.conf can hold letters, digits and . _ : / - only", word.what, word.text)
		}
	}
	if !strings.HasPrefix(v.Binary, "/") {
		return fmt.Errorf("-binary %q: want an absolute path", v.Binary)
	}
	return nil
}

// elsewhere refuses a peer that is this host: it would hear nobody, and be master
// beside the other director.
func (v *vrrp) elsewhere() error {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list this host's addresses: %w", err)
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(v.Peer.AsSlice()) {
			return fmt.Errorf("-peer %s: this host has it, want the other director's address", v.Peer)
		}
	}
	return nil
}

// recall notes the flags of fs that were given and are not their defaults, in
// words of a shell; config is the configuration's path, "" for none.
func (v *vrrp) recall(fs *flag.FlagSet, config string) error {
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
			return fmt.Errorf("%s %q: the first lines of keepalived.conf cannot hold it", words[i-1], word)
		}
		if !plainWord.MatchString(word) {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	v.Flags = strings.Join(words, " ")
	return nil
}

// parseHost reads an address that one host has.
func parseHost(flag, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	a = a.Unmap()
	if err != nil || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "" {
		return a, fmt.Errorf("%s %q: want a host's IPv4 or IPv6 address", flag, text)
	}
	return a, nil
}

// left are cfg's addresses that somebody else puts on the network, with the
// names of their VIPs, in the order of the file. Those of the family of VRRP
// come first.
func (v *vrrp) left(cfg *Config) (addresses []netip.Addr, names map[netip.Addr]string, err error) {
	names = make(map[netip.Addr]string)
	for _, is6 := range []bool{v.Peer.Is6(), !v.Peer.Is6()} {
		for i := range cfg.VIPs {
			vip := &cfg.VIPs[i]
			for _, a := range vip.Addresses {
				if a == v.Peer || a == v.Source {
					return nil, nil, fmt.Errorf("%s is an address of VIP %q, want a director's own", a, vip.Name)
				}
				if vip.Announce == AnnounceNone && a.Is6() == is6 {
					addresses = append(addresses, a)
					names[a] = vip.Name
				}
			}
		}
	}
	switch {
	case len(addresses) == 0:
		return nil, nil, errors.New(`no VIP has announce = "none": the controller puts all of them on the network itself`)
	case addresses[0].Is6() != v.Peer.Is6():
		return nil, nil, fmt.Errorf("-peer %s: no VIP that is left to keepalived has an %s address; name the other director by its %s address",
			v.Peer, familyName(v.Peer.Is6()), familyName(addresses[0].Is6()))
	}
	return addresses, names, nil
}

// patience is how long a director is silent before the other one takes over:
// three intervals and the skew time of RFC 5798 section 6.1.
func (v *vrrp) patience() time.Duration {
	return 3*v.Interval + time.Duration(256-v.Priority)*v.Interval/256
}

// conf is the file. The same options and configuration make the same text.
func (v *vrrp) conf(cfg *Config) ([]byte, error) {
	addresses, names, err := v.left(cfg)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	address := func(a netip.Addr) {
		line("        %s    # %s", netip.PrefixFrom(a, a.BitLen()), names[a])
	}
	line(`# keepalived.conf of a director: VRRP for the VIPs that config.toml leaves to
# keepalived. Printed by
#   lvs-controller keepalived %s
# Print it again, with these flags, after a change of addresses, announce, interface
# or listen there. On the other director unicast_peer is this one; all else is the
# same. Nothing here is about IPVS: lvs-controller programs it on both directors at
# all times.

global_defs {
    vrrp_version 3
    # Needs no right at all, but with another user keepalived 2.2.7 --config-test
    # ends by killing itself.
    script_user root
    enable_script_security
}
`, v.Flags)
	if v.NoPreempt {
		line(`# A director is ready when its table has been read, a real server is in service
# and its uplink is up. One that is not gives the VIPs up.
vrrp_script lvs_controller {`)
	} else {
		line(`# A director is ready when its table has been read, a real server is in service
# and its uplink is up. One that is not falls to priority 1, below one that is;
# if neither is, the VIPs stay where they are, for the kernel goes on forwarding.
vrrp_script lvs_controller {`)
	}
	line(`    script "%s ready -listen %s"`, v.Binary, cfg.Listen)
	line(`    interval 1    # seconds
    timeout 2
    fall 3        # a restart of the controller is over sooner
    rise 2`)
	if !v.NoPreempt {
		line("    weight -%d", v.Priority-1)
	}
	line("    init_fail\n}\n\nvrrp_instance lvs {\n    state %s", v.State)
	if v.NoPreempt {
		line("    nopreempt")
	} else {
		line(`    # The same on both directors: who comes back takes nothing back (nopreempt would
    # say so too, but keep a director that is not ready in office).`)
	}
	line(`    priority %d
    interface %s
    virtual_router_id %d

    # Seconds. The other director takes over when it has heard nothing for %s s.
    advert_int %s`, v.Priority, v.Interface, v.Router, seconds(v.patience()), seconds(v.Interval))
	if v.Source.IsValid() {
		line("    unicast_src_ip %s", v.Source)
	}
	line(`    unicast_peer {
        %s
    }
    check_unicast_src

    # Gratuitous ARP and neighbour advertisements: at the take-over, a second
    # later, and every minute, which repairs a neighbour that heard another claim.
    garp_master_delay 1
    garp_master_refresh 60

    virtual_ipaddress {`, v.Peer)
	address(addresses[0])
	line("    }")
	if len(addresses) > 1 {
		line(`    # They move together with the first, whatever their family, but are not in the
    # advertisements: a director that has one more since its reload is understood.
    virtual_ipaddress_excluded {`)
		for _, a := range addresses[1:] {
			address(a)
		}
		line("    }")
	}
	line("    track_script {\n        lvs_controller\n    }\n}")
	return b.Bytes(), nil
}

// seconds writes d as keepalived reads it, in hundredths at the finest.
func seconds(d time.Duration) string {
	text := fmt.Sprintf("%.2f", d.Seconds())
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}
