// Devices that receive a tunnel's packets.
//
// Used by cmd*.go. The sub-command realserver calls it by the interface
// nodeNetwork. Devices are made by name; a device that exists is not changed.

package main

import (
	"encoding/binary"
	"fmt"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tunnelDevice is a device that receives a tunnel's packets.
type tunnelDevice struct {
	Name string
	Up   bool
	// Metadata devices receive the packets of every sender for which there is no
	// other device. A network namespace has at most one of each kind.
	Metadata bool
	// Checksum devices receive only packets with a checksum, the others only those
	// without. GRE only.
	Checksum bool
}

// decode reads the attributes of a device's kind.
func (d *tunnelDevice) decode(kind string, data []byte) error {
	attributes, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return err
	}
	attributes.ByteOrder = binary.BigEndian
	for attributes.Next() {
		switch attributes.Type() {
		case greInFlags:
			d.Checksum = isGRE(kind) && attributes.Uint16()&greChecksum != 0
		case collectMetadata(kind):
			d.Metadata = true
		}
	}
	return attributes.Err()
}

// encode writes what decode reads.
func (d tunnelDevice) encode(kind string) ([]byte, error) {
	attributes := netlink.NewAttributeEncoder()
	attributes.ByteOrder = binary.BigEndian
	if isGRE(kind) && d.Checksum {
		attributes.Uint16(greInFlags, greChecksum)
	}
	attributes.Flag(collectMetadata(kind), d.Metadata)
	return attributes.Encode()
}

// Attributes of a tunnel device (include/uapi/linux/if_tunnel.h). The kinds
// ipip and ip6tnl number theirs alike, gre and ip6gre too.
const (
	iptunCollectMetadata = 19     // IFLA_IPTUN_COLLECT_METADATA, flag
	greInFlags           = 2      // IFLA_GRE_IFLAGS, be16
	greCollectMetadata   = 18     // IFLA_GRE_COLLECT_METADATA, flag
	greChecksum          = 0x8000 // GRE_CSUM
)

func isGRE(kind string) bool { return kind == "gre" || kind == "ip6gre" }

func collectMetadata(kind string) uint16 {
	if isGRE(kind) {
		return greCollectMetadata
	}
	return iptunCollectMetadata
}

// TunnelDevices lists the devices of one kind.
func (r *rtnl) TunnelDevices(kind string) ([]tunnelDevice, error) {
	links, err := r.linksLike(kind+" devices", &rtnetlink.LinkMessage{
		Attributes: &rtnetlink.LinkAttributes{Info: &rtnetlink.LinkInfo{Kind: kind}},
	})
	if err != nil {
		return nil, err
	}
	var found []tunnelDevice
	for i := range links {
		a := links[i].Attributes
		// A kernel that has not loaded the kind yet lists every device.
		if a == nil || a.Info == nil || a.Info.Kind != kind {
			continue
		}
		d := tunnelDevice{Name: a.Name, Up: links[i].Flags&unix.IFF_UP != 0}
		if data, ok := a.Info.Data.(*rtnetlink.LinkData); ok {
			if err := d.decode(kind, data.Data); err != nil {
				return nil, fmt.Errorf("device %s: %w", d.Name, err)
			}
		}
		found = append(found, d)
	}
	return found, nil
}

// MakeTunnelDevice makes d, which is down. The kernel loads the module of its
// kind.
func (r *rtnl) MakeTunnelDevice(kind string, d tunnelDevice) error {
	data, err := d.encode(kind)
	if err == nil {
		err = r.conn.Link.New(&rtnetlink.LinkMessage{Attributes: &rtnetlink.LinkAttributes{
			Name: d.Name,
			Info: &rtnetlink.LinkInfo{Kind: kind, Data: &rtnetlink.LinkData{Name: kind, Data: data}},
		}})
	}
	return wrap("make "+kind+" device "+d.Name, err)
}
