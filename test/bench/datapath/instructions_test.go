// The base path, and connection tracking on it, by the instructions that a packet takes.

package datapath

import (
	"os"
	"testing"

	"lvs-controller/test/bench/guest"
)

// The time of an emulated processor differs by a tenth from one run to the next. Here the
// guest's clock moves 2 ns with each instruction, so the same path has the same number of
// them within a hundredth.
func TestInstructions(t *testing.T) {
	b := guest.New(t)
	if os.Getenv("LVS_VM_ACCEL") != "icount" {
		t.Fatal("LVS_VM_ACCEL is not icount: this clock does not count instructions")
	}
	withTable(t, 20)
	m := newMeter(b)
	defer m.close()
	m.kind, m.unit, m.units = "instructions", "instructions", 500
	for _, flows := range guest.LongOr(b, []int{1_000, 600_000}, []int{5_000}) {
		w := base(b)
		w.factor, w.flows = "instructions", flows
		m.measure(w)
	}
	for _, w := range trackings(b) {
		w.factor = "instructions"
		m.measure(w)
	}
}
