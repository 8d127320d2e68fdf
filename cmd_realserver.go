// The sub-command realserver: prepares a Kubernetes node for direct routing or a
// tunnel, and undoes it.
//
// Used by main.go. A node serves a VIP when the address is local (on lo) and
// the node does not answer ARP for it (sysctls of the devices). The command
// changes the named VIPs, the settings for useNode (sysctl.go) and the end of the
// tunnel, and nothing else. It keeps the earlier values in a file under /run,
// which a reboot removes together with the kernel's settings.

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// nodeNetwork is what the command asks of route netlink.
type nodeNetwork interface {
	addressTable
	ARPDevices() ([]string, error)
	TunnelDevices(kind string) ([]tunnelDevice, error)
	MakeTunnelDevice(kind string, d tunnelDevice) error
	BringUp(device string) error
	SetIPv4Setting(device, name, value string) error
	RemoveDevice(device string) (bool, error)
	GUEPorts() ([]guePort, error)
	OpenGUE(guePort) error
	CloseGUE(guePort) (bool, error)
}

// realserver is one run of the command, or one pass of -watch.
type realserver struct {
	vips           []netip.Addr // all that are meant
	named          []netip.Addr // those of them that the command line names
	listed         []netip.Addr // those of them that the file lists
	file           string       // absolute path of the file with VIPs; "" = none
	owner          string       // whose VIPs those of the file are
	device, uplink string
	tunnel         string // ipip, gue or gre; "" = no tunnel
	port           uint   // of gue
	checksum       bool   // of gre
	proc           procSys
	net            nodeNetwork
	state          nodeState
	stdout         io.Writer
	wanted         []string     // what the VIPs need, as lack.about
	leaving        []VIPAddress // what the file listed before, and does not list now
	kept           []string     // a line for each of them that another owner needs
	lacks          []lack
	steps          []func() error // make what the node lacks, in this order
	changes        int            // lines printed for changes made
}

// lack is one thing that the node lacks.
type lack struct {
	kind  lackKind
	about string // the address, device or port that is not as it should be
	text  string // what is wrong with it, a line
}

// lackKind is what a VIP needs of a node.
type lackKind int

const (
	lackAddress lackKind = iota
	lackSetting
	lackTunnel
)

// lackKinds are their names in metrics.
var lackKinds = [...]string{lackAddress: "address", lackSetting: "setting", lackTunnel: "tunnel"}

var realserverCommand = command{
	name:    "realserver",
	summary: "prepare a node for the traffic of the director, or undo that",
	about: `Prepares this node to serve VIPs in direct routing: each address on lo, and
ARP settings on each device that may lead to clients, so that only the director
answers for it. With -tunnel also this node's end of the tunnel that the director
sends through. It lasts until the next boot. With -watch the command stays, repairs what
another program changes, and guards devices that come later. SIGTERM ends it and leaves
the node prepared.`,
	exits: map[int]string{exitFailure: "failure, or with -check something is missing"},
	examples: `lvs-controller realserver -vip 10.135.22.77
lvs-controller realserver -vip 10.135.22.77,2001:db8::77 -check
lvs-controller realserver -vip 10.135.22.77 -tunnel gue
lvs-controller realserver -vip 10.135.22.77 -remove
lvs-controller realserver -watch -vips-file /etc/lvs-controller/vips
lvs-controller realserver -remove -owner /etc/lvs-controller/vips`,
	values: map[string][]string{"tunnel": {"ipip", "gue", "gre"}, "log-format": {"text", "json", "journal"}, "log-level": {"debug", "info", "warn", "error"}},
	new: func() task {
		return &realserverTask{open: func() (nodeNetwork, error) { return openRtnl(context.Background()) }}
	},
}

// realserverTask is one call of `lvs-controller realserver`.
type realserverTask struct {
	realserver
	addresses            string
	remove, check, watch bool
	listen               string // address of the metrics; "" = none
	logging              logSettings
	open                 func() (nodeNetwork, error)
}

func (t *realserverTask) flags(flags *flag.FlagSet) {
	rs := &t.realserver
	flags.StringVar(&t.addresses, "vip", "", "virtual `addresses`, IPv4 or IPv6, separated by commas; needed without -vips-file")
	flags.StringVar(&rs.file, "vips-file", "", "`file` with virtual addresses, one a line, # begins a comment; the line none alone means no address; -watch follows its changes")
	flags.StringVar(&rs.owner, "owner", "", "the `name` under which the VIPs of the file are remembered (default: the path of the file); -remove needs no file with it")
	flags.StringVar(&rs.device, "dev", "lo", "`device` that gets the addresses")
	flags.StringVar(&rs.uplink, "uplink", "", "the only `device` that gets the ARP settings (default: the default route's and each other one that may lead to clients)")
	flags.StringVar(&rs.tunnel, "tunnel", "", "unpack what the director sends through a tunnel: `type` ipip, gue or gre")
	flags.UintVar(&rs.port, "tunnel-port", 6080, "UDP `port` of gue")
	flags.BoolVar(&rs.checksum, "tunnel-checksum", false, "the packets of gre have a checksum")
	flags.BoolVar(&t.remove, "remove", false, "undo: remove the addresses and, with the last one that needs them, the tunnel's end and the settings")
	flags.BoolVar(&t.check, "check", false, "change nothing; exit 1 when something is missing")
	flags.BoolVar(&t.watch, "watch", false, "stay and repair, until SIGTERM")
	flags.StringVar(&t.listen, "listen", "", "with -watch: `address` for /metrics, as 127.0.0.1:9653 (default none)")
	t.logging.flags(flags)
	flags.StringVar(&rs.proc.Root, "proc", "/proc/sys", "`directory` of the kernel settings")
	flags.StringVar(&rs.state.path, "state", realserverFile, "`file` for the values that the settings had before")
}

// misuse is what is wrong with the values of the flags.
func (t *realserverTask) misuse() (err error) {
	rs := &t.realserver
	if t.addresses != "" || rs.file == "" && (rs.owner == "" || !t.remove) {
		if rs.named, err = parseVIPs(t.addresses); err != nil {
			return fmt.Errorf("-vip: %w", err)
		}
	}
	switch {
	case t.remove && t.check:
		err = errors.New("-remove and -check exclude each other")
	case t.watch && (t.remove || t.check):
		err = errors.New("-watch excludes -remove and -check")
	case t.listen != "" && !t.watch:
		err = errors.New("-listen is for -watch")
	case rs.device == rs.uplink:
		err = errors.New("-dev must not be the uplink: the node would answer ARP for the VIP")
	case rs.owner != "" && !t.remove: // -remove takes any that is in the state
		err = rs.misusedOwner()
	}
	if err == nil {
		err = rs.misusedTunnel()
	}
	return err
}

// misusedOwner is what is wrong with -owner.
func (rs *realserver) misusedOwner() error {
	if rs.file == "" {
		return errors.New("-owner is for -vips-file or -remove")
	}
	if !isOwner(rs.owner) {
		return fmt.Errorf("-owner %q: want 1 to %d letters, digits and characters of %s", shorten(rs.owner, quotedText), ownerMost, ownerMarks)
	}
	return nil
}

// misusedTunnel is what is wrong with the flags of the tunnel.
func (rs *realserver) misusedTunnel() (err error) {
	switch {
	case !slices.Contains([]string{"", "ipip", "gue", "gre"}, rs.tunnel):
		err = fmt.Errorf("-tunnel %s: want ipip, gue or gre", rs.tunnel)
	case rs.port < 1 || rs.port > 65535:
		err = fmt.Errorf("-tunnel-port %d is outside 1 to 65535", rs.port)
	case rs.checksum && rs.tunnel != "gre":
		err = errors.New("-tunnel-checksum is for -tunnel gre; the others need no setting")
	}
	return err
}

// run prepares the node.
func (t *realserverTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	if err := t.misuse(); err != nil {
		return realserverCommand.misused(stderr, err)
	}
	if t.file != "" { // the state names it, whatever the working directory is
		path, err := filepath.Abs(t.file)
		if err != nil {
			return fail(stderr, "lvs-controller realserver:", err)
		}
		t.file = path
		t.owner = cmp.Or(t.owner, path)
	}
	if t.watch {
		return t.follow(ctx, stderr)
	}
	if err := t.read(stderr); err != nil {
		return fail(stderr, "lvs-controller realserver:", err)
	}
	t.stdout = stdout
	if err := t.realserver.run(t.open, t.remove, t.check); err != nil {
		fmt.Fprintln(stderr, "lvs-controller realserver:", err)
		if errors.Is(err, fs.ErrPermission) {
			fmt.Fprintln(stderr, "hint: run it as root")
		}
		return exitFailure
	}
	if t.check && len(t.lacks) > 0 {
		return exitFailure
	}
	return exitOK
}

// read reads the file. -remove needs none: the state has what the file listed last.
func (t *realserverTask) read(stderr io.Writer) (err error) {
	if t.file != "" {
		t.listed, err = readVIPs(t.file)
	}
	if err != nil && t.remove {
		fmt.Fprintf(stderr, "lvs-controller realserver: warning: %s; what it listed last is undone\n", report(err))
		err = nil
	}
	return err
}

// run does one of the command's three tasks.
func (rs *realserver) run(open func() (nodeNetwork, error), remove, check bool) (err error) {
	rs.vips = including(slices.Clone(rs.named), rs.listed...)
	if rs.net, err = open(); err != nil {
		return err
	}
	defer rs.net.Close()
	if check {
		return rs.look()
	}
	release, err := rs.lock()
	if err != nil {
		return err
	}
	defer release()
	if err := rs.load(); err != nil {
		return err
	}
	if remove {
		err = rs.remove()
		rs.printKept()
		if err == nil && rs.changes == 0 {
			fmt.Fprintln(rs.stdout, "nothing to undo")
		}
		return err
	}
	if err := rs.plan(); err != nil {
		return err
	}
	if err := rs.carryOut(); err != nil {
		return err
	}
	rs.printKept()
	if rs.changes == 0 {
		fmt.Fprintln(rs.stdout, "already in place")
		return nil
	}
	fmt.Fprintln(rs.stdout, "this lasts until the next boot: run the same command at every boot")
	return nil
}

// look prints what the node lacks, and changes nothing.
func (rs *realserver) look() error {
	if err := rs.load(); err != nil {
		return err
	}
	if err := rs.plan(); err != nil {
		return err
	}
	gone := rs.unneeded(rs.leaving)
	on, err := rs.present(gone)
	if err != nil {
		return err
	}
	for _, v := range gone {
		if on[v] {
			rs.lack(lackAddress, v.String(), "%s should be gone: it has left %s", v, rs.file)
		}
	}
	for _, l := range rs.lacks {
		fmt.Fprintln(rs.stdout, l.text)
	}
	if len(rs.lacks) == 0 {
		fmt.Fprintln(rs.stdout, "already in place")
	}
	return nil
}

// carryOut makes what plan has found, and then undoes the VIPs that have left the file
// and that no other owner and no command line needs.
func (rs *realserver) carryOut() error {
	// Before anything changes, so that an interrupted run can be undone. A VIP that leaves
	// is remembered until it has gone.
	listed := rs.state.Files[rs.owner]
	rs.state.list(rs.owner, including(slices.Clone(listed), rs.leaving...))
	if err := rs.save(); err != nil {
		return err
	}
	for _, step := range rs.steps {
		if err := step(); err != nil {
			return err
		}
	}
	if len(rs.leaving) == 0 {
		return nil
	}
	rs.state.list(rs.owner, listed)
	return rs.undo(rs.unneeded(rs.leaving))
}

// mostVIPs bounds the VIPs of a command line and those of a file. A pass looks at each.
const mostVIPs = 1024

// parseVIPs reads "10.0.0.1,2001:db8::1". Repeats are dropped.
func parseVIPs(s string) ([]netip.Addr, error) {
	if s == "" {
		return nil, errors.New("no address given")
	}
	var vips []netip.Addr
	for field := range strings.SplitSeq(s, ",") {
		addr, err := parseNodeVIP(strings.TrimSpace(field))
		if err != nil {
			return nil, err
		}
		if vips = including(vips, addr); len(vips) > mostVIPs {
			return nil, fmt.Errorf("more than %d addresses", mostVIPs)
		}
	}
	return vips, nil
}

// parseNodeVIP reads one address that a node can have for a director.
func parseNodeVIP(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return addr, err
	}
	addr = addr.Unmap()
	return addr, notVIP(addr)
}

// notVIP says why addr cannot be a VIP, nil if it can.
func notVIP(addr netip.Addr) error {
	if !addr.IsGlobalUnicast() || addr.Zone() != "" {
		return fmt.Errorf("%s cannot be a virtual address: not a global unicast address", addr)
	}
	return nil
}

// plan finds out what the node lacks, with the steps that make it, and notes in the
// state what they will change. The settings come first: without them the node answers
// ARP for a VIP on lo. The tunnel comes last: the node would forward a packet to a VIP
// that it does not have.
func (rs *realserver) plan() error {
	if err := rs.planDevices(); err != nil {
		return err
	}
	have, err := rs.net.List(rs.device)
	if err != nil {
		return err
	}
	rs.planAddresses(rs.device, have, rs.vips)
	rs.state.Addresses = including(rs.state.Addresses, rs.on(rs.named)...)
	if rs.file != "" {
		listed := rs.on(rs.listed)
		stays := vipSet(listed)
		rs.leaving = slices.DeleteFunc(rs.state.Files[rs.owner], func(v VIPAddress) bool { return stays[v] })
		rs.state.list(rs.owner, listed)
	}
	return rs.planTunnel()
}

// on are addresses on the device that gets them.
func (rs *realserver) on(addresses []netip.Addr) (all []VIPAddress) {
	for _, a := range addresses {
		all = append(all, VIPAddress{Device: rs.device, Address: a})
	}
	return all
}

// planDevices plans the settings that the VIPs need; none for IPv6 alone.
func (rs *realserver) planDevices() (err error) {
	if !slices.ContainsFunc(rs.vips, netip.Addr.Is4) {
		return nil
	}
	devices := []string{rs.uplink}
	if rs.uplink == "" {
		if devices, err = rs.net.ARPDevices(); err != nil {
			return err
		}
		if devices[0] == rs.device {
			return fmt.Errorf("%s has the default route: the node would answer ARP for an address there", rs.device)
		}
	}
	for _, device := range devices {
		settings, err := rs.differing(useNode, device)
		if err != nil {
			return err
		}
		if device != rs.device {
			rs.planSettings(lackSetting, device, settings, &rs.state.Sysctls)
		}
	}
	// A device that has gone needs no undoing, and there may be many with time.
	rs.state.Sysctls = slices.DeleteFunc(rs.state.Sysctls, func(s savedSysctl) bool {
		_, err := rs.proc.read(s.Key)
		return errors.Is(err, fs.ErrNotExist)
	})
	return nil
}

// differing lists those settings of a device that have another value.
func (rs *realserver) differing(use sysctlUse, device string) ([]SysctlState, error) {
	release, err := rs.proc.KernelRelease()
	if err != nil {
		return nil, err
	}
	states := rs.proc.Check(sysctlsFor(use, device, release))
	for _, s := range states {
		if s.Err != nil {
			return nil, s.Err
		}
	}
	return slices.DeleteFunc(states, func(s SysctlState) bool { return s.OK }), nil
}

// planSettings plans a change of settings of a device. It adds them to saved; the value
// that a setting had first is not overwritten.
func (rs *realserver) planSettings(kind lackKind, device string, settings []SysctlState, saved *[]savedSysctl) {
	rs.wanted = append(rs.wanted, device)
	for _, s := range settings {
		rs.lack(kind, device, "%s is %s, want %s: %s", s.Key, s.Have, s.Want, s.Why)
		if !slices.ContainsFunc(*saved, func(o savedSysctl) bool { return o.Key == s.Key }) {
			*saved = append(*saved, savedSysctl{Key: s.Key, Before: s.Have, After: s.Want})
		}
	}
	if len(settings) > 0 {
		rs.step(func() error { return rs.set(settings, nil) })
	}
}

// planAddresses plans those of vips that a device does not have.
func (rs *realserver) planAddresses(device string, have []deviceAddress, vips []netip.Addr) {
	on := make(map[netip.Addr]bool, len(have))
	for _, h := range have {
		on[h.Address] = true
	}
	for _, a := range vips {
		v := VIPAddress{Device: device, Address: a}
		rs.wanted = append(rs.wanted, v.String())
		if on[a] {
			continue
		}
		kind := lackAddress
		if device != rs.device {
			kind = lackTunnel
		}
		rs.lack(kind, v.String(), "%s is missing", v)
		rs.step(func() error {
			_, err := rs.net.Add(v)
			return rs.changed(err, "added %s", v)
		})
	}
}

// lack notes one thing that the node lacks.
func (rs *realserver) lack(kind lackKind, about, format string, args ...any) {
	rs.lacks = append(rs.lacks, lack{kind, about, fmt.Sprintf(format, args...)})
}

// step notes what makes it.
func (rs *realserver) step(do func() error) { rs.steps = append(rs.steps, do) }

// set gives settings that were read without an error their wanted values.
func (rs *realserver) set(settings []SysctlState, err error) error {
	for _, s := range settings {
		if err == nil {
			err = rs.changed(rs.write(s.Key, s.Want), "%s: %s -> %s: %s", s.Key, s.Have, s.Want, s.Why)
		}
	}
	return err
}

// write gives a device's setting a value. Where /proc/sys may not be written to, as in
// a container that has CAP_NET_ADMIN and is not privileged, rtnetlink does the same.
func (rs *realserver) write(key, value string) error {
	err := rs.proc.write(key, value)
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return rs.net.SetIPv4Setting(path.Base(path.Dir(key)), path.Base(key), value)
	}
	return err
}

// changed prints one change, unless it failed.
func (rs *realserver) changed(err error, format string, args ...any) error {
	if err == nil {
		rs.changes++
		fmt.Fprintf(rs.stdout, format+"\n", args...)
	}
	return err
}
