//go:build bench

// Programming a whole table into an empty kernel: the controller, what it is
// compared with, and the floor.

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/bench/guest"
	"lvs-controller/test/bench/results"
	"lvs-controller/test/floor"
	"lvs-controller/test/lab"
)

// programming is a way to make a table, which returns how long that took in h.
type programming struct {
	name string
	runs int
	do   func(h *lab.Host) time.Duration
}

func TestBenchProgram(t *testing.T) {
	b := newBenchmark(t)
	for _, table := range guest.LongOr(b.Benchmark, []guest.Table{{Services: 100, Servers: 50}, {Services: 1000, Servers: 50}}, []guest.Table{{Services: 100, Servers: 50}}) {
		b.program(table)
	}
}

// program measures every way to make the table, round by round, so that what
// disturbs the machine for a while disturbs them all.
func (b *benchmark) program(table guest.Table) {
	var (
		batches []floor.Batch
		told    []float64
	)
	ways := []programming{
		{"floor", guest.LongOr(b.Benchmark, 7, 3), func(h *lab.Host) time.Duration {
			f := floor.Dial(b.T, h)
			defer f.Close()
			if batches == nil {
				batches = f.Encode(b.T, table.Messages())
				b.Quiet()
			}
			start := time.Now()
			err := f.Send(batches)
			took := time.Since(start)
			lab.Must(b.T, err)
			return took
		}},
		{"ours", guest.LongOr(b.Benchmark, 7, 3), func(h *lab.Host) time.Duration {
			d := newBenchDirector(b, h, benchVIP{"edge", guest.Address, table.Services, table.Nodes()})
			defer d.close()
			b.Quiet()
			whole, kernel := d.turn()
			told = append(told, guest.MS(kernel))
			return whole
		}},
		{"ours, from exec", guest.LongOr(b.Benchmark, 5, 2), func(h *lab.Host) time.Duration { return b.ProgramBinary(h, table) }},
		{"moby/ipvs", guest.LongOr(b.Benchmark, 3, 1), func(h *lab.Host) time.Duration { return b.programMoby(h, table) }},
		{"keepalived, from exec", guest.LongOr(b.Benchmark, 3, 1), func(h *lab.Host) time.Duration { return b.programKeepalived(h, table) }},
		{"ipvsadm -R, from exec", guest.LongOr(b.Benchmark, 3, 1), func(h *lab.Host) time.Duration {
			cmd := exec.Command("ipvsadm", "-R")
			cmd.Stdin = b.File("rules", table.IPVSAdm())
			return b.RunIn(h, cmd)
		}},
	}
	took := make([][]float64, len(ways))
	for round := range ways[0].runs {
		for i, w := range ways {
			if round >= w.runs {
				continue
			}
			b.InFresh(func(h *lab.Host) {
				took[i] = append(took[i], guest.MS(w.do(h)))
				b.Check(h, table)
			})
		}
	}
	b.Record(results.New("program", "ours, kernel told", table.Params(), "ms", told...))
	for i, w := range ways {
		b.Record(results.New("program", w.name, table.Params(), "ms", took[i]...))
	}
}

// programKeepalived runs keepalived's checker alone, whose real servers have no
// checks and so are put in service at its start.
func (b *benchmark) programKeepalived(h *lab.Host, table guest.Table) time.Duration {
	dir := b.TempDir()
	config := b.File("keepalived.conf", table.Keepalived())
	return b.UntilWhole(h, table, exec.Command("keepalived", "--check", "--dont-fork", "--log-console",
		"--use-file", config.Name(), "--pid", filepath.Join(dir, "pid"), "--checkers_pid", filepath.Join(dir, "checkers")))
}

// programMoby runs test/peers/moby, which times itself.
func (b *benchmark) programMoby(h *lab.Host, table guest.Table) time.Duration {
	cmd := exec.Command(*args.Moby, "-vip", guest.Address.String(), "-port", strconv.Itoa(guest.Port), "-services", strconv.Itoa(table.Services),
		"-first", guest.Node.String(), "-servers", strconv.Itoa(table.Servers))
	var said strings.Builder
	cmd.Stdout = &said
	b.RunIn(h, cmd)
	seconds, err := strconv.ParseFloat(strings.TrimSpace(said.String()), 64)
	if err != nil {
		b.Fatal(fmt.Errorf("moby's answer: %w", err))
	}
	return time.Duration(seconds * float64(time.Second))
}
