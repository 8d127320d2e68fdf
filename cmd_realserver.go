// The sub-command realserver: prepares a Kubernetes node for direct routing or a
// tunnel, and undoes it.
//
// Used by main.go. A node serves a VIP when the address is local (on lo) and
// the node does not answer ARP for it (sysctls of the uplink). The command
// changes the named VIPs, the settings for useNode (sysctl.go) and the end of the
// tunnel, and nothing else. It keeps the earlier values in a file under /run,
// which a reboot removes together with the kernel's settings.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// nodeNetwork is what the command asks of route netlink.
type nodeNetwork interface {
	addressTable
	tunnelNetwork
	DefaultDevice() (string, error)
}

// realserver is one run of the command.
type realserver struct {
	vips           []netip.Addr
	device, uplink string
	tunnel         tunnelOption
	proc           procSys
	statePath      string
	net            nodeNetwork
	state          realserverState
	stdout         io.Writer
	changes        int // lines printed for changes made
}

// realserverState is the state file.
type realserverState struct {
	// Addresses are the VIPs that the node was prepared for, without those undone.
	Addresses []VIPAddress `json:"addresses,omitempty"`
	// Sysctls are the settings of the uplink that were changed.
	Sysctls []savedSysctl `json:"sysctls,omitempty"`
	// Devices and Ports are the ends of tunnels.
	Devices []savedDevice `json:"devices,omitempty"`
	Ports   []savedPort   `json:"ports,omitempty"`
}

// savedSysctl is a setting before its first change and after.
type savedSysctl struct {
	Key    string `json:"key"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// runRealserver is `lvs-controller realserver`. It returns the exit code: 0,
// 1 for an error or (with -check) something missing, 2 for wrong usage.
func runRealserver(args []string, stdout, stderr io.Writer) int {
	return realserverMain(args, stdout, stderr, func() (nodeNetwork, error) {
		return openRtnl(context.Background())
	})
}

// realserverMain is runRealserver over any network.
func realserverMain(args []string, stdout, stderr io.Writer, open func() (nodeNetwork, error)) int {
	rs := realserver{stdout: stdout}
	flags := newFlags("lvs-controller realserver", stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, `usage: lvs-controller realserver -vip ADDR[,ADDR] [-remove | -check] [flags]

Prepares this node to serve VIPs in direct routing: each address on lo, and
ARP settings on the uplink so that only the director answers for it. With
-tunnel also this node's end of the tunnel that the director sends through.

`)
		flags.PrintDefaults()
	}
	vips := flags.String("vip", "", "virtual `addresses`, IPv4 or IPv6, separated by commas")
	flags.StringVar(&rs.device, "dev", "lo", "`device` that gets the addresses")
	flags.StringVar(&rs.uplink, "uplink", "", "`device` that answers ARP for this node (default: the default route's)")
	flags.StringVar(&rs.tunnel.name, "tunnel", "", "unpack what the director sends through a tunnel: `type` ipip, gue or gre")
	flags.UintVar(&rs.tunnel.port, "tunnel-port", 6080, "UDP `port` of gue")
	flags.BoolVar(&rs.tunnel.checksum, "tunnel-checksum", false, "the packets of gre have a checksum")
	remove := flags.Bool("remove", false, "undo: remove the addresses and, with the last one that needs them, the tunnel's end and the settings")
	check := flags.Bool("check", false, "change nothing; exit 1 when something is missing")
	flags.StringVar(&rs.proc.Root, "proc", "/proc/sys", "`directory` of the kernel settings")
	flags.StringVar(&rs.statePath, "state", "/run/lvs-controller/realserver.json", "`file` for the values that the settings had before")
	if code, done := parse(flags, args); done {
		return code
	}

	var err error
	switch rs.vips, err = parseVIPs(*vips); {
	case err != nil:
		err = fmt.Errorf("-vip: %w", err)
	case *remove && *check:
		err = errors.New("-remove and -check exclude each other")
	case rs.device == rs.uplink:
		err = errors.New("-dev must not be the uplink: the node would answer ARP for the VIP")
	default:
		err = rs.tunnel.validate()
	}
	if err != nil {
		fmt.Fprintln(stderr, "lvs-controller realserver:", err)
		flags.Usage()
		return exitUsage
	}

	complete := true
	if rs.net, err = open(); err == nil {
		defer rs.net.Close()
		err = rs.load()
		switch {
		case err != nil:
		case *remove:
			err = rs.undo()
		case *check:
			complete, err = rs.check()
		default:
			err = rs.prepare()
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "lvs-controller realserver:", err)
		if errors.Is(err, fs.ErrPermission) {
			fmt.Fprintln(stderr, "hint: run it as root")
		}
	}
	if err != nil || !complete {
		return exitFailure
	}
	return exitOK
}

// parseVIPs reads "10.0.0.1,2001:db8::1". Repeats are dropped.
func parseVIPs(s string) ([]netip.Addr, error) {
	if s == "" {
		return nil, errors.New("no address given")
	}
	var vips []netip.Addr
	for field := range strings.SplitSeq(s, ",") {
		addr, err := netip.ParseAddr(strings.TrimSpace(field))
		if err != nil {
			return nil, err
		}
		addr = addr.Unmap()
		if !addr.IsGlobalUnicast() || addr.Zone() != "" {
			return nil, fmt.Errorf("%s cannot be a virtual address: not a global unicast address", addr)
		}
		if !slices.Contains(vips, addr) {
			vips = append(vips, addr)
		}
	}
	return vips, nil
}

// sysctls are the settings the wanted VIPs need; none for IPv6 alone.
func (rs *realserver) sysctls() ([]Sysctl, error) {
	if !slices.ContainsFunc(rs.vips, netip.Addr.Is4) {
		return nil, nil
	}
	if rs.uplink == "" {
		var err error
		if rs.uplink, err = rs.net.DefaultDevice(); err != nil {
			return nil, err
		}
		if rs.uplink == rs.device {
			return nil, fmt.Errorf("%s has the default route: the node would answer ARP for an address there", rs.device)
		}
	}
	release, err := rs.proc.KernelRelease()
	return sysctlsFor(useNode, rs.uplink, release), err
}

// lack is what a device needs and does not have.
type lack struct {
	settings  []SysctlState
	addresses []VIPAddress
}

// lines describe what is missing, a line each.
func (l lack) lines() []string {
	var lines []string
	for _, s := range l.settings {
		lines = append(lines, fmt.Sprintf("%s is %s, want %s: %s", s.Key, s.Have, s.Want, s.Why))
	}
	for _, a := range l.addresses {
		lines = append(lines, fmt.Sprintf("%s is missing", a))
	}
	return lines
}

// lacking finds out what the node lacks: the settings of the uplink and the VIPs, and
// of each tunnel's end.
func (rs *realserver) lacking() (l lack, ends []tunnelEnd, err error) {
	table, err := rs.sysctls()
	if err != nil {
		return l, nil, err
	}
	if l.settings, err = rs.differing(table); err != nil {
		return l, nil, err
	}
	have, err := rs.net.List(rs.device)
	if err != nil {
		return l, nil, err
	}
	for _, addr := range rs.vips {
		if addressIn(have, addr) == nil {
			l.addresses = append(l.addresses, VIPAddress{Device: rs.device, Address: addr})
		}
	}
	ends, err = rs.tunnelEnds()
	return l, ends, err
}

// differing lists those settings of table that have another value.
func (rs *realserver) differing(table []Sysctl) ([]SysctlState, error) {
	var settings []SysctlState
	for _, s := range rs.proc.Check(table) {
		if s.Err != nil {
			return nil, s.Err
		}
		if !s.OK {
			settings = append(settings, s)
		}
	}
	return settings, nil
}

// check reports whether everything is in place and prints what is not.
func (rs *realserver) check() (bool, error) {
	l, ends, err := rs.lacking()
	if err != nil {
		return false, err
	}
	lines := l.lines()
	for _, e := range ends {
		lines = append(lines, e.lines()...)
	}
	if lines == nil {
		fmt.Fprintln(rs.stdout, "already in place")
		return true, nil
	}
	fmt.Fprintln(rs.stdout, strings.Join(lines, "\n"))
	return false, nil
}

// prepare makes the node a real server. The settings come first: without them the
// node answers ARP for a VIP on lo. The tunnel comes last: the node would forward
// a packet to a VIP that it does not have.
func (rs *realserver) prepare() error {
	l, ends, err := rs.lacking()
	if err != nil {
		return err
	}
	if err := rs.remember(l, ends); err != nil {
		return err
	}
	if err := rs.supply(l); err != nil {
		return err
	}
	for _, e := range ends {
		if err := e.make(rs); err != nil {
			return err
		}
	}
	if rs.changes == 0 {
		fmt.Fprintln(rs.stdout, "already in place")
		return nil
	}
	fmt.Fprintln(rs.stdout, "this lasts until the next boot: run the same command at every boot")
	return nil
}

// supply gives settings their wanted values and puts addresses on their device.
func (rs *realserver) supply(l lack) error {
	for _, s := range l.settings {
		if err := rs.proc.write(s.Key, s.Want); err != nil {
			return err
		}
		rs.changed("%s: %s -> %s: %s", s.Key, s.Have, s.Want, s.Why)
	}
	for _, a := range l.addresses {
		if _, err := rs.net.Add(a); err != nil {
			return err
		}
		rs.changed("added %s", a)
	}
	return nil
}

// take removes an address from its device, if it is there.
func (rs *realserver) take(v VIPAddress) error {
	removed, err := rs.net.Remove(v)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	if removed {
		rs.changed("removed %s", v)
	}
	return nil
}

// remember writes the state file before anything changes, so that an interrupted run
// can be undone.
func (rs *realserver) remember(l lack, ends []tunnelEnd) error {
	rs.state.Sysctls = saveFirst(rs.state.Sysctls, l.settings)
	for _, addr := range rs.vips {
		if v := (VIPAddress{Device: rs.device, Address: addr}); !slices.Contains(rs.state.Addresses, v) {
			rs.state.Addresses = append(rs.state.Addresses, v)
		}
	}
	for _, e := range ends {
		rs.rememberTunnel(e)
	}
	return rs.save()
}

// saveFirst adds settings that will change now. The value that a setting had first
// is not overwritten.
func saveFirst(saved []savedSysctl, settings []SysctlState) []savedSysctl {
	for _, s := range settings {
		if !slices.ContainsFunc(saved, func(o savedSysctl) bool { return o.Key == s.Key }) {
			saved = append(saved, savedSysctl{Key: s.Key, Before: s.Have, After: s.Want})
		}
	}
	return saved
}

// undo removes the VIPs and then what no other VIP of the state file needs: the ends
// of tunnels and, without an IPv4 VIP, the settings. It keeps this order, because a
// VIP on lo is never without the settings.
func (rs *realserver) undo() error {
	for _, addr := range rs.vips {
		if err := rs.take(VIPAddress{Device: rs.device, Address: addr}); err != nil {
			return err
		}
	}
	var err error
	if rs.state.Addresses, err = rs.remaining(rs.state.Addresses); err != nil {
		return err
	}
	if err := rs.undoTunnels(); err != nil {
		return err
	}
	if !slices.ContainsFunc(rs.state.Addresses, func(v VIPAddress) bool { return v.Address.Is4() }) {
		if err := rs.restore(rs.state.Sysctls); err != nil {
			return err
		}
		rs.state.Sysctls = nil
	}
	if rs.changes == 0 {
		fmt.Fprintln(rs.stdout, "nothing to undo")
	}
	return rs.save()
}

// remaining keeps those of prepared that are not being undone and are still
// on their device.
func (rs *realserver) remaining(prepared []VIPAddress) ([]VIPAddress, error) {
	var rest []VIPAddress
	for _, v := range prepared {
		if v.Device == rs.device && slices.Contains(rs.vips, v.Address) {
			continue
		}
		have, err := rs.net.List(v.Device)
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
		if addressIn(have, v.Address) != nil {
			rest = append(rest, v)
		}
	}
	return rest, nil
}

// restore puts settings back, without those that another program has changed since,
// and those of a device that is gone.
func (rs *realserver) restore(settings []savedSysctl) error {
	for _, s := range settings {
		have, err := rs.proc.read(s.Key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err == nil && have != s.After:
			fmt.Fprintf(rs.stdout, "%s left at %s: another program changed it\n", s.Key, have)
			continue
		case err == nil:
			err = rs.proc.write(s.Key, s.Before)
		}
		if err != nil {
			return err
		}
		rs.changed("%s: %s -> %s: as it was before", s.Key, s.After, s.Before)
	}
	return nil
}

// changed prints one change.
func (rs *realserver) changed(format string, args ...any) {
	rs.changes++
	fmt.Fprintf(rs.stdout, format+"\n", args...)
}

// load reads the state file; a missing one is empty.
func (rs *realserver) load() error {
	b, err := os.ReadFile(rs.statePath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(b, &rs.state); err != nil {
		return fmt.Errorf("read state %s: %w", rs.statePath, err)
	}
	return nil
}

// save replaces the state file, or removes it when there is nothing to undo.
func (rs *realserver) save() error {
	if s := &rs.state; len(s.Addresses)+len(s.Sysctls)+len(s.Devices)+len(s.Ports) == 0 {
		if err := os.Remove(rs.statePath); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove state: %w", err)
		}
		return nil
	}
	b, err := json.MarshalIndent(rs.state, "", " ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(rs.statePath), 0o755)
	}
	if err == nil {
		err = writeFileAtomic(rs.statePath, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	return nil
}
