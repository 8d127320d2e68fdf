// What docs/tuning.md says of GRO, measured. What queues and interrupts bring cannot be
// seen in a virtual machine with two emulated CPUs.

package director

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lvs-controller/test/lab"
)

// An upload in packets of the network's size, through a director with GRO and without.
func TestTuningGRO(t *testing.T) {
	of(t, "tuning")
	l := lab.New(t.Fatalf)
	t.Cleanup(l.Close)
	client, director, node := l.Host("client", 3), l.Host("director", 2), l.Host("node", 11)
	director.Run("ip", "address", "add", "10.0.0.100/32", "dev", "eth0")
	director.Run("ipvsadm", "-A", "-t", "10.0.0.100:80", "-s", "rr")
	director.Run("ipvsadm", "-a", "-t", "10.0.0.100:80", "-r", "10.0.0.11", "-g")
	node.Run(controller(), "realserver", "-vip", "10.0.0.100", "-uplink", "eth0", "-state", filepath.Join(t.TempDir(), "rs.json"))
	sink(t, node)
	// A sender of packets of the network's size, as a card receives them. A veth hands
	// packets to GRO only if the other end would not take larger ones.
	segment, port := director.Port()
	for _, feature := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO} {
		switchFeature(t, client, "eth0", feature, 0)
		switchFeature(t, segment, port, feature, 0)
	}
	const bytes, rounds = 32 << 20, 5
	costs := make([][]float64, 2)
	var packets [2]int
	for range rounds {
		for gro := range costs {
			switchFeature(t, director, "eth0", unix.ETHTOOL_SGRO, uint32(gro))
			time.Sleep(100 * time.Millisecond)
			ticks, sent := busyTicks(t), sentPackets(t, director)
			upload(t, client, bytes)
			costs[gro] = append(costs[gro], float64(busyTicks(t)-ticks)*10/(bytes>>20))
			packets[gro] = sentPackets(t, director) - sent
		}
	}
	for gro := range costs {
		slices.Sort(costs[gro])
		t.Logf("GRO %d: the director sends %d packets for each MiB; %.1f ms of CPU, all hosts together (least of %d, median %.1f)",
			gro, packets[gro]/(bytes>>20), costs[gro][0], rounds, costs[gro][rounds/2])
	}
}

// sink accepts connections and reads them to their ends.
func sink(t *testing.T, h *lab.Host) {
	t.Helper()
	var listener net.Listener
	var err error
	h.Do(func() { listener, err = net.Listen("tcp", ":80") })
	lab.Must(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
}

// upload sends n bytes and waits until the node has read them.
func upload(t *testing.T, h *lab.Host, n int) {
	t.Helper()
	var c net.Conn
	var err error
	h.Do(func() { c, err = net.Dial("tcp", "10.0.0.100:80") })
	lab.Must(t, err)
	defer c.Close()
	piece := make([]byte, 1<<16)
	for sent := 0; sent < n; sent += len(piece) {
		_, err = c.Write(piece)
		lab.Must(t, err)
	}
	lab.Must(t, c.(*net.TCPConn).CloseWrite())
	_, err = io.Copy(io.Discard, c)
	lab.Must(t, err)
}

// switchFeature is what `ethtool -K` does.
func switchFeature(t *testing.T, h *lab.Host, device string, command, value uint32) {
	t.Helper()
	setting := struct{ command, value uint32 }{command, value}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&setting)}
	copy(request.name[:], device)
	var errno unix.Errno
	h.Do(func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			errno = err.(unix.Errno)
			return
		}
		defer unix.Close(fd)
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	})
	if errno != 0 {
		t.Fatalf("ethtool command %#x of %s: %v", command, device, errno)
	}
}

// busyTicks is the time that all CPUs have worked, in hundredths of a second.
func busyTicks(t *testing.T) (busy int) {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	lab.Must(t, err)
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		var n int
		fmt.Sscan(field, &n)
		if i != 3 && i != 4 { // idle, iowait
			busy += n
		}
	}
	return busy
}

// sentPackets counts what the director has sent.
func sentPackets(t *testing.T, h *lab.Host) (n int) {
	t.Helper()
	_, err := fmt.Sscan(h.Run("cat", "/sys/class/net/eth0/statistics/tx_packets"), &n)
	lab.Must(t, err)
	return n
}
