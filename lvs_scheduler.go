// The schedulers of IPVS and their flags, each described in one place.
//
// Used by table*.go, diff.go, config*.go, genl*.go, desired*.go and cmd*.go. A new
// scheduler is one line of schedulers, a new flag one line of serviceFlags, and both
// a word in config.toml.example and docs/features.md: a test compares the lists.
// Standard library only, no state, no I/O.

package main

import (
	"cmp"
	"fmt"
	"strings"
)

// scheduler is what the program knows of a scheduler of the kernel.
type scheduler struct {
	name  string // as the kernel has it; its module is ip_vs_NAME
	since string // the first version of Linux that has it; "" for long ago

	// byWeight: a real server's share of the clients grows with its weight. To fo
	// and ovf the weight is a rank and a limit; of the others' weights only 0 has
	// a meaning.
	byWeight bool
	// sticks: all of a client's connections go to one real server, whatever their
	// port, unless the flag spreads is set.
	sticks  bool
	spreads ServiceFlags
	// consistent: every director that has the same real servers chooses the same
	// one for a client.
	consistent bool
	// fallback is the flag without which the scheduler refuses the new clients of
	// a quiesced real server: that one keeps its place in the scheduler's table
	// (ip_vs_sh_get; ip_vs_mh_get, and last_weight in __ip_vs_update_dest). It is
	// the default of flags.
	fallback ServiceFlags
	// atOnce: a real server is removed and not quiesced. dh sends a VIP's clients
	// to one real server and, while that one is quiesced, refuses them all
	// (ip_vs_dh_schedule).
	atOnce bool
}

// schedulers are those that a configuration can name.
var schedulers = []scheduler{
	{name: "rr"},
	{name: "wrr", byWeight: true},
	{name: "lc"},
	{name: "wlc", byWeight: true},
	{name: "lblc", byWeight: true},
	{name: "lblcr", byWeight: true},
	{name: "dh", sticks: true, atOnce: true},
	{name: "sh", byWeight: true, sticks: true, spreads: FlagSched2, fallback: FlagSched1},
	{name: "sed", byWeight: true},
	{name: "nq", byWeight: true},
	{name: "fo", since: "3.18"},
	{name: "ovf", since: "4.3"},
	{name: "mh", since: "4.18", byWeight: true, sticks: true, consistent: true, spreads: FlagSched2, fallback: FlagSched1},
	{name: "twos", since: "5.12", byWeight: true},
}

// serviceFlags are the flags of virtual services that a configuration can name.
var serviceFlags = []struct {
	word      string
	bit       ServiceFlags
	scheduler string // the only one that has it; "" = it is for UDP, whatever the scheduler
}{
	{"sh-port", FlagSched2, "sh"},     // IP_VS_SVC_F_SCHED_SH_PORT
	{"sh-fallback", FlagSched1, "sh"}, // IP_VS_SVC_F_SCHED_SH_FALLBACK
	{"mh-port", FlagSched2, "mh"},     // IP_VS_SVC_F_SCHED_MH_PORT
	{"mh-fallback", FlagSched1, "mh"}, // IP_VS_SVC_F_SCHED_MH_FALLBACK
	{"ops", FlagOnePacket, ""},
}

// schedulersByName has one name for each, so that a dump of a large table does
// not make one for each service.
var schedulersByName = func() map[string]*scheduler {
	byName := make(map[string]*scheduler)
	for i := range schedulers {
		byName[schedulers[i].name] = &schedulers[i]
	}
	return byName
}()

// findScheduler returns the scheduler of that name. One that is not known has no
// properties: another program's service may have one.
func findScheduler(name string) *scheduler {
	if s := schedulersByName[name]; s != nil {
		return s
	}
	return &otherScheduler
}

var otherScheduler scheduler

// knownScheduler reports whether a configuration can name that scheduler.
func knownScheduler(name string) bool { return schedulersByName[name] != nil }

// schedulerNames are the names of the schedulers for which accept reports true.
func schedulerNames(accept func(scheduler) bool) []string {
	var names []string
	for _, s := range schedulers {
		if accept(s) {
			names = append(names, s.name)
		}
	}
	return names
}

// word is the word for one of s's own flags, "" for none.
func (s *scheduler) word(bit ServiceFlags) string {
	for _, f := range serviceFlags {
		if f.scheduler == s.name && f.bit == bit {
			return f.word
		}
	}
	return ""
}

// missingScheduler is a hint for a kernel that refuses the scheduler of that name.
func missingScheduler(name string) string {
	text := fmt.Sprintf("the kernel has no scheduler %q: module ip_vs_%[1]s is missing", name)
	if since := findScheduler(name).since; since != "" {
		text += "; Linux " + since + " and later have it"
	}
	return text
}

// flagWords are the flags of a service as a configuration and ipvsadm name them, with
// commas; "" for none.
func flagWords(v *VirtualService) string {
	var words []string
	for _, f := range []struct {
		bit  ServiceFlags
		word string
	}{
		{FlagPersistent, "persistent"},
		{FlagOnePacket, "ops"},
		{FlagSched1, "flag-1"},
		{FlagSched2, "flag-2"},
		{FlagSched3, "flag-3"},
	} {
		if v.Flags&f.bit != 0 {
			words = append(words, cmp.Or(findScheduler(v.Scheduler).word(f.bit), f.word))
		}
	}
	return strings.Join(words, ",")
}
