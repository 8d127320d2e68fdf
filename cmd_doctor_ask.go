// The sub-command doctor's command line, and what it asks of the kernel and of other
// hosts before and while the checks run.
//
// Used by main.go. It changes nothing. What it sends are the questions of the split-brain
// check and of the data path probe, to this host's segment. Each question has a time
// limit and a bound on what it asks for.

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

var doctorCommand = command{
	name:    "doctor",
	summary: "examine this host, with the commands that mend what is wrong",
	about: `Examines this host as a director, as a node, as a client of the cluster and,
with -peer, as one of a pair: what keeps traffic from being served, and what costs each
packet time or loses it. Each finding is OK, WARN or FAIL, with the fact and the commands
that mend it. It changes nothing, and works while the API server, the controller and other
hosts are dead. docs/doctor.md explains each check.`,
	exits: map[int]string{exitOK: "nothing fails; warnings do not count", exitFailure: "there is a FAIL"},
	examples: `lvs-controller doctor
lvs-controller doctor -config /etc/lvs-controller/config.toml -peer 10.0.0.3
lvs-controller doctor -role node -vip 10.135.22.77`,
	values: map[string][]string{"o": {"text", "json"}, "role": {"director", "node", "cluster"}, "tunnel": {"ipip", "gue", "gre"}},
	new:    func() task { return new(doctorTask) },
}

// doctorTask is one call of `lvs-controller doctor`.
type doctorTask struct {
	source
	role, peer, tunnel, output string
}

func (t *doctorTask) flags(fs *flag.FlagSet) {
	t.source.flags(fs)
	fs.StringVar(&t.role, "role", "", "`roles` to examine this host as: director, node, cluster, or several with commas (default all that apply)")
	fs.StringVar(&t.peer, "peer", "", "`address`[:port] of the other director's listener, which is asked too")
	fs.StringVar(&t.tunnel, "tunnel", "", "`type` of the tunnel whose end a node has: ipip, gue or gre (default the configuration's)")
	fs.StringVar(&t.output, "o", "text", "output `form`: text or json")
}

// run examines this host.
func (t *doctorTask) run(ctx context.Context, stdout, stderr io.Writer) int {
	roles, err := parseRoles(t.role)
	switch {
	case err != nil:
	case t.output != "text" && t.output != "json":
		err = fmt.Errorf("-o %q is not text or json", t.output)
	case t.tunnel != "" && tunnelKinds[t.tunnel] == [2]string{}:
		err = fmt.Errorf("-tunnel %q is not ipip, gue or gre", t.tunnel)
	case t.peer != "" && !isListener(t.peer):
		err = fmt.Errorf("-peer %q is not an address or a name, with or without a port", shorten(t.peer, quotedText))
	}
	if err != nil {
		return doctorCommand.misused(stderr, err)
	}
	h, closeAll := thisHost(ctx, &t.source, t.peer)
	defer closeAll()
	h.node.tunnel = cmp.Or(t.tunnel, h.node.tunnel)
	if h.roles = roles; roles == 0 {
		h.roles = h.applyingRoles()
	}
	if t.peer != "" {
		h.roles |= rolePair
	}
	all := h.examine(doctorPatience)
	if t.output == "text" {
		return printFindings(stdout, all).code()
	}
	counts, err := encodeFindings(stdout, all)
	if err != nil {
		return fail(stderr, err)
	}
	return counts.code()
}

// parseRoles reads "director,cluster"; 0 for "".
func parseRoles(text string) (roles doctorRole, err error) {
	for name := range strings.SplitSeq(text, ",") {
		i := slices.IndexFunc(doctorRoles, func(r doctorRoleName) bool { return r.name == name && r.role != rolePair })
		switch {
		case i >= 0:
			roles |= doctorRoles[i].role
		case text != "":
			return 0, fmt.Errorf("-role %q is not director, node or cluster", shorten(name, quotedText))
		}
	}
	return roles, nil
}

// thisHost is this host with its questions. closeAll ends them.
func thisHost(ctx context.Context, src *source, peer string) (h *doctorHost, closeAll func()) {
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	h = &doctorHost{
		file: cmp.Or(src.path, onlyFlags), memory: hostMemory(), tracking: trackingActive, peer: peer,
		ethtool: func(string) (deviceFacts, error) { return deviceFacts{}, errNoEthtool },
	}
	if h.cfg, h.configErr = src.load(); h.configErr != nil {
		h.cfg = defaultConfig()
		if good, err := src.lastGood(); err == nil {
			h.cfg, h.copied = good.cfg, good.file
		}
	}
	h.at = controllerAt{socket: socketPath(h.cfg.StateDir), listen: h.cfg.Listen}
	if src.path != "" {
		h.at, _, _ = locate(src.path, "") // also while the file has a mistake
	}
	if h.uplink = h.cfg.Interface; h.uplink == "" {
		h.uplink, h.uplinkErr = defaultDevice(ctx)
	}
	closeAll = cancel
	if conn, err := dialEthtool(); err == nil {
		var one sync.Mutex // the checks run at the same time
		h.ethtool = func(device string) (deviceFacts, error) {
			one.Lock()
			defer one.Unlock()
			return conn.Device(device)
		}
		closeAll = func() { cancel(); conn.Close() }
	}
	h.findServers(savedCluster(h.cfg))
	h.net = readNetwork(ctx, h.table.addresses())
	h.node = findNode(h)
	servers := addAll(make(map[netip.Addr]bool), h.table.addresses())
	claims := sync.OnceValues(func() (map[netip.Addr][]claimingHost, error) {
		return askSegment(ctx, h.uplink, h.vipAddresses(), servers)
	})
	h.ask = doctorQuestions{
		claims: func(string, []netip.Addr) (map[netip.Addr][]claimingHost, error) { return claims() }, // two checks ask for the same
		nodes:  func(plan *ProbePlan) (map[nodeQuestion]nodeAnswer, error) { return probeOnce(ctx, plan) },
		status: statusAsker(ctx, h.at, controllerAt{listen: h.peerListener()}),
		clock:  readClock, space: readSpace, now: time.Now,
		users: func() []int {
			if owner, err := peerOf(namespaceLock); err == nil {
				return []int{int(owner.Uid)}
			}
			return nil
		},
		api: sync.OnceValue(func() *apiAnswers { return askAPI(ctx, h.cfg) }),
	}
	return h, closeAll
}

func defaultDevice(ctx context.Context) (string, error) {
	r, err := openRtnl(ctx)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return r.DefaultDevice()
}

// statusAsker asks each controller once, however many checks want its answer.
func statusAsker(ctx context.Context, places ...controllerAt) func(controllerAt) (status, error) {
	asks := make(map[controllerAt]func() (status, error))
	for _, at := range places {
		asks[at] = sync.OnceValues(func() (status, error) {
			ctx, cancel := context.WithTimeout(ctx, askPatience)
			defer cancel()
			return fetchStatus(ctx, at)
		})
	}
	return func(at controllerAt) (status, error) { return asks[at]() }
}

// readNetwork asks the kernel for the devices, and for the way to each of servers.
func readNetwork(ctx context.Context, servers []netip.Addr) (n doctorNetwork) {
	r, err := openRtnl(ctx)
	if err != nil {
		return doctorNetwork{err: err}
	}
	defer r.Close()
	if n.devices, err = r.devices(); err != nil {
		return doctorNetwork{err: err}
	}
	n.defaultDevice, _ = r.DefaultDevice() // "" is none
	n.arpDevices, _ = r.ARPDevices()
	n.hops = make(map[netip.Addr]hop)
	n.moreHops = max(0, len(servers)-mostAsked)
	for _, a := range servers[:len(servers)-n.moreHops] {
		n.hops[a] = r.route(a, nil)
	}
	return n
}

// askSegment asks, twice, which other hosts on the segment of a device have the
// addresses, with the packets of the split-brain check, which change no neighbour's cache.
func askSegment(ctx context.Context, device string, vips []netip.Addr, servers map[netip.Addr]bool) (map[netip.Addr][]claimingHost, error) {
	if device == "" {
		return nil, errors.New("no uplink is known")
	}
	ifi, err := deviceByName(device)
	if err != nil {
		return nil, err
	}
	if len(ifi.HardwareAddr) != len(macAddress{}) {
		return nil, fmt.Errorf("%s is not Ethernet", device)
	}
	all, err := netDevices()
	if err != nil {
		return nil, err
	}
	own := make(map[macAddress]bool)
	for _, d := range all {
		if len(d.HardwareAddr) == len(macAddress{}) {
			own[macAddress(d.HardwareAddr)] = true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	claims := make(chan receivedClaim)
	var reading sync.WaitGroup
	var listeners []*claimListener
	defer func() {
		cancel()
		for _, l := range listeners {
			l.conn.Close()
		}
		reading.Wait()
	}()
	for _, is6 := range []bool{false, true} {
		addrs := slices.DeleteFunc(slices.Clone(vips), func(a netip.Addr) bool { return a.Is6() != is6 })
		if len(addrs) == 0 {
			continue
		}
		sortBy(addrs, netip.Addr.Compare)
		l, err := openListener(listenerKey{ifi.Index, is6}, addrs)
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
		reading.Go(func() { l.read(ctx, ifi.Index, claims) })
		resolveServers(is6, servers)
	}
	found := collectClaims(ctx, ifi, listeners, claims, own)
	for _, list := range found {
		for i := range list {
			list[i].hosts = slices.DeleteFunc(neighboursWith(ifi.Index, list[i].mac), func(a netip.Addr) bool { return slices.Contains(vips, a) })
		}
	}
	return found, nil
}

// collectClaims asks and collects until ctx ends.
func collectClaims(ctx context.Context, ifi *net.Interface, listeners []*claimListener, claims <-chan receivedClaim, own map[macAddress]bool) map[netip.Addr][]claimingHost {
	found := make(map[netip.Addr][]claimingHost)
	ask := time.After(0)
	for asked := 0; ; {
		select {
		case <-ctx.Done():
			return found
		case <-ask:
			for _, l := range listeners {
				for _, a := range l.addrs[:min(len(l.addrs), mostAsked)] {
					question := arpProbe
					if a.Is6() {
						question = dadSolicitation
					}
					frame := question(macAddress(ifi.HardwareAddr), a)
					_, _ = l.conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}) // only the answers matter
				}
			}
			if asked++; asked < 2 {
				ask = time.After(askPatience / 4)
			}
		case c := <-claims:
			list := found[c.Address]
			i := slices.IndexFunc(list, func(o claimingHost) bool { return o.mac == c.MAC })
			switch {
			case own[c.MAC]:
			case i >= 0:
				list[i].asks = list[i].asks && c.Asks
			case len(list) < mostFindings:
				found[c.Address] = append(list, claimingHost{mac: c.MAC, asks: c.Asks})
			}
		}
	}
}

// readClock asks the kernel how far the clock may be off, and whether a program keeps it
// right.
func readClock() (time.Duration, bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return 0, false, os.NewSyscallError("adjtimex", err)
	}
	return time.Duration(t.Maxerror) * time.Microsecond, state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, nil
}

func readSpace(directory string) (s fileSpace, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(directory, &st); err != nil {
		return s, os.NewSyscallError("statfs", err)
	}
	return fileSpace{st.Bavail * uint64(st.Bsize), st.Ffree, st.Flags&unix.ST_RDONLY != 0}, nil
}
