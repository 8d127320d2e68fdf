// The control plane that end-to-end tests and drills share: test/e2e holds it outside
// the guest, and -control is where it is steered.

package director

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lvs-controller/test/args"
	"lvs-controller/test/cluster"
	"lvs-controller/test/lab"
)

// plane is the control plane as a test sees it.
type plane struct {
	control *cluster.Control
	info    *cluster.Info
	admin   *cluster.Client
	cut     atomic.Bool // the director cannot reach the API server
}

// newPlane reaches the control plane that -control names, from the guest.
func newPlane(t *testing.T) *plane {
	t.Helper()
	if *args.Control == "" {
		t.Fatal("needs a control plane: -control is missing")
	}
	var (
		p   plane
		err error
	)
	p.control, p.info, p.admin, err = cluster.Reach(t.Context(), *args.Control, cluster.GuestHost)
	lab.Must(t, err)
	return &p
}

// account makes a service account with the RBAC that install/ ships, in a
// fresh namespace, and returns a kubeconfig for it. The API server is on the
// director's own loopback, where relay brings it.
func (p *plane) account(t *testing.T, namespace string) []byte {
	t.Helper()
	return p.accountBy(t, namespace, "rbac.yaml")
}

// accountBy is account with the rights of one of the manifests in install/.
func (p *plane) accountBy(t *testing.T, namespace, manifest string) []byte {
	t.Helper()
	lab.Must(t, p.admin.CreateNamespace(t.Context(), namespace))
	text, err := os.ReadFile(installed(manifest))
	lab.Must(t, err)
	lab.Must(t, p.admin.Apply(t.Context(), namespace, strings.ReplaceAll(string(text), "namespace: ingress-nginx", "namespace: "+namespace)))
	token, err := p.admin.ServiceAccountToken(t.Context(), namespace, "lvs-controller", time.Hour)
	lab.Must(t, err)
	return cluster.Kubeconfig(fmt.Sprintf("https://127.0.0.1:%d", p.info.Port), p.info.CA, token)
}

// relay lets the director, which has no way out of its namespace, reach the
// API server on its own loopback.
func (p *plane) relay(t *testing.T, director *lab.Host) {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", p.info.Port)
	var (
		ln  net.Listener
		err error
	)
	director.Do(func() { ln, err = net.Listen("tcp", address) })
	lab.Must(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			inside, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer inside.Close()
				if p.cut.Load() {
					return
				}
				outside, err := net.Dial("tcp", net.JoinHostPort(cluster.GuestHost, strconv.Itoa(p.info.Port)))
				if err != nil {
					return
				}
				defer outside.Close()
				go func() {
					io.Copy(outside, inside)
					outside.Close()
				}()
				io.Copy(inside, outside)
			}()
		}
	}()
}
