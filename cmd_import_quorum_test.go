// What `import` makes of the quorum of a virtual server.

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A quorum is taken where it means the same for each set of real servers.
func TestImportQuorum(t *testing.T) {
	for _, test := range []struct {
		quorum, weights, want string // want: least and hysteresis
	}{
		{"2", "1 1 1", "2 0"},
		{"3\nhysteresis 1", "1 1 1 1", "2 2"},
		{"5", "2 2 2 2", "3 0"},
		{"4\nhysteresis 1", "2 2 2", "2 1"},
		{"3", "1 1 2", ""},     // two are enough or not
		{"4", "1 2 2", ""},     // likewise
		{"2", "2 3 4", "1 0"},  // any of them
		{"9", "2 3 4", "3 0"},  // all of them
		{"99", "1 1 1", "3 0"}, // keepalived takes all, too
		{"2\nhysteresis 9", "1 1 1", "1 2"},
		{"3\nhysteresis 1", "1 1 1", ""}, // never regained
		{"2", "1 1 0", "2 0"},
		{"2", "0 0", ""},
	} {
		conf := "quorum " + test.quorum + "\nsorry_server 10.0.0.9\n"
		for i, w := range strings.Fields(test.weights) {
			conf += fmt.Sprintf("real_server 10.0.1.%d 53 {\nweight %s\nDNS_CHECK\n}\n", i+1, w)
		}
		text, count := importConf(t, strings.Replace(checkedConf, "%", conf, 1))
		checkResult(t, text, count)
		cfg, err := ParseConfig("config.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if q := cfg.VIPs[0].Probes.Quorum; q.Least > 0 {
			if got = fmt.Sprint(q.Least, q.Hysteresis); !q.Sorry {
				t.Errorf("%s of %s: withdraws", test.quorum, test.weights)
			}
		}
		if got != test.want || strings.Contains(text, ": quorum: it is a sum of weights") != (got == "") {
			t.Errorf("%s of %s: %q, want %q in\n%s", test.quorum, test.weights, got, test.want, text)
		}
	}
	// With random weights, the numbers of real servers decide as the sums do.
	random := rand.New(rand.NewPCG(7, 7))
	taken := 0
	for range 5000 {
		weights := make([]uint32, 1+random.IntN(6))
		for i := range weights {
			weights[i] = 1 + random.Uint32N(4)
		}
		least := 1 + random.Uint64N(12)
		n, ok := fewestOf(slices.Clone(weights), least)
		same := true
		for set := range 1 << len(weights) {
			sum, alive := uint64(0), uint16(0)
			for i, w := range weights {
				if set>>i&1 != 0 {
					sum, alive = sum+uint64(w), alive+1
				}
			}
			same = same && (sum >= least) == (alive >= n)
		}
		if ok && !same {
			t.Fatalf("%d of %v is not %d real servers", least, weights, n)
		}
		if ok {
			taken++
		}
	}
	if taken < 1000 {
		t.Errorf("only %d taken", taken)
	}
}

// Each virtual server with a quorum is a VIP, because it counts alone; the port that it
// checks takes a real server out as a whole.
func TestImportQuorumVIPs(t *testing.T) {
	server := func(at, more string) string {
		return "virtual_server " + at + " {\nprotocol TCP\nlb_kind DR\nquorum 2\n" + more + "\nreal_server 10.0.1.1 80 { TCP_CHECK }\nreal_server 10.0.1.2 80 { TCP_CHECK }\n}\n"
	}
	group := "virtual_server_group g {\n10.0.0.1-2 80\n10.0.0.1-2 81\n}\n"
	for _, test := range []struct {
		conf string
		want []string // address, ports and probes of each VIP
	}{
		{server("10.0.0.1 80", "sorry_server 10.0.0.9") + server("10.0.0.1 443", "sorry_server 10.0.0.9") + server("10.0.0.1 444", ""),
			[]string{"[10.0.0.1] [80/tcp] tcp 80 ports false quorum 2", "[10.0.0.1] [443/tcp] tcp 80 ports false quorum 2", "[10.0.0.1] [444/tcp] tcp 80 ports false quorum 0"}},
		{server("10.0.0.1 80", ""), []string{"[10.0.0.1] [80/tcp] tcp 0 ports true quorum 0"}},
		{group + server("group g", "sorry_server 10.0.0.9"), []string{"[10.0.0.1 10.0.0.2] [80/tcp 81/tcp] tcp 80 ports false quorum 2"}},
		{strings.ReplaceAll(server("10.0.0.1 80", "sorry_server 10.0.0.9"), "TCP_CHECK", "PING_CHECK"), []string{"[10.0.0.1] [80/tcp] none"}},
	} {
		text, count := importConf(t, test.conf)
		checkResult(t, text, count)
		cfg, err := ParseConfig("config.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, v := range cfg.VIPs {
			line := fmt.Sprint(v.Addresses, v.Ports, " none")
			if p := v.Probes; p != nil {
				line = fmt.Sprint(v.Addresses, v.Ports, " tcp ", p.TCP, " ports ", p.Ports, " quorum ", p.Quorum.Least)
			} else if !strings.Contains(text, "quorum: without a checker that is taken, no real server is found to be down") {
				t.Errorf("no comment in\n%s", text)
			}
			got = append(got, strings.Replace(line, "][", "] [", 1))
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s(-want +got):\n%s\n%s", test.conf, diff, text)
		}
	}
}
