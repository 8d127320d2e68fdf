// What `doctor` asks of the API server: can it be reached, until when are the credentials
// valid, whose are they, and what may they read?
//
// Used by cmd*.go. It uses the connection of the streams. It asks for no object, and
// changes none: a SelfSubjectAccessReview is an answer that is not stored. Each question
// has a time limit, and no answer is longer than maxExamined. No text has a secret in it.

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	maxExamined      = 1 << 20         // bytes of an answer
	examinePatience  = 2 * time.Second // for each answer
	examinedAtATime  = 8
	mostPermissions  = 512
	accessReviewPath = "apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
)

// apiFacts are the answers.
type apiFacts struct {
	credentials string // where they come from
	err         error  // they cannot be used
	warnings    []string
	certificate time.Time // when the client certificate ends; zero: there is none
	token       time.Time // when the token ends; zero: there is none, or it does not say
	rotated     bool      // the token is read from a file for each request
	program     bool      // a program gets the credentials

	host       string // of the API server
	unreached  error  // it cannot be asked
	refused    bool   // it does not accept the credentials
	version    string
	serverEnds time.Time     // when the first certificate of its chain ends; zero: no TLS
	ahead      time.Duration // of its clock against ours
	clockKnown bool
	user       string // whose credentials they are; "" = not known
	may        []apiPermission
}

// apiPermission is something that the controller does.
type apiPermission struct {
	verb, resource string
	group          string // API group of the resource; "" = the core group
	scope          scope
	allowed        bool
	err            error // it is not known
}

// examineAPI asks the API server of q.
func examineAPI(ctx context.Context, q *ClusterQuery, now func() time.Time) *apiFacts {
	a := &apiServer{kubeconfig: q.Kubeconfig, programs: q.Programs, userAgent: "lvs-controller/" + version}
	f := &apiFacts{credentials: a.kubeconfig}
	if f.err = f.readCredentials(a); f.err != nil {
		return f
	}
	conn, err := a.read()
	if f.err = err; err != nil {
		return f
	}
	f.warnings, f.host = conn.warnings, conn.base.Host
	f.greet(ctx, conn, now)
	if f.unreached != nil || f.refused {
		return f
	}
	var who struct {
		Status struct {
			UserInfo struct {
				Username string `json:"username"`
			} `json:"userInfo"`
		} `json:"status"`
	}
	// Kubernetes before 1.28 does not know this question.
	if _, err := conn.ask(ctx, "apis/authentication.k8s.io/v1/selfsubjectreviews", `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`, &who); err == nil {
		f.user = shorten(printable(who.Status.UserInfo.Username), quotedText)
	}
	f.askPermissions(ctx, conn, q)
	return f
}

// readCredentials finds out until when the credentials are valid.
func (f *apiFacts) readCredentials(a *apiServer) error {
	c := &connection{credentials: a.kubeconfig}
	cfg, _, err := a.load(c)
	if f.credentials = cmp.Or(c.credentials, "the kubeconfig"); err != nil {
		return err
	}
	f.certificate = firstEnd(cfg.CertData)
	token := cfg.BearerToken
	if c.tokenFile != "" {
		f.rotated = true
		text, err := readCredential(c.tokenFile)
		if err != nil {
			return fmt.Errorf("%w: %w", errToken, err)
		}
		token = strings.TrimSpace(string(text))
	}
	f.token, f.program = tokenEnd(token), c.program
	return nil
}

// firstEnd is when the first certificate of a PEM text ends.
func firstEnd(text []byte) time.Time {
	block, _ := pem.Decode(text)
	if block == nil {
		return time.Time{}
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return certificate.NotAfter
}

// tokenEnd is the claim exp of a JSON Web Token (RFC 7519 section 4.1.4); zero for a token
// without it. Its signature is the API server's business.
func tokenEnd(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(text, &claims) != nil || claims.Exp <= 0 || claims.Exp > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0)
}

// greet asks for the version, which each client may know, and looks at what comes with
// the answer: certificates and the time.
func (f *apiFacts) greet(ctx context.Context, conn *connection, now func() time.Time) {
	var is struct {
		GitVersion string `json:"gitVersion"`
	}
	began := now()
	resp, err := conn.ask(ctx, "version", "", &is)
	ended := now()
	if resp == nil {
		f.unreached = err
		return
	}
	if f.version = shorten(printable(is.GitVersion), quotedText); resp.TLS != nil {
		for _, c := range resp.TLS.PeerCertificates {
			if f.serverEnds.IsZero() || c.NotAfter.Before(f.serverEnds) {
				f.serverEnds = c.NotAfter
			}
		}
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		// The header has whole seconds.
		f.ahead, f.clockKnown = date.Add(time.Second/2).Sub(began.Add(ended.Sub(began)/2)), true
	}
	switch f.refused = resp.StatusCode == http.StatusUnauthorized; {
	case resp.StatusCode >= 500 || resp.StatusCode >= 300 && resp.StatusCode < 400:
		f.unreached = fmt.Errorf("it answers %s", resp.Status)
	case resp.StatusCode == http.StatusOK && err != nil:
		f.unreached = fmt.Errorf("its answer is none of an API server: %w", err)
	}
}

// ask sends a question, a POST if it has a body, and decodes an answer into into. A
// status of 300 and more is an error too, with its response.
func (c *connection) ask(ctx context.Context, path, body string, into any) (*http.Response, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, examinePatience, errNoAnswer)
	defer cancel()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(path).String(), strings.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", path, err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	if user := c.base.User; user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	resp, err := c.send(req)
	if err != nil {
		return nil, because(ctx, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxExamined))
	if err != nil {
		return nil, because(ctx, err)
	}
	if resp.StatusCode >= 300 {
		status := apiStatus{Message: http.StatusText(resp.StatusCode)}
		_ = json.Unmarshal(text, &status) // a body that is no Status leaves the standard text
		return resp, fmt.Errorf("it answers %d: %s", resp.StatusCode, shorten(status.Message, 2*quotedText))
	}
	return resp, json.NewDecoder(bytes.NewReader(text)).Decode(into)
}

// askPermissions asks about each right that the streams of q need.
func (f *apiFacts) askPermissions(ctx context.Context, conn *connection, q *ClusterQuery) {
	seen := make(map[apiPermission]bool)
	for _, key := range allKeys(q) {
		of := key.scope()
		of.selector, of.class = "", "" // rights do not depend on them
		for _, verb := range []string{"list", "watch"} {
			p := apiPermission{verb: verb, group: key.kind().group(), resource: key.kind().resource, scope: of}
			if !seen[p] && len(f.may) < mostPermissions {
				seen[p] = true
				f.may = append(f.may, p)
			}
		}
	}
	var asking sync.WaitGroup
	next := make(chan *apiPermission)
	for range examinedAtATime {
		asking.Go(func() {
			for p := range next {
				p.allowed, p.err = conn.askPermission(ctx, p)
			}
		})
	}
	for i := range f.may {
		next <- &f.may[i]
	}
	close(next)
	asking.Wait()
}

// errNoReview means that the API server does not say what the credentials may do.
var errNoReview = errors.New("the API server does not say")

func (c *connection) askPermission(ctx context.Context, p *apiPermission) (bool, error) {
	var review struct {
		Spec struct {
			Attributes struct {
				Namespace string `json:"namespace,omitempty"`
				Verb      string `json:"verb"`
				Group     string `json:"group,omitempty"`
				Resource  string `json:"resource"`
				Name      string `json:"name,omitempty"`
			} `json:"resourceAttributes"`
		} `json:"spec"`
		objectType
	}
	review.APIVersion, review.Kind = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
	of := &review.Spec.Attributes
	of.Namespace, of.Name, of.Verb, of.Group, of.Resource = p.scope.namespace, p.scope.name, p.verb, p.group, p.resource
	body, err := json.Marshal(&review)
	if err != nil {
		return false, err
	}
	var answer struct {
		Status *struct {
			Allowed bool `json:"allowed"`
		} `json:"status"`
	}
	if _, err = c.ask(ctx, accessReviewPath, string(body), &answer); err == nil && answer.Status == nil {
		err = errNoReview
	}
	return err == nil && answer.Status.Allowed, err
}
