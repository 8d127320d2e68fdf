// Floods of SYNs, one setting of the kernel varied at a time.

package datapath

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/bench/guest"
)

func TestMain(m *testing.M) {
	if size := os.Getenv(ballastSize); size != "" {
		if err := beBallast(size); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// asItComes is the kernel without the controller's settings.
const asItComes = "drop_entry = 0\ndrop_packet = 0\namemthresh = 1024\n"

// floods are the cases of the long form. What is recommended has to hold. Where memory is
// short, some clients wait longer than a Load does: a SYN that the kernel drops is sent
// again after one second and after three.
var floods = []flood{
	{id: "kernel", name: "as the kernel comes", bits: 12, settings: asItComes},
	{id: "buckets", name: "2^20 buckets", settings: asItComes},
	{id: "entry", name: "`drop_entry = 3`", settings: "drop_entry = 3\ndrop_packet = 0\n"},
	{id: "packet", name: "`drop_packet = 3`", settings: "drop_entry = 0\ndrop_packet = 3\n"},
	{id: "secure", name: "`secure_tcp = 3`", settings: asItComes + "secure_tcp = 3\n"},
	{id: "max", name: "`conn_max = 100000`", settings: asItComes + "conn_max = 100000\n"},
	{id: "max-entry", name: "`conn_max = 100000`, `drop_entry = 3`", settings: "drop_entry = 3\ndrop_packet = 0\nconn_max = 100000\n"},
	{id: "controller", name: "the controller's", want: 99},
	{id: "short", name: "2^20 buckets", settings: asItComes, free: 250},
	{id: "short-modes", name: "`drop_entry = 1`, `drop_packet = 1`", settings: "amemthresh = 1024\n", free: 250},
	{id: "short-controller", name: "the controller's", free: 250},
	{id: "short-entry", name: "recommended, but `drop_packet = 0`", free: 250, scale: 1000, settings: "drop_packet = 0\n"},
	{id: "short-packet", name: "recommended, but `drop_entry = 0`", free: 250, scale: 1000, settings: "drop_entry = 0\n"},
	{id: "short-recommended", name: "recommended", free: 250, scale: 1000, want: 95},
}

// shortFloods are those of the short form, which is too short to make memory short.
var shortFloods = []flood{
	{id: "controller", name: "the controller's", want: 99},
	{id: "active", name: "the controller's, with defences that are active all the time", active: true, want: 99},
}

// floodsOf are those that a kernel of this release can have: conn_max is of Linux 7.
func floodsOf(release string) []flood {
	return slices.DeleteFunc(slices.Clone(floods), func(f flood) bool {
		return strings.Contains(f.settings, "conn_max") && strings.HasPrefix(release, "6.")
	})
}

func TestFlood(t *testing.T) {
	b := guest.New(t)
	var rows strings.Builder
	for _, f := range guest.LongOr(b, floodsOf(kernelRelease(t)), shortFloods) {
		f.syns = guest.LongOr(b, 1_000_000, 50_000)
		t.Run(f.id, func(t *testing.T) {
			o := f.run(t, guest.LongOr(b, 5*time.Second, 2*time.Second))
			t.Log(o)
			rows.WriteString(o.row(f))
			if f.want > 0 {
				o.judge(t, f)
			}
		})
	}
	t.Logf("%d SYNs, Linux %s\n%s%s", guest.LongOr(b, 1_000_000, 50_000), kernelRelease(t), floodHead, rows.String())
}
