// What the checks of `doctor` find on a node, in the cluster and at the other director.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fitCluster is a cluster with two pods that serve, after change.
func fitCluster(h *doctorHost, change func(*apiAnswers)) {
	query, c := h.cfg.ClusterQuery(), newCluster()
	for _, q := range query.Pods {
		for i, a := range []string{"10.0.0.11", "10.0.0.12"} {
			node := netip.MustParseAddr(a)
			c.Pods[q] = append(c.Pods[q], &Pod{Namespace: q.Namespace, Name: fmt.Sprintf("ingress-%d", i), HostNetwork: true, Ready: true, Addresses: []netip.Addr{node}})
		}
	}
	answers := &apiAnswers{cluster: c, apiFacts: &apiFacts{
		credentials: "kubeconfig", certificate: doctorNow.Add(90 * 24 * time.Hour), host: "10.0.0.5:6443", version: "v1.36.3", serverEnds: doctorNow.Add(90 * 24 * time.Hour),
		clockKnown: true, user: "system:serviceaccount:ingress-nginx:lvs-controller",
		may: []apiPermission{
			{verb: "list", resource: "pods", scope: scope{namespace: "ingress-nginx"}, allowed: true},
			{verb: "watch", resource: "pods", scope: scope{namespace: "ingress-nginx"}, allowed: true},
		},
	}}
	change(answers)
	h.ask.api = func() *apiAnswers { return answers }
}

// nodeCases are about a node.
var nodeCases = []doctorCase{
	{"node VIP", "not there", onHost(func(h *doctorHost) { h.net.devices[0].addresses = nil }), `FAIL  node VIP          10.0.0.7 is not on lo, so this node drops the packets to it
      lvs-controller realserver -vip 10.0.0.7
`},
	{"node VIP", "on the uplink", onHost(func(h *doctorHost) {
		h.net.devices[4].addresses, h.net.devices[0].addresses = h.net.devices[0].addresses, nil
	}), `FAIL  node VIP          10.0.0.7 is on bond0.100, where this node answers for it beside the director
      lvs-controller realserver -vip 10.0.0.7
      ip address del 10.0.0.7/32 dev bond0.100
`},
	{"node VIP", "none known", onHost(func(h *doctorHost) { h.node.vips = nil }), `WARN  node VIP          no VIP is known on this node
      lvs-controller doctor -role node -vip ADDR
`},
	{"ARP settings", "not set", inFiles(func(files map[string]string) {
		files["/proc/sys/net/ipv4/conf/bond0.100/arp_ignore"] = "0"
		files["/proc/sys/net/ipv4/conf/bond0.100/arp_announce"] = "1"
	}), `FAIL  ARP settings      net/ipv4/conf/bond0.100/arp_ignore is 0, want 1: the node must not answer ARP for a VIP on lo, or it takes the VIP from the director
      lvs-controller realserver -vip 10.0.0.7
FAIL  ARP settings      net/ipv4/conf/bond0.100/arp_announce is 1, want 2: the node must not use a VIP on lo as the sender of its ARP requests, or its neighbours learn the VIP at its MAC
      lvs-controller realserver -vip 10.0.0.7
`},
	{"ARP settings", "set for all devices", inFiles(func(files map[string]string) {
		files["/proc/sys/net/ipv4/conf/bond0.100/arp_ignore"] = "0"
		files["/proc/sys/net/ipv4/conf/all/arp_ignore"] = "1"
	}), `OK    ARP settings      bond0.100 does not claim the VIPs
`},
	{"tunnel end", "nothing is there", onHost(func(h *doctorHost) { tunnelNode(h, "gue") }), `FAIL  tunnel end        ipip device lvs-ipip is missing
      lvs-controller realserver -vip 10.0.0.7 -tunnel gue
FAIL  tunnel end        10.0.0.7 on lvs-ipip is missing
      lvs-controller realserver -vip 10.0.0.7 -tunnel gue
FAIL  tunnel end        UDP port 6080 for GUE over IPv4 is closed
      lvs-controller realserver -vip 10.0.0.7 -tunnel gue
`},
	{"tunnel end", "a strict filter", func(h *doctorHost, files map[string]string, _ map[string]deviceFacts) {
		kinds := tunnelNode(h, "ipip")
		kinds["ipip"] = []tunnelDevice{{Name: "tunl0", Up: true}}
		files["/proc/sys/net/ipv4/conf/all/rp_filter"] = "1"
		files["/proc/sys/net/ipv4/conf/tunl0/rp_filter"] = "1"
	}, `FAIL  tunnel end        net/ipv4/conf/tunl0/rp_filter is 1, want 2: clients are never routed through the tunnel, so a strict reverse-path filter drops all that comes out of it
      lvs-controller realserver -vip 10.0.0.7 -tunnel ipip
FAIL  tunnel end        10.0.0.7 on tunl0 is missing
      lvs-controller realserver -vip 10.0.0.7 -tunnel ipip
`},
}

// tunnelNode makes the host a node at the end of a tunnel.
func tunnelNode(h *doctorHost, tunnel string) map[string][]tunnelDevice {
	table := &fakeTable{devices: map[string][]deviceAddress{"lo": nil, "tunl0": nil}}
	node := fakeNode{fakeTable: table, fakeTunnels: &fakeTunnels{table: table, kinds: make(map[string][]tunnelDevice)}, others: new([]string)}
	h.node.tunnel, h.node.open = tunnel, func() (nodeNetwork, error) { return node, nil }
	return node.kinds
}

// clusterCases are about the cluster and the other director.
var clusterCases = []doctorCase{
	{"credentials", "they cannot be used", apiSays(func(a *apiAnswers) { a.err = errors.New("kubeconfig: no such file") }), `FAIL  credentials       kubeconfig: no such file
      install/make-kubeconfig.sh -f -o kubeconfig    # where you are cluster administrator
      # then copy it to /etc/lvs-controller/kubeconfig on this host, mode 0600
`},
	{"credentials", "refused, and ended", apiSays(func(a *apiAnswers) {
		a.refused, a.certificate, a.token = true, doctorNow.Add(-time.Hour), doctorNow.Add(50*time.Hour)
		a.warnings = []string{"other users may write to kubeconfig (mode 0666)"}
	}), `FAIL  credentials       the API server does not accept those of kubeconfig
      install/make-kubeconfig.sh -f -o kubeconfig    # where you are cluster administrator
      # then copy it to /etc/lvs-controller/kubeconfig on this host, mode 0600
FAIL  credentials       the client certificate of kubeconfig ended on 2026-11-01 11:00:00
      install/make-kubeconfig.sh -f -o kubeconfig    # where you are cluster administrator
      # then copy it to /etc/lvs-controller/kubeconfig on this host, mode 0600
WARN  credentials       the token of kubeconfig ends in 2 days
      install/make-kubeconfig.sh -f -o kubeconfig    # where you are cluster administrator
      # then copy it to /etc/lvs-controller/kubeconfig on this host, mode 0600
WARN  credentials       other users may write to kubeconfig (mode 0666)
      chown root:root kubeconfig && chmod 600 kubeconfig
`},
	{"credentials", "a token that a program replaces", apiSays(func(a *apiAnswers) {
		a.certificate, a.token, a.rotated = time.Time{}, doctorNow.Add(50*time.Minute), true
	}), `OK    credentials       kubeconfig, its token is valid for 50m0s
`},
	{"credentials", "a file", apiSays(func(a *apiAnswers) {
		a.apiFacts, a.file, a.fileErr = nil, "cluster.json", errors.New("cluster.json: it is empty")
	}), `FAIL  credentials       cluster.json: it is empty
      # write cluster.json, as kubectl get -o json does
`},
	{"API server", "it does not answer", apiSays(func(a *apiAnswers) { a.unreached = errors.New("connection refused") }), `FAIL  API server        10.0.0.5:6443: connection refused
      curl -k -m 5 https://10.0.0.5:6443/version
      # the kernel's table stays as it is; is the server of the kubeconfig right?
`},
	{"API server", "its certificate ends", apiSays(func(a *apiAnswers) { a.serverEnds = doctorNow.Add(5 * 24 * time.Hour) }), `WARN  API server        the certificate of 10.0.0.5:6443 ends in 5 days
      openssl s_client -connect 10.0.0.5:6443 </dev/null | openssl x509 -noout -dates
      kubeadm certs renew apiserver    # on each control plane node, then restart its kube-apiserver
`},
	{"API clock", "before", apiSays(func(a *apiAnswers) { a.ahead = -90 * time.Second }), `WARN  API clock         this host's clock is 1m30s ahead of the API server's: certificates and tokens are judged by both
      timedatectl set-ntp true    # on the host that is wrong
      date -u
`},
	{"permissions", "denied", apiSays(func(a *apiAnswers) {
		config := scope{namespace: "ingress-nginx", name: "tcp-services"}
		a.may = []apiPermission{{verb: "list", resource: "pods", scope: scope{namespace: "ingress-nginx"}, allowed: true}, {verb: "watch", resource: "pods", scope: scope{namespace: "ingress-nginx"}},
			{verb: "list", resource: "configmaps", scope: config}, {verb: "watch", resource: "configmaps", scope: config}, {verb: "list", resource: "nodes"},
			{verb: "list", resource: "gateways", group: gatewayGroup, scope: scope{namespace: "edge", name: "web"}}}
	}), `FAIL  permissions       system:serviceaccount:ingress-nginx:lvs-controller may not watch pods in ingress-nginx
      kubectl create -n ingress-nginx role lvs-controller-pods --verb=list,watch --resource=pods
      kubectl create -n ingress-nginx rolebinding lvs-controller-pods --role=lvs-controller-pods --serviceaccount=ingress-nginx:lvs-controller
FAIL  permissions       system:serviceaccount:ingress-nginx:lvs-controller may not list and watch configmaps tcp-services in ingress-nginx
      kubectl create -n ingress-nginx role lvs-controller-configmaps-tcp-services --verb=list,watch --resource=configmaps --resource-name=tcp-services
      kubectl create -n ingress-nginx rolebinding lvs-controller-configmaps-tcp-services --role=lvs-controller-configmaps-tcp-services --serviceaccount=ingress-nginx:lvs-controller
FAIL  permissions       system:serviceaccount:ingress-nginx:lvs-controller may not list nodes
      kubectl create clusterrole lvs-controller-nodes --verb=list,watch --resource=nodes
      kubectl create clusterrolebinding lvs-controller-nodes --clusterrole=lvs-controller-nodes --serviceaccount=ingress-nginx:lvs-controller
FAIL  permissions       system:serviceaccount:ingress-nginx:lvs-controller may not list gateways web in edge
      kubectl create -n edge role lvs-controller-gateways-web --verb=list,watch --resource=gateways.gateway.networking.k8s.io --resource-name=web
      kubectl create -n edge rolebinding lvs-controller-gateways-web --role=lvs-controller-gateways-web --serviceaccount=ingress-nginx:lvs-controller
`},
	{"permissions", "those of a Service", apiSays(func(a *apiAnswers) {
		slices := scope{namespace: "web"}
		a.may = []apiPermission{{verb: "list", resource: "endpointslices", group: "discovery.k8s.io", scope: slices}, {verb: "watch", resource: "endpointslices", group: "discovery.k8s.io", scope: slices}}
	}), `FAIL  permissions       system:serviceaccount:ingress-nginx:lvs-controller may not list and watch endpointslices in web
      kubectl create -n web role lvs-controller-endpointslices --verb=list,watch --resource=endpointslices.discovery.k8s.io
      kubectl create -n web rolebinding lvs-controller-endpointslices --role=lvs-controller-endpointslices --serviceaccount=ingress-nginx:lvs-controller
`},
	{"permissions", "the server does not say", apiSays(func(a *apiAnswers) { a.may[0].err = errNoReview }), `WARN  permissions       not known: the API server does not say
      kubectl auth can-i --list --as USER
`},
	{"objects", "no pod", apiSays(func(a *apiAnswers) {
		for q := range a.cluster.Pods {
			a.cluster.Pods[q] = nil
		}
	}), `FAIL  objects           vip web: no IPv4 real server is in service
      kubectl get pods -n ingress-nginx -l 'app.kubernetes.io/component=controller,app.kubernetes.io/name=ingress-nginx' -o wide
FAIL  objects           vip web: selector "app.kubernetes.io/component=controller,app.kubernetes.io/name=ingress-nginx" matches no pod
      kubectl get pods -n ingress-nginx --show-labels
      # then in config.toml, in this [[vip]]: selector and namespace
`},
	{"objects", "pods that are not on the network of their node", apiSays(func(a *apiAnswers) {
		for _, pods := range a.cluster.Pods {
			pods[0].HostNetwork = false
		}
	}), `WARN  objects           vip web: pod ingress-nginx/ingress-0 is left out: it is not on hostNetwork, and the VIP is on the pod's node, not in the pod; host_ports = true takes pods that have a hostPort
      kubectl get pods -n ingress-nginx -l 'app.kubernetes.io/component=controller,app.kubernetes.io/name=ingress-nginx' -o wide
      # in the ingress controller's manifest: hostNetwork: true; or in config.toml: host_ports = true
`},
	{"objects", "not read", apiSays(func(a *apiAnswers) { a.cluster, a.unread = nil, errors.New("no answer in time") }), `WARN  objects           not read: no answer in time
      lvs-controller status -config config.toml
`},
	{"peer", "it does not answer", onHost(func(h *doctorHost) { peerSays(h, status{}, errors.New("connection refused")) }), `FAIL  peer              10.0.0.3:9652 does not answer: connection refused
      # on the other director, in config.toml (its listener is on 127.0.0.1 by default; keepalived asks there):
      # listen = ":9652"
      systemctl start lvs-controller
`},
	{"peer", "it answers with an error", onHost(func(h *doctorHost) {
		peerSays(h, status{}, &refusal{"503 Service Unavailable", ": too many requests at a time"})
	}), `FAIL  peer              10.0.0.3:9652 answers with an error: status 503 Service Unavailable: too many requests at a time
      # on the other director:
      lvs-controller status
`},
	{"peer", "not ready", onHost(func(h *doctorHost) { peerSays(h, status{Reason: "no real server is in service"}, nil) }), `FAIL  peer              10.0.0.3:9652 is not ready: no real server is in service
      # on the other director:
      lvs-controller status
`},
	{"peer", "drained", onHost(func(h *doctorHost) { peerSays(h, status{Drained: doctorNow}, nil) }), `WARN  peer              10.0.0.3:9652: an operator has drained it on 2026-11-01 12:00:00
      # on the other director:
      lvs-controller drain -undo
`},
	{"peer table", "another one", onHost(func(h *doctorHost) { peerSays(h, status{Ready: true, TableHash: 78}, nil) }), `FAIL  peer table        this director wants another table (number 77) than 10.0.0.3:9652 (78): clients lose connections when the VIPs move
      # on both directors; the outputs have to be the same:
      sha256sum config.toml
      lvs-controller status | grep -e cluster -e warning -e config
`},
	{"peer table", "an older version there", onHost(func(h *doctorHost) { peerSays(h, status{Ready: true}, nil) }), `WARN  peer table        10.0.0.3:9652 does not say: it has no table yet, or an older version
      # on the other director:
      lvs-controller version
      lvs-controller status
`},
	{"peer table", "the controller is away here", onHost(func(h *doctorHost) {
		h.ask.status = func(controllerAt) (status, error) { return status{}, errors.New("connection refused") }
	}), `WARN  peer table        not known: the controller of this host does not say
      systemctl start lvs-controller
`},
}

// apiSays changes what the API server says.
func apiSays(change func(*apiAnswers)) func(*doctorHost, map[string]string, map[string]deviceFacts) {
	return onHost(func(h *doctorHost) { fitCluster(h, change) })
}

// peerSays has the other director's listener answer so.
func peerSays(h *doctorHost, st status, err error) {
	h.ask.status = func(at controllerAt) (status, error) {
		if at == h.at {
			return status{Ready: true, TableHash: 77}, nil
		}
		return st, err
	}
}

// A check that waits without end is left behind, and the others are not.
func TestDoctorLeavesBehind(t *testing.T) {
	h, files, _ := fitHost()
	h.layOut(t, files)
	h.findServers(nil)
	h.roles = rolePair
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	h.ask.status = func(controllerAt) (status, error) { <-hang; return status{}, nil }
	var out strings.Builder
	began := time.Now()
	counts := printFindings(&out, h.examine(500*time.Millisecond))
	const slow = "      # this host or the network is slow: once more, when it is less busy\n"
	want := "OK    configuration     config.toml is valid\nWARN  peer              not known: no answer within 500ms\n" + slow + "WARN  peer table        not known: no answer within 500ms\n" + slow + "1 OK, 2 WARN, 0 FAIL\n"
	if took := time.Since(began); out.String() != want || counts.code() != exitOK || took > 5*time.Second {
		t.Errorf("after %s:\n%s", took, &out)
	}
}

// The answer for programs has what the one for people has.
func TestDoctorJSON(t *testing.T) {
	h, files, _ := fitHost()
	delete(files, "/proc/net/ip_vs")
	h.layOut(t, files)
	h.findServers(nil)
	h.roles = roleDirector | roleNode
	withoutVIP(h)
	h.ethtool = func(string) (deviceFacts, error) { return deviceFacts{}, errNoEthtool }
	var out strings.Builder
	counts, err := encodeFindings(&out, h.examine(doctorPatience))
	var got doctorReport
	if err := errors.Join(err, json.Unmarshal([]byte(out.String()), &got)); err != nil {
		t.Fatal(err)
	}
	if got.Schema != 1 || got.OK+got.Warn+got.Fail != len(got.Findings) || got.Fail != 1 || counts.code() != exitFailure {
		t.Errorf("%+v", got)
	}
	i := slices.IndexFunc(got.Findings, func(f doctorFinding1) bool { return f.Level == "FAIL" })
	want := doctorFinding1{"VIP", []string{"director"}, "FAIL", "10.0.0.1 of web is on no device of this host, and no other host answers for it",
		[]string{"# keepalived runs and has it in its file:", "journalctl -u keepalived", "lvs-controller ready -config config.toml"}}
	if diff := cmp.Diff(want, got.Findings[i]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Without -role, what a host has decides.
func TestDoctorApplyingRoles(t *testing.T) {
	absent := fmt.Errorf("read: %w", fs.ErrNotExist)
	for name, tt := range map[string]struct {
		change func(h *doctorHost)
		want   doctorRole
	}{
		"a director":                     {func(*doctorHost) {}, roleDirector | roleCluster},
		"a director that is a node":      {func(h *doctorHost) { h.node.prepared = true }, roleDirector | roleNode | roleCluster},
		"a director with static servers": {func(h *doctorHost) { h.cfg.VIPs[0].Pods.Selector = "" }, roleDirector},
		"a director with a mistake":      {func(h *doctorHost) { h.configErr = errors.New("line 3"); h.node.prepared = true }, roleDirector | roleNode},
		"one with a copy": {func(h *doctorHost) {
			h.configErr, h.copied, h.node.prepared = absent, "/c/config.last-good.toml", true
		}, roleDirector | roleNode | roleCluster},
		"a node":                         {func(h *doctorHost) { h.configErr = absent }, roleNode},
		"a host with nothing":            {func(h *doctorHost) { h.configErr = absent; h.node.vips = nil }, roleDirector},
		"a node whose VIPs are on no lo": {func(h *doctorHost) { h.configErr = absent; h.node.prepared = true; h.net.devices = nil }, roleNode},
	} {
		h, _, _ := fitHost()
		tt.change(h)
		if got := h.applyingRoles(); got != tt.want {
			t.Errorf("%s: roles %b, want %b", name, got, tt.want)
		}
	}
}

// A node finds its VIPs and its tunnel in what realserver has saved.
func TestDoctorFindsNode(t *testing.T) {
	h, files, _ := fitHost()
	h.cfg = defaultConfig()
	files[realserverFile] = `{"addresses":[{"device":"lo","address":"10.0.0.9"}],"devices":[{"name":"lvs-ipip","vips":["10.0.0.9"]}],"ports":[{"port":6081,"ipv6":false,"vips":["10.0.0.9"]}]}`
	h.layOut(t, files)
	n := findNode(h)
	if !n.prepared || n.tunnel != "gue" || len(n.vips) != 1 || n.vips[0] != netip.MustParseAddr("10.0.0.9") {
		t.Errorf("%+v", n)
	}
	if got, want := n.prepares(n.vips), "lvs-controller realserver -vip 10.0.0.9 -tunnel gue -tunnel-port 6081"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if err := os.Remove(h.root + realserverFile); err != nil {
		t.Fatal(err)
	}
	if n := findNode(h); n.prepared || n.tunnel != "" || len(n.vips) != 1 || n.vips[0] != netip.MustParseAddr("10.0.0.7") {
		t.Errorf("the address on lo: %+v", n)
	}
}
