// A small Kubernetes REST client for tests: requests for any object by path,
// errors, and the transport. It is independent of the controller's own client on
// purpose, so that a test does not check a mistake with the same mistake. It
// works wherever the API server can be reached, inside a virtual machine too. It
// never retries: a test must see every failure.

package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Limits of one request; watches are limited by their context only.
const (
	requestPatience = 30 * time.Second
	connectPatience = 5 * time.Second
	idleConns       = 64 // as many as tests have workers
)

// Content types of request bodies.
const (
	typeJSON       = "application/json"
	typeMergePatch = "application/merge-patch+json"
	typeApply      = "application/apply-patch+yaml"
)

// Client talks to one API server with one token. It is safe for concurrent use.
type Client struct {
	base  string
	token string
	http  *http.Client
}

// StatusError is an answer that says no, and the body of a watch's ERROR event.
type StatusError struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Error returns code, reason and message.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%d %s: %s", e.Code, e.Reason, e.Message)
}

// IsStatus reports whether the API server answered with the given HTTP code.
func IsStatus(err error, code int) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == code
}

// NewClient makes a client of the API server at baseURL, as in
// "https://127.0.0.1:20443". It does not connect yet.
func NewClient(baseURL string, caPEM []byte, token string) (*Client, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("no certificate in the CA's PEM")
	}
	return &Client{
		base:  strings.TrimSuffix(baseURL, "/"),
		token: token,
		http: &http.Client{Transport: &http.Transport{
			// HTTP/1.1: each request has its own connection, so a watch
			// is closed, or hangs, alone.
			DialContext:         (&net.Dialer{Timeout: connectPatience}).DialContext,
			TLSClientConfig:     &tls.Config{RootCAs: roots},
			TLSHandshakeTimeout: connectPatience,
			MaxIdleConnsPerHost: idleConns,
		}},
	}, nil
}

// WithToken returns a client of the same API server that is somebody else.
func (c *Client) WithToken(token string) *Client {
	return &Client{base: c.base, token: token, http: c.http}
}

// Get reads an object or a list, or a plain path if out is nil.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	return c.do(ctx, http.MethodGet, path, "", nil, out)
}

// Create posts an object to its collection. Here and below in and out are
// anything encoding/json takes, a json.RawMessage to send text as it is, or nil.
func (c *Client) Create(ctx context.Context, path string, in, out any) error {
	return c.do(ctx, http.MethodPost, path, typeJSON, in, out)
}

// Put replaces an object.
func (c *Client) Put(ctx context.Context, path string, in, out any) error {
	return c.do(ctx, http.MethodPut, path, typeJSON, in, out)
}

// Patch merges a patch into an object, or into its status if the path says so.
func (c *Client) Patch(ctx context.Context, path string, in, out any) error {
	return c.do(ctx, http.MethodPatch, path, typeMergePatch, in, out)
}

// Delete deletes an object, with its own grace period if grace is nil.
func (c *Client) Delete(ctx context.Context, path string, grace *int64) error {
	options := map[string]any{"apiVersion": "v1", "kind": "DeleteOptions"}
	if grace != nil {
		options["gracePeriodSeconds"] = *grace
	}
	return c.do(ctx, http.MethodDelete, path, typeJSON, options, nil)
}

// do makes one request and decodes the answer into out, unless that is nil.
func (c *Client) do(ctx context.Context, method, path, contentType string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestPatience)
	defer cancel()
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("%s %s: encode: %w", method, path, err)
		}
	}
	return c.send(ctx, method, path, contentType, body, out)
}

// send is do with an encoded body and no time limit of its own.
func (c *Client) send(ctx context.Context, method, path, contentType string, body []byte, out any) error {
	resp, err := c.open(ctx, method, path, contentType, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body) // to the end: the connection is used again
	if err != nil {
		return fmt.Errorf("%s %s: read: %w", method, path, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: decode: %w", method, path, err)
	}
	return nil
}

// open makes one request and returns the answer with its body unread, or a
// StatusError. The caller closes the body.
func (c *Client) open(ctx context.Context, method, path, contentType string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", typeJSON)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err // names method and URL already
	}
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusMultipleChoices {
		defer resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %w", method, path, readStatus(resp))
	}
	return resp, nil
}

// readStatus makes an error of an answer that says no. Not every such answer
// has a Status object as its body: /readyz, for one, is plain text.
func readStatus(resp *http.Response) *StatusError {
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		body = []byte(err.Error())
	}
	var status StatusError
	if json.Unmarshal(body, &status) != nil || status.Message == "" {
		status = StatusError{Reason: http.StatusText(resp.StatusCode), Message: string(body)}
	}
	status.Code = resp.StatusCode
	return &status
}
