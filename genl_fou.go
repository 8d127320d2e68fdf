// The UDP ports on which the kernel receives GUE, set through the generic netlink
// family of its module fou.
//
// Used by cmd*.go. The sub-command realserver calls it by the interface
// nodeNetwork. It opens or closes only the port that the caller names.

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// guePort is a UDP port at which the kernel unpacks GUE packets.
type guePort struct {
	Port uint16 `json:"port"`
	Is6  bool   `json:"is6,omitempty"`
}

func (p guePort) String() string {
	return fmt.Sprintf("UDP port %d for GUE over %s", p.Port, familyName(p.Is6))
}

// encode begins a message about p.
func (p guePort) encode() *netlink.AttributeEncoder {
	attributes := netlink.NewAttributeEncoder()
	attributes.ByteOrder = binary.BigEndian
	attributes.Uint16(fouAttrPort, p.Port)
	attributes.Uint8(fouAttrAF, uint8(familyNumber(p.Is6)))
	return attributes
}

// The kernel's interface to such ports (include/uapi/linux/fou.h).
const (
	fouFamilyName = "fou" // FOU_GENL_NAME, and the name of the module

	fouCommandAdd    = 1 // FOU_CMD_ADD
	fouCommandDelete = 2 // FOU_CMD_DEL
	fouCommandGet    = 3 // FOU_CMD_GET

	fouAttrPort = 1 // FOU_ATTR_PORT, be16
	fouAttrAF   = 2 // FOU_ATTR_AF, u8
	fouAttrType = 4 // FOU_ATTR_TYPE, u8

	fouTypeGUE = 2 // FOU_ENCAP_GUE
)

// decodeGUE reads one message of a dump, and reports whether it is about GUE.
func decodeGUE(data []byte) (p guePort, isGUE bool, err error) {
	attributes, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return p, false, err
	}
	attributes.ByteOrder = binary.BigEndian
	for attributes.Next() {
		switch attributes.Type() {
		case fouAttrPort:
			p.Port = attributes.Uint16()
		case fouAttrAF:
			p.Is6 = attributes.Uint8() == unix.AF_INET6
		case fouAttrType:
			isGUE = attributes.Uint8() == fouTypeGUE
		}
	}
	return p, isGUE, attributes.Err()
}

// GUEPorts lists the open ports; none while the kernel has not loaded GUE.
func (r *rtnl) GUEPorts() (ports []guePort, err error) {
	messages, err := r.fou(fouCommandGet, netlink.Dump, netlink.NewAttributeEncoder())
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	for _, m := range messages {
		p, isGUE, decodeErr := decodeGUE(m[min(unix.GENL_HDRLEN, len(m)):])
		err = errors.Join(err, decodeErr)
		if isGUE {
			ports = append(ports, p)
		}
	}
	return ports, wrap("list GUE ports", err)
}

// OpenGUE opens p.
func (r *rtnl) OpenGUE(p guePort) error {
	attributes := p.encode()
	attributes.Uint8(fouAttrType, fouTypeGUE)
	_, err := r.fou(fouCommandAdd, netlink.Acknowledge, attributes)
	if errors.Is(err, unix.ENOENT) {
		loadModule(fouFamilyName)
		_, err = r.fou(fouCommandAdd, netlink.Acknowledge, attributes)
	}
	if errors.Is(err, unix.ENOENT) {
		err = errors.New("the kernel has no GUE (module fou is not loaded and could not be)")
	}
	return wrap("open "+p.String(), err)
}

// CloseGUE closes p and reports whether it was open.
func (r *rtnl) CloseGUE(p guePort) (bool, error) {
	ports, err := r.GUEPorts()
	if err != nil || !slices.Contains(ports, p) {
		return false, err
	}
	_, err = r.fou(fouCommandDelete, netlink.Acknowledge, p.encode())
	return err == nil, wrap("close "+p.String(), err)
}

// fou is one exchange with the kernel's module fou, on a separate socket. It returns
// the messages of a list, with struct genlmsghdr. The error is ENOENT where the kernel
// has not loaded the module.
func (r *rtnl) fou(command uint8, flags netlink.HeaderFlags, attributes *netlink.AttributeEncoder) ([][]byte, error) {
	data, err := attributes.Encode()
	if err != nil {
		return nil, err
	}
	socket, err := openDumps(unix.NETLINK_GENERIC, time.Now().Add(rtnlTimeout))
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	conn := genetlink.NewConn(socket.Conn)
	family, err := conn.GetFamily(fouFamilyName)
	if err != nil {
		return nil, err
	}
	m := genetlink.Message{Header: genetlink.Header{Command: command, Version: family.Version}, Data: data}
	if flags&netlink.Dump == 0 {
		_, err = conn.Execute(m, family.ID, netlink.Request|flags)
		return nil, err
	}
	request, err := m.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return dump(socket, netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(family.ID)}, Data: request})
}

// loadModule asks for a device of the module's name, which makes the kernel
// load a module that no netlink request loads (dev_load in
// net/core/dev_ioctl.c; it needs CAP_SYS_MODULE).
func loadModule(name string) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if request, err := unix.NewIfreq(name); err == nil {
		_ = unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, request) // fails: there is no such device
	}
}
