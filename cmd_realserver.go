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
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
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
	RemoveDevice(device string) (bool, error)
	GUEPorts() ([]guePort, error)
	OpenGUE(guePort) error
	CloseGUE(guePort) (bool, error)
}

// realserver is one run of the command.
type realserver struct {
	vips           []netip.Addr
	device, uplink string
	tunnel         string // ipip, gue or gre; "" = no tunnel
	port           uint   // of gue
	checksum       bool   // of gre
	proc           procSys
	statePath      string
	net            nodeNetwork
	state          realserverState
	stdout         io.Writer
	lacks          []string       // what the node lacks, a line each
	steps          []func() error // make it, in this order
	changes        int            // lines printed for changes made
}

// realserverState is the state file.
type realserverState struct {
	// Addresses are the VIPs that the node was prepared for, without those undone.
	Addresses []VIPAddress `json:"addresses,omitempty"`
	// Sysctls are the settings of the devices that were changed.
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

var realserverCommand = command{
	name:    "realserver",
	summary: "prepare a node for the traffic of the director, or undo that",
	about: `Prepares this node to serve VIPs in direct routing: each address on lo, and
ARP settings on each device that may lead to clients, so that only the director
answers for it. With -tunnel also this node's end of the tunnel that the director
sends through. It lasts until the next boot.`,
	exits: map[int]string{exitFailure: "failure, or with -check something is missing"},
	examples: `lvs-controller realserver -vip 10.135.22.77
lvs-controller realserver -vip 10.135.22.77,2001:db8::77 -check
lvs-controller realserver -vip 10.135.22.77 -tunnel gue
lvs-controller realserver -vip 10.135.22.77 -remove`,
	values: map[string][]string{"tunnel": {"ipip", "gue", "gre"}},
	new: func() task {
		return &realserverTask{open: func() (nodeNetwork, error) { return openRtnl(context.Background()) }}
	},
}

// realserverTask is one call of `lvs-controller realserver`.
type realserverTask struct {
	realserver
	addresses     string
	remove, check bool
	open          func() (nodeNetwork, error)
}

func (t *realserverTask) flags(flags *flag.FlagSet) {
	rs := &t.realserver
	flags.StringVar(&t.addresses, "vip", "", "virtual `addresses`, IPv4 or IPv6, separated by commas; needed")
	flags.StringVar(&rs.device, "dev", "lo", "`device` that gets the addresses")
	flags.StringVar(&rs.uplink, "uplink", "", "the only `device` that gets the ARP settings (default: the default route's and each other one that may lead to clients)")
	flags.StringVar(&rs.tunnel, "tunnel", "", "unpack what the director sends through a tunnel: `type` ipip, gue or gre")
	flags.UintVar(&rs.port, "tunnel-port", 6080, "UDP `port` of gue")
	flags.BoolVar(&rs.checksum, "tunnel-checksum", false, "the packets of gre have a checksum")
	flags.BoolVar(&t.remove, "remove", false, "undo: remove the addresses and, with the last one that needs them, the tunnel's end and the settings")
	flags.BoolVar(&t.check, "check", false, "change nothing; exit 1 when something is missing")
	flags.StringVar(&rs.proc.Root, "proc", "/proc/sys", "`directory` of the kernel settings")
	flags.StringVar(&rs.statePath, "state", "/run/lvs-controller/realserver.json", "`file` for the values that the settings had before")
}

// misuse is what is wrong with the values of the flags.
func (t *realserverTask) misuse() (err error) {
	rs := &t.realserver
	switch rs.vips, err = parseVIPs(t.addresses); {
	case err != nil:
		err = fmt.Errorf("-vip: %w", err)
	case t.remove && t.check:
		err = errors.New("-remove and -check exclude each other")
	case rs.device == rs.uplink:
		err = errors.New("-dev must not be the uplink: the node would answer ARP for the VIP")
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
func (t *realserverTask) run(_ context.Context, stdout, stderr io.Writer) int {
	if err := t.misuse(); err != nil {
		return realserverCommand.misused(stderr, err)
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

// run does one of the command's three tasks.
func (rs *realserver) run(open func() (nodeNetwork, error), remove, check bool) (err error) {
	if rs.net, err = open(); err != nil {
		return err
	}
	defer rs.net.Close()
	if err := rs.load(); err != nil {
		return err
	}
	if remove {
		return rs.undo()
	}
	if err := rs.plan(); err != nil {
		return err
	}
	if !check { // before anything changes, so that an interrupted run can be undone
		if err := rs.save(); err != nil {
			return err
		}
	}
	switch {
	case len(rs.lacks) == 0:
		fmt.Fprintln(rs.stdout, "already in place")
		return nil
	case check:
		fmt.Fprintln(rs.stdout, strings.Join(rs.lacks, "\n"))
		return nil
	}
	for _, step := range rs.steps {
		if err := step(); err != nil {
			return err
		}
	}
	fmt.Fprintln(rs.stdout, "this lasts until the next boot: run the same command at every boot")
	return nil
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
		vips = including(vips, addr)
	}
	return vips, nil
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
	for _, a := range rs.vips {
		rs.state.Addresses = including(rs.state.Addresses, VIPAddress{Device: rs.device, Address: a})
	}
	return rs.planTunnel()
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
			rs.planSettings(settings, &rs.state.Sysctls)
		}
	}
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

// planSettings plans a change of settings. It adds them to saved; the value that a
// setting had first is not overwritten.
func (rs *realserver) planSettings(settings []SysctlState, saved *[]savedSysctl) {
	for _, s := range settings {
		rs.lack("%s is %s, want %s: %s", s.Key, s.Have, s.Want, s.Why)
		if !slices.ContainsFunc(*saved, func(o savedSysctl) bool { return o.Key == s.Key }) {
			*saved = append(*saved, savedSysctl{Key: s.Key, Before: s.Have, After: s.Want})
		}
	}
	rs.step(func() error { return rs.set(settings, nil) })
}

// planAddresses plans those of vips that a device does not have.
func (rs *realserver) planAddresses(device string, have []deviceAddress, vips []netip.Addr) {
	for _, a := range vips {
		if addressIn(have, a) != nil {
			continue
		}
		v := VIPAddress{Device: device, Address: a}
		rs.lack("%s is missing", v)
		rs.step(func() error {
			_, err := rs.net.Add(v)
			return rs.changed(err, "added %s", v)
		})
	}
}

// lack notes one line of what the node lacks.
func (rs *realserver) lack(format string, args ...any) {
	rs.lacks = append(rs.lacks, fmt.Sprintf(format, args...))
}

// step notes what makes it.
func (rs *realserver) step(do func() error) { rs.steps = append(rs.steps, do) }

// set gives settings that were read without an error their wanted values.
func (rs *realserver) set(settings []SysctlState, err error) error {
	for _, s := range settings {
		if err == nil {
			err = rs.changed(rs.proc.write(s.Key, s.Want), "%s: %s -> %s: %s", s.Key, s.Have, s.Want, s.Why)
		}
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

// take removes an address from its device, if it is there.
func (rs *realserver) take(v VIPAddress) error {
	removed, err := rs.net.Remove(v)
	if removed {
		return rs.changed(err, "removed %s", v)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// undo removes the VIPs and then what no other VIP of the state file needs: the ends
// of tunnels and, without an IPv4 VIP, the settings. It keeps this order, because a
// VIP on lo is never without the settings.
func (rs *realserver) undo() (err error) {
	for _, addr := range rs.vips {
		if err := rs.take(VIPAddress{Device: rs.device, Address: addr}); err != nil {
			return err
		}
	}
	if rs.state.Addresses, err = rs.remaining(); err != nil {
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

// remaining are the VIPs of the state file that are not being undone and are still on
// their device.
func (rs *realserver) remaining() (rest []VIPAddress, err error) {
	for _, v := range rs.state.Addresses {
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
		if err := rs.changed(err, "%s: %s -> %s: as it was before", s.Key, s.After, s.Before); err != nil {
			return err
		}
	}
	return nil
}

// load reads the state file; a missing one is empty.
func (rs *realserver) load() error {
	b, err := readRegular(rs.statePath, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	rs.state, err = decodeRealserverState(b)
	return wrap("read state "+rs.statePath, err)
}

// decodeRealserverState reads what save writes. It refuses a setting that the command
// does not change, because undo would write to it.
func decodeRealserverState(b []byte) (s realserverState, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return s, err
	}
	settings := slices.Clone(s.Sysctls)
	for _, d := range s.Devices {
		settings = append(settings, d.Sysctls...)
	}
	for _, o := range settings {
		if o.Key != confKey(path.Base(path.Dir(o.Key)), path.Base(o.Key)) {
			return s, fmt.Errorf("%q is not a setting that this command changes", shorten(o.Key, quotedText))
		}
	}
	return s, nil
}

// save replaces the state file, or removes it when there is nothing to undo.
func (rs *realserver) save() error {
	if s := &rs.state; len(s.Addresses)+len(s.Sysctls)+len(s.Devices)+len(s.Ports) == 0 {
		return wrap("remove state", removeFile(rs.statePath))
	}
	b, err := json.MarshalIndent(rs.state, "", " ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(rs.statePath), 0o755)
	}
	if err == nil {
		err = writeFileAtomic(rs.statePath, append(b, '\n'), 0o600)
	}
	return wrap("save state", err)
}
