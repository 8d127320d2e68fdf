// What doctor knows of a host, and what it finds: the types that all checks share.
//
// Used by cmd*.go. cmd_doctor_ask.go fills them in, the checks read them. No I/O.

package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// doctorRole is what a host is examined as. A check can belong to several.
type doctorRole uint8

const (
	roleDirector doctorRole = 1 << iota
	roleNode
	roleCluster
	rolePair // with -peer
)

type doctorRoleName struct {
	name string
	role doctorRole
}

// doctorRoles are the values of -role. A pair has a separate flag.
var doctorRoles = []doctorRoleName{{"director", roleDirector}, {"node", roleNode}, {"cluster", roleCluster}, {"pair", rolePair}}

// A finding is what one check says of one thing.
type finding struct {
	level    level
	fact     string   // one line, with the numbers
	commands []string // what mends it, or a comment that begins with #
}

type level int

const (
	levelOK   level = iota // also what cannot be known and does no harm
	levelWarn              // traffic flows, and costs more than it has to, or is lost under load
	levelFail              // traffic is lost
	levels
)

var findingLevels = [levels]string{"OK", "WARN", "FAIL"}

func allWell(format string, args ...any) []finding {
	return []finding{{fact: fmt.Sprintf(format, args...)}}
}

const (
	// mostFindings are printed of one check, mostCommands of one finding. The rest is
	// counted.
	mostFindings, mostCommands = 12, 8

	// mostEncoded are in the JSON answer, of either.
	mostEncoded = 1000

	// mostFact is the longest fact, in characters.
	mostFact = 250
)

const (
	// askPatience is how long one question waits for its answers.
	askPatience = 2 * time.Second

	// mostAsked bounds the addresses, and the real servers, that are asked about.
	mostAsked = 256
)

// doctorNetwork is what the kernel says of devices, addresses and routes.
type doctorNetwork struct {
	err           error // why the rest is not known
	devices       []hostDevice
	defaultDevice string             // "" = there is no default route
	hops          map[netip.Addr]hop // to the real servers
	moreHops      int                // real servers that were not looked up
	arpDevices    []string           // rtnl.ARPDevices
}

// claimingHost is another host that answers for a VIP.
type claimingHost struct {
	mac   macAddress
	asks  bool         // it was seen only as the sender of a request for another address
	hosts []netip.Addr // what else the kernel knows at this MAC address
}

// doctorQuestions are the questions whose answers come from outside this host, or from
// a call that only the kernel can answer. A test has its own.
type doctorQuestions struct {
	// claims asks the segment of a device which hosts have these addresses.
	claims func(device string, vips []netip.Addr) (map[netip.Addr][]claimingHost, error)
	// nodes probes real servers over the data path.
	nodes  func(*ProbePlan) (map[nodeQuestion]nodeAnswer, error)
	status func(controllerAt) (status, error)
	clock  func() (offset time.Duration, synchronised bool, err error)
	space  func(directory string) (fileSpace, error)
	// users are those besides this one that may own what the controller writes: that of the
	// controller of this network namespace.
	users func() []int
	api   func() *apiAnswers
	now   func() time.Time
}

// fileSpace is what a file system has left.
type fileSpace struct {
	bytes, files uint64
	readOnly     bool
}

// device finds a device; nil: there is none.
func (n *doctorNetwork) device(is func(*hostDevice) bool) *hostDevice {
	for i := range n.devices {
		if is(&n.devices[i]) {
			return &n.devices[i]
		}
	}
	return nil
}

// with lists the devices that have an address.
func (n *doctorNetwork) with(a netip.Addr) (found []*hostDevice) {
	for i := range n.devices {
		if addressIn(n.devices[i].addresses, a) != nil {
			found = append(found, &n.devices[i])
		}
	}
	return found
}

// String is a claimingHost for people.
func (c *claimingHost) String() string {
	if len(c.hosts) == 0 {
		return c.mac.String()
	}
	return fmt.Sprintf("%s (%s)", c.mac, c.hosts[0])
}

// vipAddresses are all VIP addresses.
func (h *doctorHost) vipAddresses() (all []netip.Addr) {
	for i := range h.cfg.VIPs {
		all = including(all, h.cfg.VIPs[i].Addresses...)
	}
	return all
}

// doctorServer is a real server of a VIP.
type doctorServer struct {
	vip     *VIP
	address netip.Addr
	forward ForwardingMethod
}

// doctorTable is what is in service.
type doctorTable struct {
	services []ServiceKey // of the kernel
	owners   owners
	servers  []doctorServer // of our VIPs, each once for a VIP
	saved    bool           // servers are those of the configuration and of what is saved of the cluster
}

// doctorNode is what makes this host a node.
type doctorNode struct {
	vips     []netip.Addr
	prepared bool   // the sub-command realserver has run here
	tunnel   string // ipip, gue or gre; "" = none
	port     uint16 // of gue
	checksum bool   // of gre
	open     func() (nodeNetwork, error)
}

// apiAnswers is what the API server, or the cluster file, answers.
type apiAnswers struct {
	*apiFacts          // nil: nothing is asked of an API server
	file      string   // the cluster file
	fileErr   error    // why it cannot be used
	cluster   *Cluster // nil: it could not be read
	unread    error    // why
}

// doctorHost is a host, as the checks see it.
type doctorHost struct {
	root      string // "" = this host; tests have another one
	cfg       *Config
	file      string // the configuration's
	configErr error  // why cfg is not the file's
	copied    string // the copy that cfg is from then; "" = cfg is the default
	uplink    string // "" = not known
	uplinkErr error  // why
	memory    uint64
	ethtool   func(device string) (deviceFacts, error)
	tracking  func(is6 bool) bool // trackingActive
	roles     doctorRole
	at        controllerAt // of this host
	peer      string       // of -peer
	table     doctorTable
	net       doctorNetwork
	node      doctorNode
	ask       doctorQuestions
}

// numberOf is "1 queue", "4 queues" or "2 addresses".
func numberOf(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "s"):
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}
