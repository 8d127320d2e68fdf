// Remote control of a cluster, for a test that runs inside a virtual machine
// while etcd and kube-apiserver run on its host. ServeControl is called on the
// host, NewControl in the machine. It is plain HTTP without a password, on the
// loopback only, and gives away the administrator's token: never for anything
// but tests.

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// controlPatience is longer than any start or stop takes.
const controlPatience = startPatience + stopPatience

// Info is what a client of the cluster must know.
type Info struct {
	Port       int    `json:"port"`
	CA         []byte `json:"ca"` // PEM; base64 in JSON
	AdminToken string `json:"adminToken"`
}

// URL returns the base URL of kube-apiserver, with host as in Cluster.URL.
func (i *Info) URL(host string) string { return baseURL(host, i.Port) }

// ServeControl offers the cluster's control endpoint until the context ends. It
// returns the endpoint's URL; a virtual machine finds it at the same port of
// GuestHost.
func (c *Cluster) ServeControl(ctx context.Context) (string, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", typeJSON)
		// An error here is the client's going away.
		_ = json.NewEncoder(w).Encode(Info{Port: c.port, CA: c.ca, AdminToken: c.token})
	})
	for path, action := range map[string]func(context.Context) error{
		"/api/start": c.StartAPI,
		"/api/stop":  func(context.Context) error { return c.StopAPI() },
		"/api/kill":  func(context.Context) error { return c.KillAPI() },
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if err := action(r.Context()); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}

	mux.HandleFunc("POST /services/create", serveServices(c.admin.CreateServices))
	mux.HandleFunc("POST /services/endpoints", serveServices(c.admin.SetEndpoints))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("control endpoint: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: connectPatience}
	go func() {
		// It ends when the server is closed, and a failure before that is
		// seen by the client.
		_ = server.Serve(l)
	}()
	context.AfterFunc(ctx, func() { _ = server.Close() })
	return "http://" + l.Addr().String(), nil
}

// Control steers a cluster from elsewhere.
type Control struct {
	base string
	http *http.Client
}

// NewControl makes a client of a control endpoint.
func NewControl(url string) *Control {
	return &Control{
		base: strings.TrimSuffix(url, "/"),
		http: &http.Client{Timeout: controlPatience},
	}
}

// Info asks how to reach the API server.
func (c *Control) Info(ctx context.Context) (*Info, error) {
	body, err := c.do(ctx, http.MethodGet, "/info", nil)
	if err != nil {
		return nil, err
	}
	info := new(Info)
	if err := json.Unmarshal(body, info); err != nil {
		return nil, fmt.Errorf("control info: %w", err)
	}
	return info, nil
}

// StartAPI is Cluster.StartAPI.
func (c *Control) StartAPI(ctx context.Context) error { return c.post(ctx, "/api/start") }

// StopAPI is Cluster.StopAPI.
func (c *Control) StopAPI(ctx context.Context) error { return c.post(ctx, "/api/stop") }

// KillAPI is Cluster.KillAPI.
func (c *Control) KillAPI(ctx context.Context) error { return c.post(ctx, "/api/kill") }

// post makes a request that has no answer but success.
func (c *Control) post(ctx context.Context, path string) error {
	_, err := c.do(ctx, http.MethodPost, path, nil)
	return err
}

// do makes one request and returns the answer's body.
func (c *Control) do(ctx context.Context, method, path string, in []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(in))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %w", method, path, errors.New(strings.TrimSpace(string(body))))
	}
	return body, nil
}

// Reach finds out about the cluster that url steers, whose API server is at host,
// and returns its steering, what is known of it, and its administrator.
func Reach(ctx context.Context, url, host string) (*Control, *Info, *Client, error) {
	control := NewControl(url)
	info, err := control.Info(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	admin, err := NewClient(info.URL(host), info.CA, info.AdminToken)
	return control, info, admin, err
}
