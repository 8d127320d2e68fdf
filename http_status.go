// What /status.json says.
//
// Used by cmd*.go. It joins what the loop publishes with the kernel's counters and
// with what the other tasks know. It changes nothing, and the whole answer is never
// in memory.

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"time"
)

// status is what /status.json and `status -o json` give.
type status struct {
	Ready     bool         `json:"ready"`
	Reason    string       `json:"reason,omitempty"`      // why not ready
	Since     time.Time    `json:"since,omitzero"`        // of the process
	Drained   time.Time    `json:"drained,omitzero"`      // by the operator, since
	TableHash uint64       `json:"table_hash,omitempty"`  // of the wanted table, the same on both directors of a pair
	Announced []netip.Addr `json:"announced,omitempty"`   // VIP addresses that the controller has put on a device
	Kept      []string     `json:"kept,omitempty"`        // sets whose last working real servers stay in service
	FailOpen  []string     `json:"fail_open,omitempty"`   // sets of real servers that all fail their probes, and so stay in service
	Down      []string     `json:"probed_down,omitempty"` // real servers, or their ports, that fail their probes or answer no ARP, also after they have drained and are removed
	// Conflicts are the other hosts that claim a VIP which this director has.
	Conflicts []Conflict      `json:"conflicts,omitempty"`
	Warnings  []string        `json:"warnings,omitempty"`
	Cluster   []StreamState   `json:"cluster,omitempty"`
	Table     connectionTable `json:"connection_table,omitzero"`
	Services  []serviceStatus `json:"services"`
}

type serviceStatus struct {
	Service   ServiceKey     `json:"service"`
	VIP       string         `json:"vip,omitempty"`
	Scheduler string         `json:"scheduler"`
	Traffic   Traffic        `json:"traffic"`
	Servers   []serverStatus `json:"servers"`
}

type serverStatus struct {
	Address     netip.Addr  `json:"address"`
	Port        uint16      `json:"port,omitempty"` // if it is not the port of the service
	Weight      uint32      `json:"weight"`
	Why         string      `json:"why,omitempty"`
	Connections Connections `json:"connections"`
	Traffic     Traffic     `json:"traffic"`
}

// head is the status without its services, which streamServices writes.
func (s *httpServer) head(v *loopState) status {
	st := status{Since: s.started, Cluster: s.watch.States(), Conflicts: s.conflicts.seen().Active, Table: s.table(), Services: []serviceStatus{}}
	if err := s.ready(); err != nil {
		st.Reason = err.Error()
	}
	st.Ready = st.Reason == ""
	if v == nil {
		return st
	}
	st.Drained, st.Announced, st.TableHash = v.Drained, v.Announced, v.TableHash
	for _, set := range v.Kept {
		st.Kept = append(st.Kept, set.VIP+" "+familyName(set.Is6))
	}
	for _, o := range v.Health.orEmpty().Open {
		st.FailOpen = append(st.FailOpen, o.String())
	}
	st.Down = v.Health.lines()
	st.Warnings = v.Warnings
	return st
}

// observeKernel reads services and their counters through a separate socket.
func observeKernel(owned func(ServiceKey) bool, visit func(*KernelService)) error {
	c, err := dialIPVS()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Observe(owned, visit)
}

// newServiceStatus is the state of a service of vip in the kernel, with the reasons of
// its desired rows.
func newServiceStatus(k *KernelService, vip string, rows []Row) serviceStatus {
	s := serviceStatus{Service: k.ServiceKey, VIP: vip, Scheduler: k.Scheduler, Traffic: k.Traffic, Servers: make([]serverStatus, 0, len(k.Servers))}
	for _, r := range k.Servers {
		one := serverStatus{Address: r.Address, Port: r.Port, Weight: r.Weight, Connections: r.Connections, Traffic: r.Traffic}
		if i := slices.IndexFunc(rows, sameAs(r.RealServer)); i >= 0 {
			one.Why = rows[i].Why
		}
		s.Servers = append(s.Servers, one)
	}
	return s
}

// statusJSON joins the reasons of the loop's snapshot with the kernel's counters. The
// services are written one by one: the whole answer is never in memory.
func (s *httpServer) statusJSON(w http.ResponseWriter, _ *http.Request) {
	v := s.loop.published.Load()
	st := s.head(v)
	var services []KernelService
	if v != nil {
		var err error
		if services, err = s.reading.of(v.Shards); errors.Is(err, errNoIPVS) { // also before the loop has noticed
			st.Ready, st.Reason = false, err.Error()
		} else if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := writeStatus(w, &st, services, v); err != nil {
		s.log.Debug("an answer to /status.json could not be sent completely", "err", err)
	}
}

// writeStatus writes st with services, whose desired state is in v.
func writeStatus(w io.Writer, st *status, services []KernelService, v *loopState) error {
	head, err := json.Marshal(st)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	head = bytes.TrimSuffix(head, []byte("]}")) // "services" is the last field, and empty
	if _, err := out.Write(head); err != nil {
		return err
	}
	for i := range services {
		known := v.Shards.find(services[i].ServiceKey)
		one, err := json.Marshal(newServiceStatus(&services[i], known.VIP, known.Servers))
		if err != nil {
			return err
		}
		if i > 0 {
			one = append([]byte(",\n"), one...)
		}
		if _, err := out.Write(one); err != nil {
			return err
		}
	}
	if _, err := out.WriteString("]}\n"); err != nil {
		return err
	}
	return out.Flush()
}
