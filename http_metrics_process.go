// Metrics of the process itself, under the names that Go programs have.
//
// Used by http_metrics.go and cmd_realserver_metrics.go. It reads the Go runtime and
// /proc/self, and changes nothing.

package main

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// writeProcess writes them. started is when the process started.
func writeProcess(e *exposition, started time.Time) {
	one := func(name string, typ metricType, help string, value float64) {
		e.head(name, typ, help)
		e.add(value)
	}
	var use unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &use) == nil {
		one("process_cpu_seconds_total", counter, "Processor time that the process has used.", float64(use.Utime.Nano()+use.Stime.Nano())/1e9)
	}
	if size := bytes.Fields(readHead("/proc/self/statm")); len(size) > 1 {
		pages := func(text []byte) float64 {
			n, _ := strconv.ParseUint(string(text), 10, 64) // 0 for what is no number
			return float64(n) * float64(os.Getpagesize())
		}
		one("process_virtual_memory_bytes", gauge, "Virtual memory of the process.", pages(size[0]))
		one("process_resident_memory_bytes", gauge, "Resident memory of the process.", pages(size[1]))
	}
	one("process_start_time_seconds", gauge, "When the process started.", unixSeconds(started))
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		one("process_open_fds", gauge, "Open file descriptors.", float64(len(open)-1)) // without the one that reads the list
	}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		one("process_max_fds", gauge, "Largest number of open file descriptors.", float64(limit.Cur))
	}
	e.head("go_info", gauge, "The version of Go.")
	e.add(1, "version", runtime.Version())
	threads, _ := runtime.ThreadCreateProfile(nil)
	one("go_threads", gauge, "Threads that were created.", float64(threads))
	one("go_goroutines", gauge, "Goroutines.", float64(runtime.NumGoroutine()))
	one("go_gomaxprocs", gauge, "Processors that Go uses at a time.", float64(runtime.GOMAXPROCS(0)))
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	one("go_memstats_alloc_bytes", gauge, "Memory of objects on the heap.", float64(m.Alloc))
	one("go_memstats_alloc_bytes_total", counter, "Memory allocated for objects on the heap.", float64(m.TotalAlloc))
	one("go_memstats_mallocs_total", counter, "Objects allocated on the heap.", float64(m.Mallocs))
	one("go_memstats_frees_total", counter, "Objects freed on the heap.", float64(m.Frees))
	one("go_memstats_heap_inuse_bytes", gauge, "Heap that is in use.", float64(m.HeapInuse))
	one("go_memstats_heap_idle_bytes", gauge, "Heap that is not in use.", float64(m.HeapIdle))
	one("go_memstats_heap_released_bytes", gauge, "Heap that went back to the system.", float64(m.HeapReleased))
	one("go_memstats_heap_sys_bytes", gauge, "Heap taken from the system.", float64(m.HeapSys))
	one("go_memstats_stack_inuse_bytes", gauge, "Memory of stacks that are in use.", float64(m.StackInuse))
	one("go_memstats_buck_hash_sys_bytes", gauge, "Memory of the profiles' table, which only -debug needs.", float64(m.BuckHashSys))
	one("go_memstats_sys_bytes", gauge, "Memory taken from the system.", float64(m.Sys))
	one("go_memstats_next_gc_bytes", gauge, "Size of the heap at which the next garbage collection begins.", float64(m.NextGC))
	one("go_memstats_last_gc_time_seconds", gauge, "When the last garbage collection ended.", float64(m.LastGC)/1e9)
	e.head("go_gc_duration_seconds", "summary", "Pauses of garbage collections.")
	e.name = "go_gc_duration_seconds_sum"
	e.add(float64(m.PauseTotalNs) / 1e9)
	e.name = "go_gc_duration_seconds_count"
	e.add(float64(m.NumGC))
}
