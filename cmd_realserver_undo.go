// What realserver undoes: VIPs that have left their file, and what -remove names.
//
// Used by cmd*.go. A VIP stays while another owner or a command line needs it. The settings and
// the tunnel's ends stay while a VIP needs them.

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// remove undoes the VIPs of the command line, and those of the owner that no other owner
// needs: what the file lists, and what it listed last.
func (rs *realserver) remove() error {
	owned := including(rs.on(rs.listed), rs.state.Files[rs.owner]...)
	rs.state.list(rs.owner, nil)
	return rs.undo(including(rs.on(rs.named), rs.unneeded(owned)...))
}

// unneeded are those of an owner's VIPs that no other owner and no command line needs. It
// says in kept which one needs the others.
func (rs *realserver) unneeded(vips []VIPAddress) (gone []VIPAddress) {
	needs := rs.state.needs(rs.owner)
	for _, v := range vips {
		if by, needed := needs[v]; needed {
			rs.kept = append(rs.kept, fmt.Sprintf("%s stays: %s needs it", v, by))
			continue
		}
		gone = append(gone, v)
	}
	return gone
}

// printKept prints which VIPs stay for another owner.
func (rs *realserver) printKept() {
	for _, line := range rs.kept {
		fmt.Fprintln(rs.stdout, line)
	}
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

// undo removes VIPs, and then what no other VIP of the state file needs: the ends
// of tunnels and, without an IPv4 VIP, the settings. It keeps this order, because a
// VIP on lo is never without the settings.
func (rs *realserver) undo(vips []VIPAddress) error {
	on, err := rs.present(slices.Concat(vips, rs.state.prepared()))
	if err != nil {
		return err
	}
	for _, v := range vips {
		if !on[v] {
			continue
		}
		if err := rs.take(v); err != nil {
			return err
		}
	}
	undone := vipSet(vips)
	rs.state.keep(func(v VIPAddress) bool { return on[v] && !undone[v] })
	if err := rs.undoTunnels(); err != nil {
		return err
	}
	if !slices.ContainsFunc(rs.state.prepared(), func(v VIPAddress) bool { return v.Address.Is4() }) {
		if err := rs.restore(rs.state.Sysctls); err != nil {
			return err
		}
		rs.state.Sysctls = nil
	}
	return rs.save()
}

// vipSet is the set of vips.
func vipSet(vips []VIPAddress) map[VIPAddress]bool {
	set := make(map[VIPAddress]bool, len(vips))
	for _, v := range vips {
		set[v] = true
	}
	return set
}

// present is the set of all addresses of the devices of vips. Each device is listed once.
func (rs *realserver) present(vips []VIPAddress) (map[VIPAddress]bool, error) {
	on, listed := make(map[VIPAddress]bool), make(map[string]bool)
	for _, v := range vips {
		if listed[v.Device] {
			continue
		}
		listed[v.Device] = true
		have, err := rs.net.List(v.Device)
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
		for _, h := range have {
			on[VIPAddress{v.Device, h.Address}] = true
		}
	}
	return on, nil
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
			err = rs.write(s.Key, s.Before)
		}
		if err := rs.changed(err, "%s: %s -> %s: as it was before", s.Key, s.After, s.Before); err != nil {
			return err
		}
	}
	return nil
}
