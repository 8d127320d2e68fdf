// Warnings about the inputs of a desired table.
//
// Used by reconcile*.go and cmd*.go. desired*.go finds something wrong with a pod, a
// ConfigMap or a VIP. Whatever the number of faults, a VIP has one warning of each kind:
// what a tenant writes into a ConfigMap or an annotation does not decide how much is kept
// or printed. Pure; no I/O.

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// warningKind tells apart what a warning is about.
type warningKind string

const (
	warnConfigMap     warningKind = "ConfigMap"      // one that does not exist
	warnService       warningKind = "Service"        // one that does not exist, or has nothing to lead to
	warnServicePort   warningKind = "Service port"   // a port of it that cannot count
	warnEntry         warningKind = "entry"          // of a ConfigMap: it is skipped
	warnProxy         warningKind = "proxy"          // an entry that wants the PROXY protocol
	warnGateway       warningKind = "Gateway"        // one that does not exist, or none of a selection
	warnListener      warningKind = "listener"       // of a Gateway: it opens no port
	warnProtocol      warningKind = "protocol"       // of a listener: one that is not known
	warnHostNetwork   warningKind = "hostNetwork"    // a pod that is not on it
	warnHostPort      warningKind = "hostPort"       // a port that no pod has
	warnHostIP        warningKind = "hostIP"         // a host port at one address of its node
	warnFamily        warningKind = "family"         // a pod without an address of it
	warnOwnAddress    warningKind = "own address"    // a pod whose node has a VIP's address
	warnOtherAddress  warningKind = "other address"  // an annotation that names none of the node's
	warnAddress       warningKind = "address"        // a pod whose node has an address that no packet can go to
	warnSelector      warningKind = "selector"       // it matches no pod
	warnNodes         warningKind = "nodes"          // there are none to follow
	warnRouter        warningKind = "router"         // a real server that is behind one
	warnWeight        warningKind = "weight"         // an annotation that cannot be used
	warnScheduler     warningKind = "scheduler"      // it refuses clients during a drain
	warnNothingServes warningKind = "nothing serves" // no real server is in service
	warnPortTaken     warningKind = "port taken"     // one that another VIP of the address has
	warnPortNames     warningKind = "port names"     // none of them is that of a pod's port
	warnInsidePort    warningKind = "inside port"    // a pod's port that clients are hardly meant to reach

	noteLeftOut warningKind = "left out" // a pod's port of another name than port_names: it is as the operator wants it
)

// faults are those of one VIP and kind.
type faults struct {
	vip  string
	kind warningKind
	// about is what else tells faults of the same kind apart, such as the name of
	// a ConfigMap.
	about string
	texts []string // of the first shownWarnings
	count int
}

// faultList has one element for each VIP, kind and about.
type faultList []faults

// find returns the element for vip, kind and about, which it adds if need be.
func (l *faultList) find(vip string, kind warningKind, about string) *faults {
	i := slices.IndexFunc(*l, func(f faults) bool { return f.kind == kind && f.about == about && f.vip == vip })
	if i < 0 {
		i = len(*l)
		*l = append(*l, faults{vip: vip, kind: kind, about: about})
	}
	return &(*l)[i]
}

// add counts one more fault. Only a text that is kept is formatted.
func (f *faults) add(format string, args ...any) {
	if f.count++; len(f.texts) < shownWarnings {
		f.texts = append(f.texts, fmt.Sprintf(format, args...))
	}
}

// merge adds the faults of o. Those of the two families of a VIP are often the
// same ones.
func (l *faultList) merge(o faultList) {
	for _, more := range o {
		f := l.find(more.vip, more.kind, more.about)
		all := slices.Clone(f.texts)
		for _, text := range more.texts {
			if !slices.Contains(all, text) {
				all = append(all, text)
			}
		}
		whole := f.count == len(f.texts) && more.count == len(more.texts)
		if f.count = max(f.count, more.count); whole {
			f.count = len(all)
		}
		f.texts = all[:min(len(all), shownWarnings)]
	}
}

// Warning says what is wrong with the inputs.
type Warning struct {
	// Subject is the same for as long as the same kind of thing is wrong with the
	// same VIP.
	Subject string
	Text    string // whole sentences on one line
}

// warnings are the faults as warnings, sorted by text, and those which are only notes:
// they are logged, and nothing has to be done.
func (l faultList) warnings() (all, notes []Warning) {
	for _, f := range l {
		text := "vip " + f.vip + ": " + strings.Join(f.texts, "; ")
		if more := f.count - len(f.texts); more > 0 {
			text += fmt.Sprintf("; and %d more", more)
		}
		list := &all
		if f.kind == noteLeftOut {
			list = &notes
		}
		*list = append(*list, Warning{f.vip + "/" + string(f.kind) + "/" + f.about, text})
	}
	for _, list := range [][]Warning{all, notes} {
		sortBy(list, func(a, b Warning) int { return cmp.Or(cmp.Compare(a.Text, b.Text), cmp.Compare(a.Subject, b.Subject)) })
	}
	return all, notes
}

// warningTexts are the texts of ws.
func warningTexts(ws []Warning) []string {
	var texts []string
	for _, w := range ws {
		texts = append(texts, w.Text)
	}
	return texts
}
