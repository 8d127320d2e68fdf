package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// fakeTable is a host's address list. Devices without an entry do not exist.
type fakeTable struct {
	mu      sync.Mutex // held while devices is read or changed, but for tests of one goroutine
	lists   int        // how often a device\'s addresses were asked for
	devices map[string][]deviceAddress
	calls   []string // changes, "add ADDR on DEV"
	fail    map[VIPAddress]error
}

func (f *fakeTable) List(device string) ([]deviceAddress, error) {
	f.lists++
	f.mu.Lock()
	defer f.mu.Unlock()
	have, ok := f.devices[device]
	if !ok {
		return nil, fmt.Errorf("device %s: %w", device, unix.ENODEV)
	}
	return have, nil
}

func (f *fakeTable) Add(v VIPAddress) (bool, error) {
	if err := f.fail[v]; err != nil {
		return false, err
	}
	f.calls = append(f.calls, "add "+v.String())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.devices[v.Device] = append(f.devices[v.Device], deviceAddress{Address: v.Address})
	return true, nil
}

func (f *fakeTable) Remove(v VIPAddress) (bool, error) {
	have, err := f.List(v.Device)
	if err != nil {
		return false, err
	}
	if err := f.fail[v]; err != nil {
		return false, err
	}
	rest := slices.DeleteFunc(slices.Clone(have), func(d deviceAddress) bool { return d.Address == v.Address })
	if len(rest) == len(have) {
		return false, nil
	}
	f.calls = append(f.calls, "remove "+v.String())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.devices[v.Device] = rest
	return true, nil
}

func (f *fakeTable) Close() error { return nil }

// takeCalls returns the changes since the last call.
func (f *fakeTable) takeCalls() []string {
	calls := f.calls
	f.calls = nil
	return calls
}

func vipOn(device, addr string) VIPAddress {
	return VIPAddress{Device: device, Address: netip.MustParseAddr(addr)}
}

// An address that this run did not have on its device was not taken by another program,
// and of many the line names eight.
func TestAddressesLost(t *testing.T) {
	table := &fakeTable{devices: map[string][]deviceAddress{"eth0": nil}}
	var all []VIPAddress
	for i := range 10 {
		all = append(all, vipOn("eth0", fmt.Sprintf("10.0.0.%d", 1+i)))
	}
	a, log := newFakeAddresses(table, all...) // an earlier run had them
	apply := func(want ...VIPAddress) {
		t.Helper()
		if err := a.Apply(table, want, "lvs0"); err != nil {
			t.Error(err)
		}
	}
	apply(all...)
	apply() // withdrawn
	apply(all...)
	if strings.Contains(log.String(), "WARN") {
		t.Errorf("no other program did anything:\n%s", log)
	}
	table.devices["eth0"] = nil
	apply(all...)
	var names []string
	for _, v := range all[:8] {
		names = append(names, v.String())
	}
	if want := `addresses="` + strings.Join(names, ", ") + ` and 2 more"` + "\n"; strings.Count(log.String(), "WARN") != 1 || !strings.HasSuffix(log.String(), want) {
		t.Errorf("want one warning that ends in %s:\n%s", want, log)
	}
}

func newFakeAddresses(table *fakeTable, owned ...VIPAddress) (*addresses, *bytes.Buffer) {
	log := new(bytes.Buffer)
	a := newAddresses(owned, func([]VIPAddress) {}, slog.New(slog.NewTextHandler(log, nil)))
	a.announce = func(VIPAddress) error { return nil }
	return a, log
}

func TestAddressesApply(t *testing.T) {
	one, two, six := vipOn("eth0", "10.0.0.1"), vipOn("eth0", "10.0.0.2"), vipOn("eth0", "2001:db8::1")
	table := &fakeTable{devices: map[string][]deviceAddress{"eth0": {{Address: netip.MustParseAddr("10.0.0.9")}}}}
	a, log := newFakeAddresses(table)
	var remembered []VIPAddress
	a.save = func(all []VIPAddress) {
		if len(table.calls) > 0 {
			t.Errorf("remembered after %v", table.calls)
		}
		remembered = all
	}

	apply := func(step string, want []VIPAddress, wantCalls, wantOwned []string) {
		t.Helper()
		if err := a.Apply(table, want, "lvs0"); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		if diff := cmp.Diff(wantCalls, table.takeCalls()); diff != "" {
			t.Errorf("%s: changes (-want +got):\n%s", step, diff)
		}
		var owned []string
		for _, v := range a.Owned() {
			owned = append(owned, v.String())
		}
		if diff := cmp.Diff(wantOwned, owned); diff != "" {
			t.Errorf("%s: owned (-want +got):\n%s", step, diff)
		}
	}
	apply("add", []VIPAddress{two, one, six},
		[]string{"add 10.0.0.2 on eth0", "add 10.0.0.1 on eth0", "add 2001:db8::1 on eth0"},
		[]string{"10.0.0.1 on eth0", "10.0.0.2 on eth0", "2001:db8::1 on eth0"})
	if diff := cmp.Diff(a.Owned(), remembered, cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
		t.Errorf("remembered before the first was added (-want +got):\n%s", diff)
	}
	if n := strings.Count(log.String(), "\n"); n != 3 {
		t.Errorf("three additions logged %d lines:\n%s", n, log)
	}

	log.Reset()
	table.lists = 0
	apply("unchanged", []VIPAddress{one, two, six}, nil,
		[]string{"10.0.0.1 on eth0", "10.0.0.2 on eth0", "2001:db8::1 on eth0"})
	if log.Len() > 0 {
		t.Errorf("unchanged state logged: %s", log)
	}
	if table.lists != 1 {
		t.Errorf("three addresses on one device cost %d dumps, want 1", table.lists)
	}

	table.devices["eth0"] = table.devices["eth0"][:1] // another program flushed the VIPs
	apply("repair", []VIPAddress{one, two}, []string{"add 10.0.0.1 on eth0", "add 10.0.0.2 on eth0"},
		[]string{"10.0.0.1 on eth0", "10.0.0.2 on eth0"})
	const warning = `level=WARN msg="another program has removed VIP addresses; they are added again" addresses="10.0.0.1 on eth0, 10.0.0.2 on eth0"` + "\n"
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.HasSuffix(log.String(), warning) {
		t.Errorf("two lost addresses are %d warnings, want one:\n%s", n, log)
	}

	apply("remove one", []VIPAddress{one}, []string{"remove 10.0.0.2 on eth0"}, []string{"10.0.0.1 on eth0"})

	table.devices["eth1"] = nil
	apply("move", []VIPAddress{vipOn("eth1", "10.0.0.1")},
		[]string{"add 10.0.0.1 on eth1", "remove 10.0.0.1 on eth0"}, []string{"10.0.0.1 on eth1"})

	delete(table.devices, "eth1")
	apply("device gone", nil, nil, nil)
	if got := table.devices["eth0"]; len(got) != 1 {
		t.Errorf("the host's own address was touched: %v", got)
	}
}

func TestAddressesAdoption(t *testing.T) {
	foreign, ours, saved := vipOn("eth0", "10.0.0.1"), vipOn("eth0", "10.0.0.2"), vipOn("eth0", "10.0.0.3")
	table := &fakeTable{devices: map[string][]deviceAddress{"eth0": {
		{Address: foreign.Address, Label: "eth0"},
		{Address: ours.Address, Label: "eth0:lvs"},
		{Address: saved.Address},
	}}}
	a, log := newFakeAddresses(table, saved)
	a.save = func(all []VIPAddress) {
		t.Errorf("%v are remembered, though nothing is to be added", all)
	}
	all := []VIPAddress{foreign, ours, saved}
	for range 2 {
		if err := a.Apply(table, all, "lvs0"); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "was on its device already"); n != 1 {
		t.Errorf("adoption was logged %d times, want once:\n%s", n, log)
	}
	if diff := cmp.Diff([]string(nil), table.takeCalls()); diff != "" {
		t.Errorf("addresses were changed (-want +got):\n%s", diff)
	}
	if len(a.announced) != 3 {
		t.Errorf("%d addresses are announced, want all 3", len(a.announced))
	}
	if err := a.Apply(table, nil, "lvs0"); err != nil {
		t.Fatal(err)
	}
	want := []string{"remove 10.0.0.2 on eth0", "remove 10.0.0.3 on eth0"}
	if diff := cmp.Diff(want, table.takeCalls()); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	if len(a.announced) != 0 || len(a.Owned()) != 0 {
		t.Errorf("left behind: announced %v, owned %v", a.announced, a.Owned())
	}
}

func TestAddressesApplyErrors(t *testing.T) {
	good, bad, lost := vipOn("eth0", "10.0.0.1"), vipOn("eth0", "10.0.0.2"), vipOn("eth9", "10.0.0.3")
	table := &fakeTable{
		devices: map[string][]deviceAddress{"eth0": nil},
		fail:    map[VIPAddress]error{bad: unix.EPERM},
	}
	a, _ := newFakeAddresses(table)
	err := a.Apply(table, []VIPAddress{bad, lost, good}, "lvs0")
	if !errors.Is(err, unix.EPERM) || !errors.Is(err, unix.ENODEV) {
		t.Errorf("Apply = %v, want both failures", err)
	}
	if diff := cmp.Diff([]VIPAddress{good}, a.Owned(), cmp.Comparer(func(x, y netip.Addr) bool { return x == y })); diff != "" {
		t.Errorf("owned (-want +got):\n%s", diff)
	}
	if len(a.announced) != 1 {
		t.Errorf("an address that is on no device is announced: %v", a.announced)
	}

	// What could not be removed is still to be removed, but silent.
	table.fail[good] = unix.EPERM
	if err := a.Apply(table, nil, "lvs0"); !errors.Is(err, unix.EPERM) {
		t.Errorf("Apply = %v, want the failure to remove", err)
	}
	if len(a.Owned()) != 1 || len(a.announced) != 0 {
		t.Errorf("owned %v, announced %v, want one and none", a.Owned(), a.announced)
	}
}

// A routing daemon may have lost the events of the addresses on a device that is new.
func TestAddressesRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		table := &fakeTable{devices: map[string][]deviceAddress{"eth0": nil, "lvs0": {{Address: netip.MustParseAddr("10.0.0.9")}}}}
		a, log := newFakeAddresses(table)
		start := time.Now()
		var renewed []string
		a.renew = func(ours []VIPAddress) error {
			for _, v := range ours {
				renewed = append(renewed, fmt.Sprintf("%v %s", time.Since(start), v))
			}
			return nil
		}
		step := func(name string, wait time.Duration, vips []VIPAddress, want ...string) {
			t.Helper()
			if err := a.Apply(table, vips, "lvs0"); err != nil {
				t.Error(err)
			}
			time.Sleep(wait)
			a.mu.Lock()
			defer a.mu.Unlock()
			if diff := cmp.Diff(want, renewed); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			renewed = nil
		}
		go a.Run(ctx)

		// 10.0.0.9 is another program's.
		one, two := vipOn("lvs0", "10.0.0.1"), vipOn("lvs0", "10.0.0.2")
		a.RenewOn("lvs0")
		step("one address", 5*time.Second, []VIPAddress{one, vipOn("lvs0", "10.0.0.9"), vipOn("eth0", "10.0.0.1")},
			"1s 10.0.0.1 on lvs0", "3s 10.0.0.1 on lvs0")
		step("another one comes", 20*time.Second, []VIPAddress{one, two},
			"7s 10.0.0.1 on lvs0", "7s 10.0.0.2 on lvs0", "15s 10.0.0.1 on lvs0", "15s 10.0.0.2 on lvs0")
		step("and one leaves", time.Hour, []VIPAddress{two},
			"31s 10.0.0.2 on lvs0", "1m3s 10.0.0.2 on lvs0", "2m7s 10.0.0.2 on lvs0")
		step("the device is known for long", time.Hour, []VIPAddress{one, two})

		a.renew = func([]VIPAddress) error { return unix.EPERM }
		a.RenewOn("lvs0")
		log.Reset()
		step("renewing fails", 2*time.Second, []VIPAddress{one, two})
		if got := log.String(); strings.Count(got, "could not be renewed") != 1 {
			t.Errorf("the log has\n%s", got)
		}
	})
}

func TestAddressesRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		table := &fakeTable{devices: map[string][]deviceAddress{"eth0": nil, "lvs0": nil}}
		a, log := newFakeAddresses(table)
		start := time.Now()
		var sent []string
		down := false
		a.announce = func(v VIPAddress) error {
			if down {
				return unix.ENETDOWN
			}
			sent = append(sent, fmt.Sprintf("%v %s", time.Since(start), v.Address))
			return nil
		}
		// announce runs under a.mu, and so does what the test does to its variables.
		locked := func(f func()) {
			synctest.Wait()
			a.mu.Lock()
			defer a.mu.Unlock()
			f()
		}
		take := func() (got []string) {
			locked(func() { got, sent = sent, nil })
			return got
		}
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()

		time.Sleep(time.Hour)
		if got := take(); got != nil {
			t.Errorf("announced without a VIP: %v", got)
		}

		locked(func() { start = time.Now() })
		a.Apply(table, []VIPAddress{vipOn("eth0", "10.0.0.1")}, "lvs0")
		time.Sleep(130 * time.Second)
		want := []string{"0s 10.0.0.1", "1s 10.0.0.1", "2s 10.0.0.1", "4s 10.0.0.1", "1m4s 10.0.0.1", "2m4s 10.0.0.1"}
		if diff := cmp.Diff(want, take()); diff != "" {
			t.Errorf("one address (-want +got):\n%s", diff)
		}

		// A second address has its own schedule and leaves the first's.
		a.Apply(table, []VIPAddress{vipOn("eth0", "10.0.0.1"), vipOn("eth0", "10.0.0.2")}, "lvs0")
		time.Sleep(60 * time.Second)
		want = []string{"2m10s 10.0.0.2", "2m11s 10.0.0.2", "2m12s 10.0.0.2", "2m14s 10.0.0.2", "3m4s 10.0.0.1"}
		if diff := cmp.Diff(want, take()); diff != "" {
			t.Errorf("second address (-want +got):\n%s", diff)
		}

		// Where another program has removed an address, neighbours may know another
		// host by it.
		locked(func() { start, table.devices["eth0"] = time.Now(), nil })
		a.Apply(table, []VIPAddress{vipOn("eth0", "10.0.0.1")}, "lvs0")
		time.Sleep(60 * time.Second)
		want = []string{"0s 10.0.0.1", "1s 10.0.0.1", "2s 10.0.0.1", "4s 10.0.0.1"}
		if diff := cmp.Diff(want, take()); diff != "" {
			t.Errorf("put back (-want +got):\n%s", diff)
		}

		a.Apply(table, nil, "lvs0")
		time.Sleep(time.Hour)
		if got := take(); got != nil {
			t.Errorf("announced after removal: %v", got)
		}

		// The dummy device has no neighbours.
		a.Apply(table, []VIPAddress{vipOn("lvs0", "10.0.0.1")}, "lvs0")
		time.Sleep(time.Hour)
		if got := take(); got != nil {
			t.Errorf("announced on the dummy device: %v", got)
		}
		a.Apply(table, nil, "lvs0")

		// A link that is down is tried again until it is up, then the whole
		// row of announcements follows; the log has one line for each turn.
		locked(func() { log.Reset(); down = true })
		a.Apply(table, []VIPAddress{vipOn("eth0", "10.0.0.1")}, "lvs0")
		time.Sleep(9 * time.Second)
		locked(func() { start, down = time.Now(), false })
		time.Sleep(10 * time.Second)
		want = []string{"1s 10.0.0.1", "2s 10.0.0.1", "3s 10.0.0.1", "5s 10.0.0.1"}
		if diff := cmp.Diff(want, take()); diff != "" {
			t.Errorf("after the link came up (-want +got):\n%s", diff)
		}
		for line, n := range map[string]int{"could not be announced": 1, "is announced again": 1} {
			if got := strings.Count(log.String(), line); got != n {
				t.Errorf("%q was logged %d times, want %d:\n%s", line, got, n, log)
			}
		}

		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

// The whole way on a real link: Apply puts VIPs on the uplink, Run announces
// them, the neighbour sees the very frames and its tables follow.
func TestAnnounceOnTheWire(t *testing.T) {
	director, client := newNetns(t), newNetns(t)
	vethPair(t, director, "eth0", client, "eth0")
	director.run(t, "ip", "address", "add", "10.0.0.9/24", "dev", "eth0")
	director.run(t, "ip", "address", "add", "2001:db8::9/64", "dev", "eth0", "nodad")
	client.run(t, "ip", "address", "add", "10.0.0.5/24", "dev", "eth0")
	client.run(t, "ip", "address", "add", "2001:db8::5/64", "dev", "eth0", "nodad")
	// What the client learned before: the VIPs are at another director.
	client.run(t, "ip", "neighbor", "add", "10.0.0.77", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")
	client.run(t, "ip", "neighbor", "add", "2001:db8::77", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "stale")

	var arp, ipv6 *packet.Conn
	client.do(t, func() {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		if arp, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil); err != nil {
			t.Error(err)
		}
		if ipv6, err = packet.Listen(ifi, packet.Raw, unix.ETH_P_IPV6, nil); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	defer arp.Close()
	defer ipv6.Close()

	log := new(bytes.Buffer)
	a := newAddresses(nil, func([]VIPAddress) {}, slog.New(slog.NewTextHandler(log, nil)))
	ctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
	defer stop()
	four, six := vipOn("eth0", "10.0.0.77"), vipOn("eth0", "2001:db8::77")
	apply := func(want []VIPAddress) {
		r, err := openRtnl(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		if err := a.Apply(r, want, "lvs0"); err != nil {
			t.Error(err)
		}
	}
	var mac [6]byte
	director.do(t, func() {
		apply([]VIPAddress{four, six})
		ifi, err := deviceByName("eth0")
		if err != nil {
			t.Error(err)
			return
		}
		mac = [6]byte(ifi.HardwareAddr)
	})
	if t.Failed() {
		t.FailNow()
	}
	done := make(chan error)
	go director.do(t, func() { done <- a.Run(ctx) })

	// Two rounds: at once, and a second later.
	for range 2 {
		expectFrame(t, arp, gratuitousARP(mac, four.Address, arpRequest))
		expectFrame(t, arp, gratuitousARP(mac, four.Address, arpReply))
		expectFrame(t, ipv6, unsolicitedNA(mac, six.Address))
	}
	wantNeighbour := net.HardwareAddr(mac[:]).String()
	for _, addr := range []netip.Addr{four.Address, six.Address} {
		if got := client.run(t, "ip", "neighbor", "show", addr.String()); !strings.Contains(got, wantNeighbour) {
			t.Errorf("the client still has %s at %s, want %s", addr, strings.TrimSpace(got), wantNeighbour)
		}
	}
	port := director.listen(t)
	for _, addr := range []netip.Addr{four.Address, six.Address} {
		if err := client.connect(t, addr.String(), port); err != nil {
			t.Errorf("the client does not reach the VIP: %v", err)
		}
	}

	director.do(t, func() { apply(nil) })
	if shown := director.run(t, "ip", "address", "show", "dev", "eth0"); strings.Contains(shown, " 10.0.0.77/") || strings.Contains(shown, " 2001:db8::77/") {
		t.Errorf("VIPs are left on the uplink:\n%s", shown)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
	if strings.Contains(log.String(), "level=WARN") {
		t.Errorf("warnings:\n%s", log)
	}
}

// expectFrame waits for one frame among whatever else is on the wire.
func expectFrame(t *testing.T, conn *packet.Conn, want []byte) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatalf("no frame %x: %v", want, err)
		}
		if bytes.Equal(buf[:n], want) {
			return
		}
	}
}

func TestAnnounceVIPErrors(t *testing.T) {
	ns := newNetns(t)
	ns.addDevice(t, "eth0") // and leave it down
	ns.do(t, func() {
		for device, want := range map[string]string{
			"gone0": "no such device",
			"lo":    "no Ethernet address",
			"eth0":  "network is down",
		} {
			err := announceVIP(device, netip.MustParseAddr("10.0.0.77"))
			if err == nil || !strings.Contains(err.Error(), "announce 10.0.0.77 on "+device) || !strings.Contains(err.Error(), want) {
				t.Errorf("announceVIP on %s = %v, want %q", device, err, want)
			}
		}
	})
}
