package main

import (
	"testing"

	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"
)

func TestDefaultRouteDevice(t *testing.T) {
	route := func(family uint8, out, metric uint32, change func(*rtnetlink.RouteMessage)) rtnetlink.RouteMessage {
		m := rtnetlink.RouteMessage{Family: family, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
		m.Attributes.OutIface, m.Attributes.Priority = out, metric
		if change != nil {
			change(&m)
		}
		return m
	}
	multipath := func(m *rtnetlink.RouteMessage) {
		for _, index := range []uint32{7, 8} {
			m.Attributes.Multipath = append(m.Attributes.Multipath,
				rtnetlink.NextHop{Hop: rtnetlink.RTNextHop{IfIndex: index}})
		}
	}
	for _, tt := range []struct {
		name   string
		routes []rtnetlink.RouteMessage
		want   int
	}{
		{"none", nil, 0},
		{"one", []rtnetlink.RouteMessage{route(unix.AF_INET, 2, 0, nil)}, 2},
		{"lowest metric", []rtnetlink.RouteMessage{
			route(unix.AF_INET, 2, 600, nil), route(unix.AF_INET, 3, 100, nil), route(unix.AF_INET, 4, 200, nil)}, 3},
		{"first of equals", []rtnetlink.RouteMessage{
			route(unix.AF_INET, 2, 100, nil), route(unix.AF_INET, 3, 100, nil)}, 2},
		{"several next hops", []rtnetlink.RouteMessage{route(unix.AF_INET, 0, 0, multipath)}, 7},
		{"not these", []rtnetlink.RouteMessage{
			route(unix.AF_INET6, 9, 0, nil),
			route(unix.AF_INET, 9, 0, func(m *rtnetlink.RouteMessage) { m.DstLength = 8 }),
			route(unix.AF_INET, 9, 0, func(m *rtnetlink.RouteMessage) { m.Table = 100 }),
			route(unix.AF_INET, 9, 0, func(m *rtnetlink.RouteMessage) { m.Type = unix.RTN_BLACKHOLE }),
			route(unix.AF_INET, 9, 0, func(m *rtnetlink.RouteMessage) { m.Flags = unix.RTNH_F_DEAD }),
			route(unix.AF_INET, 0, 0, nil), // no device
		}, 0},
	} {
		if got := defaultRouteDevice(tt.routes, unix.AF_INET); got != tt.want {
			t.Errorf("%s: device %d, want %d", tt.name, got, tt.want)
		}
	}
}
