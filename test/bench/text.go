// The prose of docs/benchmarks.md.

package main

const method = `<!-- Written by ` + "`make bench`" + `: change test/bench, not this file. -->

# Benchmarks

What the controller costs beside its peers, and beside the least that the kernel
itself takes for the same work. All of it is measured in one run of ` + "`make bench`" + `.

## Method

The kernel is Debian's, in a virtual machine without hardware virtualisation
(test/vm): everything is ten times slower than on real hardware and more, and other
work of the host disturbs it. **Ratios within one run are what to read; absolute
times are not.** Values are medians. The ways that are compared take turns, round by
round.

- Each way to program a table, and each table that nodes join and leave, has a fresh
  network namespace: the kernel remembers real servers that were removed for two
  minutes, and walks that list for each one that is added. Before the clock starts,
  the machine has become idle.
- After the clock has stopped the table is counted, by code that shares nothing with
  the controller's; ` + "`ipvsadm -Sn`" + ` has to agree.
- The **floor** is the kernel's own time: the same messages, encoded beforehand, up to
  1024 of them in one sendmsg, and the wait for the last one's acknowledgement. For a
  dump it is the same requests and a loop of reads that looks for nothing but the end.
- **Ours** is the controller's loop in the test's own process, on a real socket: one
  turn, from the newest inputs to the table in the kernel, logging included. "Kernel
  told" is from the turn's start until the last operation was acknowledged; the turn
  goes on with bookkeeping. "From exec" is the program itself, from its start to the
  last row, with the reading of its configuration.
- ` + "`ipvsadm -R`" + ` reads the same table from a file, and is timed from start to end.
- **keepalived** runs its checker alone (` + "`keepalived --check`" + `), with the same virtual
  servers and no checks; it is timed from its start to the last row.
- **moby/ipvs** is the library of kube-proxy and kube-router: test/peers/moby makes one
  call for each virtual service and each real server. Its own start is not counted.

To reproduce, on a Debian machine with Go and nothing else to do:

    make bench          # all sizes; writes this file
    make bench-short    # small sizes in minutes; writes nothing

They need root for apt, 4 GB of memory for the virtual machine, and what
` + "`make e2e`" + ` needs. No test fails because of a time.

`

const programText = `
Services × real servers, from an empty table. A floor is one line's time divided by
the floor's.
`

const joinText = `
One node becomes ready, or not ready, for every service of one VIP; another VIP fills
the table up. The services it joins have ten real servers in every table. The removal
comes after the kernel has said that no connection is left, and its turns include that
question; its floor is the removal alone.
`

const auditText = `
The controller reads the kernel's table and compares it with the one it should be.
Reading alone is without the comparison.
`

const latencyText = `
A client changes a pod from ready to not ready and back; the API server is on the host.
The client, a bare watch (an HTTP client that reads lines) and the controller's watch and
loop share one process and its two CPUs, so they also wait for each other. "Ours" ends
when the kernel has acknowledged the new weight. The last three lines are its stages; the
bare watch's event can come after ours, so the first may be negative. The native table is
without emulation: the same on the host itself, where a model stands for the kernel.
`

const processText = `
RSS is read when the table has been in place for two audits or more. CPU is what the
process's threads have run for, taken over minutes and multiplied to an hour. System calls
are counted by strace, which names them, while nothing happens and no audit is due; those
that the Go runtime makes for itself are among them.
`

const microText = `
Native, on the host's own processor: ` + "`go test -bench . -benchmem`" + `. PodEvent is from one
pod's change to the operations, FromNothing a whole table's; Encode and Decode are one
message.
`
