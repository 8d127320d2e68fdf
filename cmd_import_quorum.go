// The quorum of keepalived.conf → that of [vip.health].
//
// Used by cmd*.go. keepalived adds up the weights of the real servers that are
// alive, and its hysteresis works to both sides (ipwrapper.c, update_quorum_state);
// config.toml has numbers of real servers, the lower one and the distance. A quorum is
// taken when both say the same of each set of real servers. Pure.

package main

import (
	"slices"
	"strconv"
)

// read takes quorum or hysteresis. b gets what is wrong.
func (q *importQuorum) read(b *importService, c *confStatement) {
	n, err := strconv.ParseUint(c.word(1), 10, 32)
	switch {
	case err != nil:
		b.remark(c, quote(c.word(1))+" is no number")
	case c.word(0) == "hysteresis":
		if q.around = n; n > 0 {
			q.aroundSet = c.at
		}
	default:
		q.least, q.at = n, nil
		if n > 1 { // with 1, and with 0, the last real server is what counts
			q.at = c.at
		}
	}
}

// fitQuorum decides whether config.toml can say the quorum of s.
func (s *importService) fitQuorum() {
	q := &s.quorum
	if q.at == nil {
		if q.aroundSet != nil {
			s.remarks = append(s.remarks, remark{at: q.aroundSet, text: "hysteresis: there is no quorum above 1"})
		}
		return
	}
	var weights []uint32
	sum := uint64(0)
	for _, r := range s.fitting() {
		if r.Weight > 0 {
			weights = append(weights, r.Weight)
			sum += uint64(r.Weight)
		}
	}
	sorry := slices.ContainsFunc(s.sorry, func(r importServer) bool { return r.refused == "" })
	least := min(q.least, sum) // as keepalived bounds both
	around := min(q.around, least-min(least, 1))
	lost, ok := fewestOf(weights, least-around)
	regained, also := fewestOf(weights, least+around)
	switch {
	case !sorry:
		s.refuseQuorum(`without a sorry_server keepalived starts quorum_down and goes on; quorum in [vip.health] with below_quorum = "withdraw" gives up the address`)
	case !ok || !also:
		s.refuseQuorum("it is a sum of weights, and that of a VIP a number of real servers: with these weights none means the same")
	default:
		q.Quorum = Quorum{Least: lost, Hysteresis: regained - lost, Sorry: true}
	}
}

// refuseQuorum notes why the quorum is not taken.
func (s *importService) refuseQuorum(why string) {
	s.quorum.Quorum = Quorum{}
	s.remarks = append(s.remarks, remark{at: s.quorum.at, text: "quorum: " + why})
	if at := s.quorum.aroundSet; at != nil {
		s.remarks = append(s.remarks, remark{at: at, text: "hysteresis: it belongs to the quorum, which is not taken"})
	}
}

// fewestOf is the number of real servers whose weights are least together, whichever
// they are: fewer never are. ok reports that there is one.
func fewestOf(weights []uint32, least uint64) (n uint16, ok bool) {
	const most = 10_000 // of the key quorum
	slices.Sort(weights)
	low, high := uint64(0), uint64(0) // sums of the smallest n, and of the greatest n-1
	for i, w := range weights {
		if low += uint64(w); low >= least {
			return uint16(i + 1), high < least && i < most
		}
		high += uint64(weights[len(weights)-1-i])
	}
	return 0, false
}
