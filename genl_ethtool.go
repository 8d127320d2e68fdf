// What a network device says of itself over ethtool's generic netlink: features such as
// LRO, ring sizes and channels.
//
// Used by cmd*.go. It only reads, and needs no rights. Linux has it since 5.6. A driver
// need not answer each question.

package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ethtoolPatience bounds what is asked of one device.
const ethtoolPatience = 2 * time.Second

// deviceFacts is what a device says. A driver that does not know a number leaves it 0.
type deviceFacts struct {
	On        map[string]bool // features, by the kernel's names
	RX, RXMax uint32          // packets in each receive ring, and the most that there can be
	// ChannelsMax are the most queue pairs, or receive queues where the device does not
	// pair them.
	ChannelsMax uint32
	Combined    bool // queue pairs
}

// errNoEthtool means that the kernel is too old.
var errNoEthtool = errors.New("this kernel has no ethtool netlink (Linux 5.6 has it)")

// ethtoolConn asks the devices of the network namespace that it was dialled in.
type ethtoolConn struct {
	conn   *genetlink.Conn
	family uint16
}

func dialEthtool() (*ethtoolConn, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open a generic netlink socket: %w", err)
	}
	err = conn.SetDeadline(time.Now().Add(ethtoolPatience))
	var family genetlink.Family
	if err == nil {
		family, err = conn.GetFamily(unix.ETHTOOL_GENL_NAME)
	}
	if err != nil {
		conn.Close()
		if errors.Is(err, os.ErrNotExist) {
			return nil, errNoEthtool
		}
		return nil, fmt.Errorf("look up the ethtool netlink family: %w", err)
	}
	return &ethtoolConn{conn, family.ID}, nil
}

func (c *ethtoolConn) Close() error { return c.conn.Close() }

// Device asks one device for all of deviceFacts.
func (c *ethtoolConn) Device(name string) (f deviceFacts, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(ethtoolPatience)); err != nil {
		return f, fmt.Errorf("ask device %s: %w", name, err)
	}
	for _, question := range []struct {
		command uint8
		take    func(*netlink.AttributeDecoder)
	}{
		{unix.ETHTOOL_MSG_FEATURES_GET, f.features},
		{unix.ETHTOOL_MSG_RINGS_GET, f.rings},
		{unix.ETHTOOL_MSG_CHANNELS_GET, f.channels},
	} {
		err := c.get(question.command, name, question.take)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return deviceFacts{}, fmt.Errorf("ask device %s: %w", name, err)
		}
	}
	return f, nil
}

// get sends one question. The header has the same number in each.
func (c *ethtoolConn) get(command uint8, device string, take func(*netlink.AttributeDecoder)) error {
	attributes := netlink.NewAttributeEncoder()
	attributes.Nested(unix.ETHTOOL_A_FEATURES_HEADER, func(header *netlink.AttributeEncoder) error {
		header.String(unix.ETHTOOL_A_HEADER_DEV_NAME, device)
		return nil
	})
	data, err := attributes.Encode()
	if err != nil {
		return err
	}
	request := genetlink.Message{Header: genetlink.Header{Command: command, Version: unix.ETHTOOL_GENL_VERSION}, Data: data}
	answers, err := c.conn.Execute(request, c.family, netlink.Request)
	if err != nil {
		return err
	}
	for _, m := range answers {
		ad, err := netlink.NewAttributeDecoder(m.Data)
		if err != nil {
			return err
		}
		for ad.Next() {
			take(ad)
		}
		if err := ad.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (f *deviceFacts) features(ad *netlink.AttributeDecoder) {
	if ad.Type() == unix.ETHTOOL_A_FEATURES_ACTIVE {
		f.On = make(map[string]bool)
		ad.Nested(bitset(f.On))
	}
}

// bitset puts the names of the bits that are set into set. Without a mask the kernel
// lists only those; with one, it lists each bit of the mask and flags those that are set.
func bitset(set map[string]bool) func(*netlink.AttributeDecoder) error {
	return func(ad *netlink.AttributeDecoder) error {
		listed := false
		for ad.Next() {
			switch ad.Type() {
			case unix.ETHTOOL_A_BITSET_NOMASK:
				listed = true
			case unix.ETHTOOL_A_BITSET_BITS:
				ad.Nested(func(bits *netlink.AttributeDecoder) error {
					for bits.Next() {
						bits.Nested(func(bit *netlink.AttributeDecoder) error {
							name, is := "", listed
							for bit.Next() {
								switch bit.Type() {
								case unix.ETHTOOL_A_BITSET_BIT_NAME:
									name = bit.String()
								case unix.ETHTOOL_A_BITSET_BIT_VALUE:
									is = true
								}
							}
							if is {
								set[name] = true
							}
							return nil
						})
					}
					return nil
				})
			}
		}
		return nil
	}
}

func (f *deviceFacts) rings(ad *netlink.AttributeDecoder) {
	switch ad.Type() {
	case unix.ETHTOOL_A_RINGS_RX:
		f.RX = ad.Uint32()
	case unix.ETHTOOL_A_RINGS_RX_MAX:
		f.RXMax = ad.Uint32()
	}
}

// channels prefers combined channels, in the order in which the kernel sends them: those
// of receive queues alone come first.
func (f *deviceFacts) channels(ad *netlink.AttributeDecoder) {
	switch ad.Type() {
	case unix.ETHTOOL_A_CHANNELS_RX_MAX:
		f.ChannelsMax = ad.Uint32()
	case unix.ETHTOOL_A_CHANNELS_COMBINED_MAX:
		if n := ad.Uint32(); n > 0 {
			f.ChannelsMax, f.Combined = n, true
		}
	}
}
