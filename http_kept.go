// Why a real server stays though the newest inputs do not put it there, which the loop
// does not say with its row.
//
// Used by http_status.go. Pure.

package main

import "strings"

// keptReasons is what is known of that, for all VIPs.
type keptReasons struct {
	vips   map[string]*VIP
	open   []FailOpen
	behind map[string]bool // VIPs whose real servers the cluster does not say now
}

// newKeptReasons is what v and the streams say.
func newKeptReasons(v *loopState, streams []StreamState) *keptReasons {
	k := &keptReasons{vips: make(map[string]*VIP), open: v.Health.orEmpty().Open, behind: make(map[string]bool)}
	if v.Config == nil {
		return k
	}
	old := make(map[string]bool)
	for i := range streams {
		if !streams[i].current() {
			old[streams[i].Name] = true
		}
	}
	for i := range v.Config.VIPs {
		vip := &v.Config.VIPs[i]
		k.vips[vip.Name] = vip
		if len(old) == 0 {
			continue
		}
		for _, q := range vip.PodQueries() {
			one := ClusterQuery{Pods: []PodQuery{q}}
			for _, key := range allKeys(&one) {
				k.behind[vip.Name] = k.behind[vip.Name] || old[key.String()]
			}
		}
	}
	return k
}

// of is what why, the reason of a row of a service of the VIP, becomes.
func (k *keptReasons) of(vip string, key ServiceKey, r *Row) string {
	switch v := k.vips[vip]; {
	case v == nil:
		return r.Why
	case r.Why == "":
		return "kept as it was found, the inputs of the VIP are not known yet"
	case r.Weight == 0:
		return r.Why
	default:
		var all []string
		for _, o := range k.open {
			if o.VIP != vip || o.Is6 != key.Address.Is6() {
				continue
			}
			if o.Port == 0 {
				all = append(all, "kept, all real servers fail their probes")
			} else if key.Mark == 0 && key.Protocol == TCP && key.Port == o.Port {
				all = append(all, "kept, this port fails on all real servers")
			}
		}
		if k.behind[vip] && !v.isStatic(r.Address) {
			all = append(all, "as the cluster said last")
		}
		return strings.Join(append([]string{r.Why}, all...), ", ")
	}
}
