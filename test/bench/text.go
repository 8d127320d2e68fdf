// The prose of docs/benchmarks.md.

package main

const method = `<!-- Written by ` + "`make bench`" + `: change test/bench, not this file. -->

# Benchmarks

This page compares the controller with its peers, and with the least time that the kernel
itself needs for the same work. ` + "`make bench`" + ` measures all of it, one part after the other.
Ratios are always of one part, in one virtual machine.

## Method

The kernel is Debian's, in a virtual machine without hardware virtualisation (test/vm).
Everything is at least ten times slower than on real hardware, and other work of the host
disturbs it. **Read the ratios within one run, not the absolute times.** Values are medians.
Where the compared programs alternate, a ratio is the median of the ratios round by round.

- Each program, and each table that nodes join and leave, has a fresh network namespace:
  the kernel keeps removed real servers in a list for two minutes, and reads that list for
  each one that is added. Before a measurement starts, the machine is idle, and the
  garbage of what was measured before is collected: for the floor as for all others.
- After a measurement the table is counted, by code that shares nothing with the
  controller. ` + "`ipvsadm -Sn`" + ` must agree.
- The **floor** is the kernel's own time: the same messages, encoded beforehand, up to
  1024 of them in one sendmsg, and the wait for the last one's acknowledgement. For a
  dump it is the same requests and a loop of reads that looks only for the end.
- **Ours** is the controller's loop in the test's own process, on a real socket: one
  pass, from the newest inputs to the table in the kernel, logging included.
  "Acknowledged" is from the start of the pass until the kernel has acknowledged the last
  operation; the rest of the pass updates the controller's own records. "From exec" is the
  program itself, from its start to the last row, with the reading of its configuration.
- ` + "`ipvsadm -R`" + ` reads the same table from a file. It is timed from start to end.
- **keepalived** runs only its checker (` + "`keepalived --check`" + `), with the same virtual servers
  and no checks. It is timed from its start to the last row.
- **moby/ipvs** is the library of kube-proxy and kube-router: test/peers/moby makes one
  call for each virtual service and each real server. Its start is not counted.

To reproduce it, on an otherwise idle Debian machine with Go:

` + "```sh" + `
make bench          # all sizes; writes this file
make bench-short    # small sizes in minutes; writes nothing
` + "```" + `

They need root for apt, 4 GB of memory for the virtual machine, and what
` + "`make e2e`" + ` needs. No test fails because of a time.

`

const programText = `
Services × real servers, from an empty table. The column "floors" is the line's time
divided by the floor's.
`

const joinText = `
One node becomes ready, or not ready, for every service of one VIP. Another VIP fills the
rest of the table. The services that the node joins have ten real servers in every table.
Ours is the first in every second round, and the floor in the others: the second finds more in
the caches. Each time is the mean of two rounds: one in which the floor's table is the younger
one, and one in which the controller's is. The kernel has the services of all namespaces in one
hash table, and finds the youngest first.

The removal comes after the kernel has reported that no connection is left. Its passes
include that question; its floor is the removal alone. The floor that asks has one system
call for each service before it, IP_VS_SO_GET_DESTS, and does not read the answers: it is
the cheapest way to ask that the kernel has.
`

const auditText = `
The controller reads the kernel's table and compares it with the table that should be
there. "Reading alone" is without the comparison.
`

const pathText = `
What one packet costs on its way through a director: µs, sender included. Three network
namespaces are in a row, joined by veth devices: a client, the director, and the real
servers. One thread of the client sends UDP packets of 60 bytes; each flow has another
address and port of the client. The kernel does everything else in that thread, on the same
CPU, so the time divided by the number of packets is the cost of one. The real servers'
end drops the packet. Answers do not pass a director in direct routing or with a tunnel.

- The **floor** is the same sender through a director that only forwards (one route, no
  IPVS, no connection tracking). Sender, floor and path alternate; "floors" is the median of
  the ratios, round by round.
- "Sender" is the sender alone: the director's end drops the packet on arrival. "Without
  sender" is the ratio of the path to the floor without this time.
- "Established" is a packet of a flow that has a connection in the director's table.
  "New" is the first packet of a flow, which makes one. "Spread" is the fastest and the
  slowest round.
- A time of an emulated processor differs by a tenth from run to run. The table of instructions
  has the base's path, and connection tracking on it, in a virtual machine whose clock counts
  instructions (LVS_VM_ACCEL=icount): it is the same within a hundredth in each run. It does
  not know that some instructions take longer: an atomic one, or one whose data no cache has.
- The table of flows has a separate virtual machine: what ran before would decide where in
  the memory its connections are. Namespaces of the same kind differ by up to a tenth. In the
  tables of flows (2^20 buckets, up to 600,000) and of connection tracking each round has its
  own ones, for the floor too.
- After a change from the floor to the path all caches are cold, and a busy director's are not.
  So each stretch of 25,000 packets has 5,000 before it that do not count. In the two tables
  with new namespaces each round it is 50,000 and 10,000, and twice as many stretches.
- Buckets are those of the kernel's connection table: 2^12 as the kernel has it,
  2^20 as install/lvs-controller.modprobe sets it.
- One factor at a time differs from the base: direct routing, rr, 10 real servers, 2^20
  buckets, 100,000 flows. The controller makes the table, from static real servers.
- "tracked" is a director with a firewall whose rules look at the state of connections;
  "notrack" is the same with the VIP exempted from connection tracking.
- [sync] sends each flow to the other director, and every ten seconds again while it
  has packets. With 1,000 flows most packets cause no message.
- kube-proxy's rules are those that it makes for a Service with an external address and
  10 endpoints, for clients outside the cluster: in mode ipvs masquerading, which ipvsadm
  and nft make here, in mode nftables DNAT. Connection tracking has 2^20 buckets too.
  The answers pass such a node as well and cost about as much again; they are not measured.
- The memory of one connection is what the kernel's slabs grow by, divided by the flows.
- Whole TCP connections: the processor time of all CPUs, for the client, four real servers
  and what is between them. The floor is without anything between them. HAProxy is
  Debian's, in TCP mode; it ends each connection and begins another one.
`

const latencyText = `
A client changes a pod from ready to not ready and back; the API server is on the host.
The client, a bare watch (an HTTP client that reads lines) and the controller's watch and
loop share one process and its two CPUs, so they also wait for each other. "Ours" ends
when the kernel has acknowledged the new weight. The last three lines are its stages. The
bare watch's event can come after ours, so the first one may be negative. The native table
is without emulation: the same on the host itself, with a model in place of the kernel.
`

const processText = `
RSS is read after at least two audits of the complete table. CPU is the time for which the
process's threads have run, measured over minutes and scaled to an hour. strace counts and
names the system calls while nothing happens and no audit is due. The Go runtime's own calls
are included.
`

const microText = `
Native, on the host's own processor: ` + "`go test -bench . -benchmem`" + `. PodEvent is from one
pod's change to the operations, FromNothing the same for a whole table. Encode and Decode
are for one message.
`
