// The rtnetlink socket, devices and the default route.
//
// Used by genl*.go, conflict*.go, health*.go, host*.go, http_vips.go and cmd*.go.
// Devices are brought up and removed one at a time, by name. Routes are only read
// here. kernelEvents waits for what the kernel reports.

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// rtnl is a short-lived route netlink connection in the network namespace of
// the thread that opened it.
type rtnl struct {
	conn  *rtnetlink.Conn
	dumps dumpConn       // for lists
	found *net.Interface // by device, last
}

// rtnlTimeout bounds everything done over one connection. A dump of a
// full routing table takes longest, about a second.
const rtnlTimeout = 5 * time.Second

// openRtnl connects. The connection can be used for rtnlTimeout, or until ctx's
// deadline if that is sooner.
func openRtnl(ctx context.Context) (*rtnl, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	conn, err := rtnetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	deadline := time.Now().Add(rtnlTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := errors.Join(
		conn.SetOption(netlink.ExtendedAcknowledge, true),
		conn.SetReadDeadline(deadline),
	); err != nil {
		conn.Close()
		return nil, fmt.Errorf("set up route netlink: %w", err)
	}
	dumps, err := openDumps(unix.NETLINK_ROUTE, deadline)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open route netlink: %w", err)
	}
	return &rtnl{conn: conn, dumps: dumps}, nil
}

func (r *rtnl) Close() error { return errors.Join(r.conn.Close(), r.dumps.Close()) }

// DefaultDevice returns the device of the default route in the main table:
// IPv4's with the lowest metric, or IPv6's where there is no IPv4.
func (r *rtnl) DefaultDevice() (string, error) {
	var routes []rtnetlink.RouteMessage
	err := r.eachRoute(&rtnetlink.RouteMessage{}, func(m *rtnetlink.RouteMessage) {
		if m.DstLength == 0 {
			routes = append(routes, *m)
		}
	})
	if err != nil {
		return "", err
	}
	index := cmp.Or(defaultRouteDevice(routes, unix.AF_INET), defaultRouteDevice(routes, unix.AF_INET6))
	if index == 0 {
		return "", errors.New("there is no default route, so the uplink is not known: name the device")
	}
	device, err := deviceByIndex(index)
	if err != nil {
		return "", fmt.Errorf("the default route: %w", err)
	}
	return device.Name, nil
}

// defaultRouteDevice picks the index of family's default device, 0 for none.
// Of several next hops the first counts.
func defaultRouteDevice(routes []rtnetlink.RouteMessage, family uint8) int {
	index, metric := 0, uint32(0)
	for i := range routes {
		m := &routes[i]
		if m.Family != family || m.DstLength != 0 || m.Table != unix.RT_TABLE_MAIN ||
			m.Type != unix.RTN_UNICAST || m.Flags&unix.RTNH_F_DEAD != 0 {
			continue
		}
		out := int(m.Attributes.OutIface)
		if out == 0 && len(m.Attributes.Multipath) > 0 {
			out = int(m.Attributes.Multipath[0].Hop.IfIndex)
		}
		if out != 0 && (index == 0 || m.Attributes.Priority < metric) {
			index, metric = out, m.Attributes.Priority
		}
	}
	return index
}

// ARPDevices names the devices on which this host answers ARP for hosts of other
// segments: the default route's first, then those that isARPDevice accepts, in the
// order of the kernel.
func (r *rtnl) ARPDevices() ([]string, error) {
	links, err := r.links()
	if err != nil {
		return nil, err
	}
	addresses, err := r.addresses()
	if err != nil {
		return nil, err
	}
	inSubnet := make(map[uint32]bool) // a device with an address that others share a subnet with
	for i := range addresses {
		m := &addresses[i]
		if m.Family == unix.AF_INET && m.PrefixLength < 32 && m.Scope == unix.RT_SCOPE_UNIVERSE {
			inSubnet[m.Index] = true
		}
	}
	var names []string
	first, err := r.DefaultDevice()
	if err == nil {
		names = append(names, first)
	}
	for i := range links {
		if m := &links[i]; isARPDevice(m, inSubnet[m.Index]) && m.Attributes.Name != first {
			names = append(names, m.Attributes.Name)
		}
	}
	if len(names) == 0 {
		return nil, err
	}
	return names, nil
}

// containerDevices are the beginnings of the names of devices that lead to containers
// and virtual machines of this host. Network plug-ins give them a subnet too.
var containerDevices = []string{"antrea-gw", "cbr", "cilium", "cni", "docker", "flannel", "incusbr", "kube-bridge",
	"lxcbr", "lxdbr", "ovn-k8s", "podman", "virbr", "weave"}

// isARPDevice reports whether a device may lead to clients that ask by ARP: it is up
// and asks by ARP itself, no bridge or bond takes its packets, and it has an address in
// a subnet or is of a kind that needs none to answer, such as a network card. A veth
// without a subnet is left out, because containers ask there for addresses that are on
// other devices.
func isARPDevice(m *rtnetlink.LinkMessage, inSubnet bool) bool {
	const no = unix.IFF_LOOPBACK | unix.IFF_NOARP | unix.IFF_POINTOPOINT
	a := m.Attributes
	if a == nil || m.Flags&unix.IFF_UP == 0 || m.Flags&no != 0 {
		return false
	}
	kind, slave := "", ""
	if a.Info != nil {
		kind, slave = a.Info.Kind, a.Info.SlaveKind
	}
	if a.Master != nil && slave != "vrf" ||
		slices.ContainsFunc(containerDevices, func(p string) bool { return strings.HasPrefix(a.Name, p) }) {
		return false
	}
	return inSubnet || slices.Contains([]string{"", "bond", "team", "vlan", "bridge", "macvlan"}, kind)
}

// device is deviceByName that looks once for a device that is asked for again and again in
// the short life of r.
func (r *rtnl) device(name string) (ifi *net.Interface, err error) {
	if r.found == nil || r.found.Name != name {
		if ifi, err = deviceByName(name); err != nil {
			return nil, err
		}
		r.found = ifi
	}
	return r.found, nil
}

// deviceByName is net.InterfaceByName with an error that can be recognised.
func deviceByName(name string) (*net.Interface, error) {
	return findDevice(name, func(d *net.Interface) bool { return d.Name == name })
}

// deviceByIndex is net.InterfaceByIndex with an error that can be recognised.
func deviceByIndex(index int) (*net.Interface, error) {
	return findDevice(strconv.Itoa(index), func(d *net.Interface) bool { return d.Index == index })
}

func findDevice(name string, is func(*net.Interface) bool) (*net.Interface, error) {
	all, err := netDevices()
	if err != nil {
		return nil, err
	}
	for i := range all {
		if is(&all[i]) {
			return &all[i], nil
		}
	}
	return nil, fmt.Errorf("device %s: %w", name, unix.ENODEV)
}

// change sends one message that adds or removes something, and reports whether that
// changed anything. unchanged is the kernel's errno for "no".
func (r *rtnl) change(what string, m rtnetlink.Message, messageType uint16, flags netlink.HeaderFlags, unchanged unix.Errno) (bool, error) {
	_, err := r.conn.Execute(m, messageType, netlink.Request|netlink.Acknowledge|flags)
	if errors.Is(err, unchanged) {
		return false, nil
	}
	return err == nil, wrap(what, err)
}

// BringUp sets a device up.
func (r *rtnl) BringUp(device string) error {
	ifi, err := deviceByName(device)
	if err == nil {
		err = r.conn.Link.Set(&rtnetlink.LinkMessage{Index: uint32(ifi.Index), Flags: unix.IFF_UP, Change: unix.IFF_UP})
	}
	return wrap("bring up "+device, err)
}

// RemoveDevice removes a device and reports whether there was one.
func (r *rtnl) RemoveDevice(device string) (bool, error) {
	ifi, err := deviceByName(device)
	if err == nil {
		err = r.conn.Link.Delete(uint32(ifi.Index))
	}
	if errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, wrap("remove device "+device, err)
}

// kernelEvents returns a channel that rings after the kernel has sent an event to
// groups of rtnetlink, once for several events that come together. It is closed some
// time after ctx has ended. An error means that there is no socket for events. It
// belongs to the network namespace of the calling thread.
func kernelEvents(ctx context.Context, groups uint32) (<-chan struct{}, error) {
	return kernelEventsOf(ctx, unix.NETLINK_ROUTE, groups, func(netlink.Message) bool { return true })
}

// deviceEvents is kernelEvents for devices, their addresses, and the default route, which
// says which device leads to clients. Events about other routes do not ring: a routing daemon
// may cause many.
func deviceEvents(ctx context.Context) (<-chan struct{}, error) {
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	return kernelEventsOf(ctx, unix.NETLINK_ROUTE, groups, func(m netlink.Message) bool {
		route := m.Header.Type == unix.RTM_NEWROUTE || m.Header.Type == unix.RTM_DELROUTE
		return !route || len(m.Data) > 1 && m.Data[1] == 0 // rtm_dst_len
	})
}

// named accepts events that have the attribute name in them.
func named(name string) func(netlink.Message) bool {
	value := append([]byte(name), 0)
	return func(m netlink.Message) bool { return bytes.Contains(m.Data, value) }
}

// kernelEventsOf is kernelEvents for the events of a netlink family that matter, and
// for lost ones.
func kernelEventsOf(ctx context.Context, family int, groups uint32, matters func(netlink.Message) bool) (<-chan struct{}, error) {
	events, err := netlink.Dial(family, &netlink.Config{Groups: groups})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { events.Close() })
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		for {
			all, err := events.Receive()
			if ctx.Err() != nil {
				return
			}
			if err != nil || slices.ContainsFunc(all, matters) {
				ring(changed)
			}
			if err != nil { // ENOBUFS: there were too many to read
				sleepContext(ctx, time.Second)
			}
		}
	}()
	return changed, nil
}

// errnoOf is the kernel's error number in err, nil if there is none.
func errnoOf(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return nil
}
