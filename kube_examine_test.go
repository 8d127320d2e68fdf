// What `doctor` asks of an API server, against one that answers from here.

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// examinedAPI is an API server that knows who asks and what that may read.
type examinedAPI struct {
	*httptest.Server
	mu      sync.Mutex
	reviews []string // what was asked about
	deny    string   // a resource
	answer  http.HandlerFunc
}

func newExaminedAPI(t *testing.T, ends time.Time) *examinedAPI {
	api := &examinedAPI{}
	api.Server = httptest.NewUnstartedServer(api)
	api.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	if !ends.IsZero() {
		api.TLS = &tls.Config{Certificates: []tls.Certificate{certificateUntil(t, ends)}}
	}
	api.StartTLS()
	t.Cleanup(func() {
		api.CloseClientConnections()
		api.Close()
	})
	return api
}

// certificateUntil is a certificate for 127.0.0.1 that signs itself.
func certificateUntil(t *testing.T, ends time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: ends, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

func (api *examinedAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if api.answer != nil {
		api.answer(w, r)
		return
	}
	switch r.URL.Path {
	case "/version":
		fmt.Fprint(w, `{"major":"1","minor":"36","gitVersion":"v1.36.3"}`)
	case "/apis/authentication.k8s.io/v1/selfsubjectreviews":
		fmt.Fprint(w, `{"status":{"userInfo":{"username":"system:serviceaccount:edge:director"}}}`)
	case "/" + accessReviewPath:
		var review struct {
			Kind string
			Spec struct{ ResourceAttributes map[string]string }
		}
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Kind != "SelfSubjectAccessReview" || r.Method != http.MethodPost {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		of := review.Spec.ResourceAttributes
		api.mu.Lock()
		api.reviews = append(api.reviews, strings.Join([]string{of["verb"], strings.TrimSuffix(of["resource"]+"."+of["group"], "."), of["namespace"], of["name"]}, " "))
		api.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"status":{"allowed":%t}}`, of["resource"] != api.deny)
	default:
		http.Error(w, "the doctor asks for "+r.URL.Path, http.StatusTeapot)
	}
}

// examine asks api with a kubeconfig that has this token.
func (api *examinedAPI) examine(t *testing.T, token string, queries ClusterQuery) *apiFacts {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	queries.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(queries.Kubeconfig, kubeconfigFor(api.URL, ca, token), 0o600); err != nil {
		t.Fatal(err)
	}
	return examineAPI(context.Background(), &queries, time.Now)
}

// webToken is a token that ends.
func webToken(ends time.Time) string {
	return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, ends.Unix())) + ".c2ln"
}

func TestExamineAPI(t *testing.T) {
	ends := time.Now().Add(72 * time.Hour).Truncate(time.Second)
	api := newExaminedAPI(t, time.Time{})
	api.deny = "nodes"
	f := api.examine(t, webToken(ends), ClusterQuery{
		Pods:       []PodQuery{{Namespace: "edge", Selector: "app=a"}, {Namespace: "edge", Selector: "app=b"}, {Selector: "app=c"}, PodQuery{}.ofService(ServiceName{"web", "edge"})},
		ConfigMaps: []ConfigMapName{{Namespace: "edge", Name: "tcp"}},
		Services:   []ServiceName{{"web", "edge"}},
		Nodes:      []NodeQuery{{}},
		Gateways:   []GatewayQuery{{Namespace: "edge", Name: "web"}, {Class: "a"}, {Class: "b"}},
	})
	if f.err != nil || f.unreached != nil || f.refused || f.version != "v1.36.3" || f.user != "system:serviceaccount:edge:director" || !f.token.Equal(ends) || !f.certificate.IsZero() ||
		!f.clockKnown || f.ahead.Abs() > clockSlack || !f.serverEnds.Equal(api.Certificate().NotAfter) {
		t.Errorf("%+v", f)
	}
	slices.Sort(api.reviews)
	const gateways = "gateways.gateway.networking.k8s.io "
	want := []string{"list configmaps edge tcp", "list endpointslices.discovery.k8s.io web ", "list " + gateways + " ", "list " + gateways + "edge web", "list nodes  ", "list pods  ", "list pods edge ", "list services web edge",
		"watch configmaps edge tcp", "watch endpointslices.discovery.k8s.io web ", "watch " + gateways + " ", "watch " + gateways + "edge web", "watch nodes  ", "watch pods  ", "watch pods edge ", "watch services web edge"}
	if diff := cmp.Diff(want, api.reviews); diff != "" {
		t.Errorf("rights that were asked about (-want +got):\n%s", diff)
	}
	for _, p := range f.may {
		if p.err != nil || p.allowed == (p.resource == "nodes") {
			t.Errorf("%+v", p)
		}
	}
}

// What an API server can do wrong ends in a fact, and in time.
func TestExamineAPIFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		right  func(*apiFacts) bool
	}{
		"refuses the credentials": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusUnauthorized) },
			func(f *apiFacts) bool { return f.refused && f.unreached == nil && f.may == nil }},
		"is another program": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
			func(f *apiFacts) bool { return f.unreached != nil }},
		"is broken": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) },
			func(f *apiFacts) bool { return f.unreached != nil }},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://192.0.2.1/", http.StatusFound)
		},
			func(f *apiFacts) bool { return f.unreached != nil }},
		"never answers": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			func(f *apiFacts) bool { return f.unreached == errNoAnswer }},
		"has no end": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, func(f *apiFacts) bool { return f.unreached != nil }},
		"has another time": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
			fmt.Fprint(w, `{"gitVersion":"v1.36.3","status":{"allowed":true}}`)
		}, func(f *apiFacts) bool { return f.unreached == nil && (f.ahead-time.Hour).Abs() < 10*time.Second }},
		"says nothing about rights": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"gitVersion":"v1.36.3"}`) },
			func(f *apiFacts) bool { return len(f.may) == 2 && f.may[0].err == errNoReview && !f.may[0].allowed }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newExaminedAPI(t, time.Time{})
			api.answer = tt.answer
			began := time.Now()
			f := api.examine(t, "secret", ClusterQuery{Pods: []PodQuery{{Namespace: "edge", Selector: "app=a"}}})
			if f.err != nil || !tt.right(f) {
				t.Errorf("%+v", f)
			}
			if took := time.Since(began); took > 4*examinePatience {
				t.Errorf("it takes %s", took)
			}
		})
	}
}

// A server whose certificate has ended is not asked, and the reason says so.
func TestExamineAPICertificate(t *testing.T) {
	api := newExaminedAPI(t, time.Now().Add(-time.Hour))
	f := api.examine(t, "secret", ClusterQuery{Pods: []PodQuery{{Namespace: "edge", Selector: "app=a"}}})
	if f.unreached == nil || !strings.Contains(f.unreached.Error(), "expired") {
		t.Errorf("%+v", f)
	}
}

func TestCredentialEnds(t *testing.T) {
	ends := time.Unix(1_800_000_000, 0)
	for token, want := range map[string]time.Time{
		webToken(ends): ends, "": {}, "opaque": {}, "a.b.c": {}, "e30.e30.c2ln": {}, "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1e300}`)) + ".": {},
	} {
		if got := tokenEnd(token); !got.Equal(want) {
			t.Errorf("token %q ends on %s, want %s", token, got, want)
		}
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificateUntil(t, ends).Certificate[0]})
	if got := firstEnd(text); !got.Equal(ends) {
		t.Errorf("the certificate ends on %s, want %s", got, ends)
	}
	for _, text := range []string{"", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if got := firstEnd([]byte(text)); !got.IsZero() {
			t.Errorf("%q ends on %s", text, got)
		}
	}
}

// What is asked of no server: credentials that cannot be used, and a client certificate.
func TestExamineCredentials(t *testing.T) {
	missing := &ClusterQuery{Kubeconfig: filepath.Join(t.TempDir(), "none"), Pods: []PodQuery{{Selector: "app=a"}}}
	if f := examineAPI(context.Background(), missing, time.Now); f.err == nil || f.credentials != missing.Kubeconfig {
		t.Errorf("%+v", f)
	}
}
