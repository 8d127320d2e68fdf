// What all sources of the import are read into, and what is said of it.
//
// Used by cmd*.go. Pure.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// Bounds of what is read and printed.
const (
	mostServices = 20_000  // virtual services of a keepalived.conf, those of ranges one by one
	mostRows     = 500_000 // real servers of all of them, with checkers and comments
	mostPath     = 120     // characters of a file's name in a comment
	mostRemark   = 300     // and of the rest of the comment
	mostKinds    = 100     // keywords of the top level that are keepalived's alone
)

// importPlace is where something was found.
type importPlace struct {
	file  string
	line  int // counted from 1; 0 = not known
	order int // of lines over all files, as they were read
}

func (p *importPlace) String() string {
	file := p.file
	if r := []rune(file); len(r) > mostPath {
		file = "…" + string(r[len(r)-mostPath:])
	}
	if p.line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, p.line)
}

// mistake is an error that ends the reading there.
func (p *importPlace) mistake(text string) error { return errors.New(p.String() + ": " + text) }

// remark is a comment: what was not taken, and why, or what was taken differently.
type remark struct {
	at   *importPlace
	text string
	note bool // nothing is lost: it is not counted
}

// String is the comment without the sign that begins it.
func (r remark) String() string {
	return printable(r.at.String() + ": " + shorten(r.text, mostRemark))
}

// imported is what was found, in the form that all sources share.
type imported struct {
	source   string // for people
	services []*importService
	remarks  []remark
	// keeps has the addresses that keepalived brings to this host, with the name of the
	// vrrp_instance; nil when the source is no keepalived.conf.
	keeps map[netip.Addr]string
}

// importService is one virtual service of the source.
type importService struct {
	at   *importPlace
	what string // as the source names it
	name string // of its virtual_server_group, "" for none
	VirtualService
	servers []importServer
	sorry   []importServer // at most one that fits
	checks  []importCheck
	quorum  importQuorum
	remarks []remark
	refused string // why it is not taken, "" when it is
}

// refuse notes the first reason why s is not taken.
func (s *importService) refuse(why string) { s.refused = cmp.Or(s.refused, why) }

// importServer is a real server or a sorry server of a service.
type importServer struct {
	at *importPlace
	RealServer
	refused string // why it is not taken, "" when it is
	remarks []remark
}

// importCount is what was taken, and what was not.
type importCount struct {
	vips             int
	services, taken  int // virtual services, and those of them that were taken
	rows, rowsTaken  int // real servers of each service
	settings, hidden int // settings that were not taken; comments that are not printed
}

// lines are the summary.
func (c *importCount) lines() []string {
	lines := []string{
		fmt.Sprintf("taken: %d of %d %s, %d of %d %s, as %d %s", c.taken, c.services, plural(c.services, "virtual service", "virtual services"),
			c.rowsTaken, c.rows, plural(c.rows, "real server", "real servers"), c.vips, plural(c.vips, "VIP", "VIPs")),
	}
	if c.services == c.taken && c.rows == c.rowsTaken && c.settings == 0 {
		return append(lines, "not taken: nothing")
	}
	text := fmt.Sprintf("not taken: %d %s, %d %s, %d %s; each has a comment with the reason", c.services-c.taken, plural(c.services-c.taken, "virtual service", "virtual services"),
		c.rows-c.rowsTaken, plural(c.rows-c.rowsTaken, "real server", "real servers"), c.settings, plural(c.settings, "setting", "settings"))
	if c.hidden > 0 {
		text += fmt.Sprintf(", but %d of these comments are left out", c.hidden)
	}
	return append(lines, text)
}

// importCheck is a checker that a probe can replace.
type importCheck struct {
	at     *importPlace
	server netip.Addr
	word   string // as keepalived names it
	kind   probeKind
	port   uint16      // 0 = the virtual service's
	http   []HTTPProbe // without their port; each is an url
	dns    DNSProbe    // without its port
	udp    UDPProbe    // without its port
	timing checkTiming
}

// checkTiming is when keepalived checks. The settings of a virtual server are the
// defaults of its real servers, and theirs those of the checkers.
type checkTiming struct {
	interval time.Duration // delay_loop
	timeout  time.Duration // connect_timeout
	retry    uint64        // failures before the one that counts
}

// importQuorum is the quorum of a virtual server.
type importQuorum struct {
	Quorum                 // what it is in config.toml; the zero value when it is not taken
	at        *importPlace // of the keyword quorum; nil: there is none above 1
	least     uint64       // quorum, a sum of weights
	around    uint64       // hysteresis
	aroundSet *importPlace
}

// label names r.
func (r *importServer) label() string {
	if !r.Address.IsValid() {
		return "real server"
	}
	return "real server " + r.Name()
}

// quote is a short quotation.
func quote(text string) string { return strconv.Quote(shorten(text, quotedText)) }
