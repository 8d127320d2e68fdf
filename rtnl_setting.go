// IPv4 settings of devices over rtnetlink, for a process that may not write to
// /proc/sys.
//
// Used by cmd_realserver.go, by the interface nodeNetwork. It only sets: a container can
// read /proc/sys. The settings of "all" are of no device, and cannot be set so.

package main

import (
	"fmt"
	"strconv"

	"github.com/jsimonetti/rtnetlink/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ipv4Settings are the numbers of settings (include/uapi/linux/ip.h).
var ipv4Settings = map[string]uint16{
	"rp_filter":    8,  // IPV4_DEVCONF_RP_FILTER
	"arp_announce": 18, // IPV4_DEVCONF_ARP_ANNOUNCE
	"arp_ignore":   19, // IPV4_DEVCONF_ARP_IGNORE
}

// inetConf is IFLA_INET_CONF (include/uapi/linux/if_link.h), nested: settings of 32 bits by
// their numbers.
const inetConf = 1

// settingMessage adds to rtnetlink's message one setting of the device.
type settingMessage struct {
	rtnetlink.LinkMessage
	number uint16
	value  uint32
}

// MarshalBinary implements encoding.BinaryMarshaler for rtnetlink.
func (m *settingMessage) MarshalBinary() ([]byte, error) {
	b, err := m.LinkMessage.MarshalBinary()
	if err != nil {
		return nil, err
	}
	attributes := netlink.NewAttributeEncoder()
	attributes.Nested(unix.IFLA_AF_SPEC, func(families *netlink.AttributeEncoder) error {
		families.Nested(unix.AF_INET, func(inet *netlink.AttributeEncoder) error {
			inet.Nested(inetConf, func(settings *netlink.AttributeEncoder) error {
				settings.Uint32(m.number, m.value)
				return nil
			})
			return nil
		})
		return nil
	})
	extra, err := attributes.Encode()
	return append(b, extra...), err
}

// SetIPv4Setting sets net/ipv4/conf/DEVICE/NAME, a whole number, in the network namespace
// of the connection. The kernel wants CAP_NET_ADMIN there.
func (r *rtnl) SetIPv4Setting(device, name, value string) error {
	number, known := ipv4Settings[name]
	n, err := strconv.ParseInt(value, 10, 32)
	if err == nil && !known {
		err = unix.EOPNOTSUPP
	}
	if err == nil {
		ifi, findErr := deviceByName(device)
		if err = findErr; err == nil {
			m := settingMessage{rtnetlink.LinkMessage{Index: uint32(ifi.Index)}, number, uint32(n)}
			_, err = r.conn.Execute(&m, unix.RTM_SETLINK, netlink.Request|netlink.Acknowledge)
		}
	}
	return wrap(fmt.Sprintf("set %s of device %s to %s over rtnetlink", name, device, value), err)
}
