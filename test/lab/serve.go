package lab

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// Serve answers HTTP on the given TCP ports of all the host's addresses with
// the host's name, followed by the length of what was uploaded, if anything,
// until the lab closes. The answer for /large is 100,000 bytes long: mostly blanks.
func (h *Host) Serve(ports ...int) {
	for _, port := range ports {
		var (
			listener net.Listener
			err      error
		)
		h.Do(func() { listener, err = net.Listen("tcp", ":"+strconv.Itoa(port)) })
		if err != nil {
			h.lab.fail("%s: %v", h.Name, err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				h.trickle(w, r)
				return
			}
			if r.URL.Path == "/large" {
				fmt.Fprintf(w, "%-100000s", h.Name)
				return
			}
			if n, _ := io.Copy(io.Discard, r.Body); n > 0 {
				fmt.Fprintf(w, "%s-%d\n", h.Name, n)
				return
			}
			fmt.Fprintln(w, h.Name)
		})}
		go server.Serve(listener)
		h.lab.later(func() { server.Close() })
	}
}

// trickle is an answer that lasts as long as the client reads lines: a
// connection that a drain must not cut.
func (h *Host) trickle(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	for {
		fmt.Fprintln(w, h.Name)
		if err := rc.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick():
		}
	}
}

// ServeUDP answers each datagram to addr:port with the host's name, from that
// very address, until the lab closes.
func (h *Host) ServeUDP(addr netip.Addr, port uint16) {
	var (
		conn net.PacketConn
		err  error
	)
	h.Do(func() { conn, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, port).String()) })
	if err != nil {
		h.lab.fail("%s: %v", h.Name, err)
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			_, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			conn.WriteTo([]byte(h.Name), from)
		}
	}()
	h.lab.later(func() { conn.Close() })
}

// Curl asks url n times, each time over a connection of its own, and counts
// the answers by what they say. A request that fails counts as "failed".
func (h *Host) Curl(n int, url string) map[string]int {
	out, _ := h.Command("curl", "-s", "--max-time", "5", "-H", "Connection: close",
		"--write-out", "%{onerror}failed\n", url+fmt.Sprintf("?[1-%d]", n)).Output()
	answers := make(map[string]int)
	for _, line := range strings.Fields(string(out)) {
		answers[line]++
	}
	return answers
}

// Upload sends n bytes to url and returns the answer, "" for none.
func (h *Host) Upload(n int, url string) string {
	cmd := h.Command("curl", "-s", "--max-time", "10", "--data-binary", "@-", url)
	cmd.Stdin = strings.NewReader(strings.Repeat("x", n))
	out, _ := cmd.Output()
	return strings.TrimSpace(string(out))
}

// AskUDP sends n datagrams to addr:port from n source ports and counts the
// answers by what they say.
func (h *Host) AskUDP(n int, addr netip.Addr, port uint16) map[string]int {
	answers := make(map[string]int)
	h.Do(func() {
		for range n {
			answers[askUDP(netip.AddrPortFrom(addr, port))]++
		}
	})
	return answers
}

// AskUDPFlow is AskUDP from a single source port: one flow of datagrams.
func (h *Host) AskUDPFlow(n int, addr netip.Addr, port uint16) map[string]int {
	answers := make(map[string]int)
	h.Do(func() {
		conn, err := net.Dial("udp", netip.AddrPortFrom(addr, port).String())
		if err != nil {
			answers["failed"] = n
			return
		}
		defer conn.Close()
		for range n {
			answers[exchangeUDP(conn)]++
		}
	})
	return answers
}

func askUDP(to netip.AddrPort) string {
	conn, err := net.Dial("udp", to.String())
	if err != nil {
		return "failed"
	}
	defer conn.Close()
	return exchangeUDP(conn)
}

func exchangeUDP(conn net.Conn) string {
	conn.SetDeadline(soon())
	if _, err := io.WriteString(conn, "who?"); err != nil {
		return "failed"
	}
	buf := make([]byte, 100)
	got, err := conn.Read(buf)
	if err != nil {
		return "failed"
	}
	return string(buf[:got])
}
