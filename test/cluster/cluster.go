// Package cluster runs a real Kubernetes control plane, etcd and
// kube-apiserver, for tests, and offers a small client to fill it with pods,
// ConfigMaps and RBAC rules.
//
// Tests on the host call Start. Tests inside a virtual machine use only
// NewClient and NewControl, with a cluster their host has started.
//
// There is no controller manager, scheduler or kubelet: nothing moves unless
// the test moves it. A deleted pod that has a node stays Terminating until it
// is deleted with grace 0; a deleted namespace stays for ever, so use a fresh
// one for each test.
//
// The package uses the standard library only, listens on the loopback only, and
// leaves neither processes nor files outside DataDir behind.
package cluster

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// GuestHost is where a qemu guest with user networking finds the host's
// loopback.
const GuestHost = "10.0.2.2"

const (
	startPatience = 90 * time.Second // readiness of one process, on a busy machine
	stopPatience  = 30 * time.Second // SIGTERM until SIGKILL
	probeInterval = 50 * time.Millisecond
	probePatience = 5 * time.Second
)

// Ports are taken below the kernel's ephemeral range. In that range a client
// that retries while the server is down can be given the server's port as its
// own, connect to itself, and keep the server from ever coming back.
const (
	firstPort = 20000
	portCount = 10000
	portTries = 100
)

// Options say where a cluster lives.
type Options struct {
	// BinDir holds the binaries etcd and kube-apiserver.
	BinDir string
	// DataDir gets the keys, the logs and etcd's data. It is made if missing.
	DataDir string
	// ExtraSANs are names and IP addresses of the serving certificate, beside
	// 127.0.0.1, GuestHost, localhost and kubernetes.
	ExtraSANs []string
	// APIFlags are further flags of kube-apiserver. They come last, so they
	// override, as in "--min-request-timeout=4" to have watches closed often.
	APIFlags []string
}

// Cluster is one control plane. Its methods may be called concurrently.
type Cluster struct {
	opts  Options
	port  int // of kube-apiserver, the same for the cluster's life
	ca    []byte
	token string
	admin *Client

	mu      sync.Mutex // guards the processes
	etcd    *process
	etcdURL string
	api     *process
}

// Start starts a cluster and returns once it is ready. The context limits the
// start only; the cluster runs until Stop, or until this process ends.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	c := &Cluster{opts: opts, token: rand.Text()}
	if err := c.prepare(); err != nil {
		return nil, fmt.Errorf("prepare cluster: %w", err)
	}
	if err := c.startEtcd(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	if err := c.StartAPI(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// prepare chooses the ports, writes the files and makes the admin's client.
func (c *Cluster) prepare() error {
	if err := os.MkdirAll(c.opts.DataDir, 0o700); err != nil {
		return err
	}
	sans := []string{"127.0.0.1", GuestHost, "localhost", "kubernetes"}
	keys, err := newPKI(append(sans, c.opts.ExtraSANs...))
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"ca.crt":      keys.ca,
		"serving.crt": keys.servingCert,
		"serving.key": keys.servingKey,
		"sa.key":      keys.serviceAccount,
		"tokens.csv":  []byte(c.token + `,admin,admin,"system:masters"` + "\n"),
	} {
		if err := os.WriteFile(c.file(name), content, 0o600); err != nil {
			return err
		}
	}
	c.ca = keys.ca

	etcdPort, err := freePort()
	if err != nil {
		return err
	}
	c.etcdURL = "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(etcdPort))
	if c.port, err = freePort(); err != nil {
		return err
	}
	c.admin, err = NewClient(c.URL(""), c.ca, c.token)
	return err
}

// file names a file in the data directory.
func (c *Cluster) file(name string) string { return filepath.Join(c.opts.DataDir, name) }

// startEtcd starts etcd and waits until it serves.
func (c *Cluster) startEtcd(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	etcd, err := startProcess("etcd", c.file("etcd.log"), filepath.Join(c.opts.BinDir, "etcd"), []string{
		"--data-dir=" + c.file("etcd"),
		"--listen-client-urls=" + c.etcdURL,
		"--advertise-client-urls=" + c.etcdURL,
		"--listen-peer-urls=http://127.0.0.1:0",
		"--unsafe-no-fsync",
		"--log-level=warn",
	})
	if err != nil {
		return err
	}
	c.etcd = etcd
	return waitFor(ctx, etcd, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.etcdURL+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
}

// StartAPI starts kube-apiserver, on the same port and with the same data as
// before, and returns once it is ready. It does nothing if it runs already.
func (c *Cluster) StartAPI(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.api.ended() {
		return nil
	}
	flags := []string{
		"--etcd-servers=" + c.etcdURL,
		"--bind-address=127.0.0.1",
		"--advertise-address=127.0.0.1",
		"--secure-port=" + strconv.Itoa(c.port),
		"--tls-cert-file=" + c.file("serving.crt"),
		"--tls-private-key-file=" + c.file("serving.key"),
		"--client-ca-file=" + c.file("ca.crt"),
		"--token-auth-file=" + c.file("tokens.csv"),
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file=" + c.file("sa.key"),
		"--service-account-key-file=" + c.file("sa.key"),
		"--service-cluster-ip-range=10.0.0.0/24",
		// No controller makes the default service accounts pods would need.
		"--disable-admission-plugins=ServiceAccount",
		"--endpoint-reconciler-type=none",
		// Otherwise one open watch delays the end by a minute.
		"--shutdown-watch-termination-grace-period=1s",
	}
	api, err := startProcess("kube-apiserver", c.file("kube-apiserver.log"),
		filepath.Join(c.opts.BinDir, "kube-apiserver"), append(flags, c.opts.APIFlags...))
	if err != nil {
		return err
	}
	c.api = api
	return waitFor(ctx, api, func(ctx context.Context) error {
		return c.admin.Get(ctx, "/readyz", nil)
	})
}

// StopAPI ends kube-apiserver gracefully, as an upgrade does: it tells its
// clients, and closes their watches. etcd stays.
func (c *Cluster) StopAPI() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.api.terminate(stopPatience)
}

// KillAPI ends kube-apiserver at once, as the loss of its machine does, except
// that the kernel still resets the connections. etcd stays.
func (c *Cluster) KillAPI() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.api.kill()
}

// Stop ends the cluster. kube-apiserver goes first: without etcd it would hang.
func (c *Cluster) Stop() error {
	apiErr := c.StopAPI()
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(apiErr, c.etcd.terminate(stopPatience))
}

// URL returns the base URL of kube-apiserver as seen by one that reaches the
// host's loopback as host; "" is 127.0.0.1.
func (c *Cluster) URL(host string) string { return baseURL(host, c.port) }

// CAPEM returns the certificate authority of the serving certificate.
func (c *Cluster) CAPEM() []byte { return c.ca }

// AdminToken returns a token that may do everything.
func (c *Cluster) AdminToken() string { return c.token }

// APIPID returns the process id of kube-apiserver, 0 while it does not run.
func (c *Cluster) APIPID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.api.ended() {
		return 0
	}
	return c.api.child.Pid
}

// Admin returns a client that may do everything.
func (c *Cluster) Admin() *Client { return c.admin }

// Kubeconfig returns a kubeconfig file for the given token, with host as in URL.
func (c *Cluster) Kubeconfig(host, token string) []byte {
	return Kubeconfig(c.URL(host), c.ca, token)
}

// Kubeconfig returns a kubeconfig file for one cluster and one token.
func Kubeconfig(baseURL string, caPEM []byte, token string) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: test
  cluster:
    server: %q
    certificate-authority-data: %q
users:
- name: test
  user:
    token: %q
contexts:
- name: test
  context:
    cluster: test
    user: test
current-context: test
`, baseURL, base64.StdEncoding.EncodeToString(caPEM), token)
}

// baseURL makes the URL of a host, "" being 127.0.0.1, and a port.
func baseURL(host string, port int) string {
	if host == "" {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(port))
}

// waitFor probes a new process until it is ready, and fails when it ends.
func waitFor(ctx context.Context, p *process, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		probeCtx, cancelProbe := context.WithTimeout(ctx, probePatience)
		err := probe(probeCtx)
		cancelProbe()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("%s ended while starting; its log ends:\n%s", p.name, p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (%w), last probe: %w; its log ends:\n%s",
				p.name, context.Cause(ctx), err, p.logTail())
		}
	}
}

// freePort returns a loopback port on which no process listens.
func freePort() (int, error) {
	var err error
	for range portTries {
		port := firstPort + mathrand.IntN(portCount)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("no free port: %w", err)
}
