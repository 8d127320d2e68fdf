package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiff(t *testing.T) {
	const web, tls, dns = "10.0.0.1:80/tcp", "10.0.0.1:443/tcp", "10.0.0.1:53/udp"
	wlc := service(web, "10.1.0.1", 1, "10.1.0.3", 1)
	wlc.Scheduler = "wlc"
	shared := service(tls, "10.1.0.1", 1)
	tests := []struct {
		name       string
		want, have Table
		ops        []string
	}{
		{"nothing", Table{shared}, Table{shared}, nil},
		{"equal rows", Table{service(web, "10.1.0.1", 1)}, Table{service(web, "10.1.0.1", 1)}, nil},
		{
			"from nothing",
			Table{service(web, "10.1.0.1", 1), service(tls, "10.1.0.1", 2)}, nil,
			[]string{
				"+ 10.0.0.1:80/tcp  scheduler rr  (new virtual service)",
				"+ 10.0.0.1:80/tcp → 10.1.0.1  weight 1",
				"+ 10.0.0.1:443/tcp  scheduler rr  (new virtual service)",
				"+ 10.0.0.1:443/tcp → 10.1.0.1  weight 2",
			},
		},
		{
			"makes before it breaks",
			Table{service(dns, "10.1.0.1", 1), wlc},
			Table{service(web, "10.1.0.1", 2, "10.1.0.2", 1), service(tls, "10.1.0.1", 1)},
			[]string{
				"+ 10.0.0.1:53/udp  scheduler rr  (new virtual service)",
				"+ 10.0.0.1:53/udp → 10.1.0.1  weight 1",
				"~ 10.0.0.1:80/tcp  scheduler rr → wlc  (configuration)",
				"+ 10.0.0.1:80/tcp → 10.1.0.3  weight 1",
				"~ 10.0.0.1:80/tcp → 10.1.0.1  weight 2 → 1",
				"- 10.0.0.1:80/tcp → 10.1.0.2",
				"- 10.0.0.1:443/tcp  (port no longer wanted)",
			},
		},
		{
			"quiesces after it adds",
			Table{service(web, "10.1.0.1", 0, "10.1.0.2", 1)},
			Table{service(web, "10.1.0.1", 1)},
			[]string{
				"+ 10.0.0.1:80/tcp → 10.1.0.2  weight 1",
				"~ 10.0.0.1:80/tcp → 10.1.0.1  weight 1 → 0",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, o := range diffTables(tt.want, tt.have) {
				got = append(got, o.String())
			}
			if diff := cmp.Diff(tt.ops, got); diff != "" {
				t.Errorf("operations (-want +got):\n%s", diff)
			}
		})
	}
}

// String is o as the tests write it.
func (o op) String() string {
	signs := [...]string{newService: "+ ", newServer: "+ ", setService: "~ ", setServer: "~ ", delServer: "- ", delService: "- "}
	line := signs[o.Kind] + o.Service.ServiceKey.String()
	if o.Server != nil {
		line += " → " + o.Server.Name()
	}
	if change := o.change(); change != "" {
		line += "  " + change
	}
	if o.Why != "" {
		line += "  (" + o.Why + ")"
	}
	return line
}
