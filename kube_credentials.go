// Where the API server is, and with which credentials it is asked: the kubeconfig, the
// files that it names, or the pod's service account.
//
// Used by kube.go. All is read again for each connection, because tokens and
// certificates are rotated. No text from here quotes a URL of the kubeconfig, which may
// have a password in it. It runs no program, but client-go does, if the configuration
// allows that.

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	// maxKubeconfig is the size of the largest kubeconfig that is read, in bytes, and
	// maxCredential that of a file that it names.
	maxKubeconfig = 4 << 20
	maxCredential = 1 << 20

	// namedEntries is how many names of a kubeconfig a message lists.
	namedEntries = 10

	// programPatience is how long a program may take that gets credentials.
	programPatience = 10 * time.Second
)

// apiServer is where the streams connect to, and with which credentials.
type apiServer struct {
	kubeconfig string // "" = the pod's service account
	programs   bool   // the kubeconfig may name a program that gets credentials
	userAgent  string

	mu      sync.Mutex
	current *connection // nil until the first usable kubeconfig
	failing failureLog  // of a kubeconfig that replaced a usable one
}

// connection is one set of credentials in use.
type connection struct {
	transport   http.RoundTripper
	base        *url.URL
	credentials string          // where they come from, for messages
	fingerprint [32]byte        // of everything they are made of
	warnings    []string        // what makes them unsafe
	tokenFile   string          // read for each request; "" = none
	program     bool            // client-go runs a program for them
	abandoned   atomic.Int32    // requests that still wait for that program, and whose answers are not wanted any more
	replaced    context.Context // ends when newer credentials are in use
	replace     context.CancelFunc
}

// during returns a context that ends with ctx, or as soon as c is replaced. A nil
// connection is never replaced.
func (c *connection) during(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if c == nil {
		return ctx, cancel
	}
	stop := context.AfterFunc(c.replaced, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// connect returns the connection to use. When the kubeconfig or a certificate has
// changed, all other streams connect again too. A kubeconfig that cannot be used ends
// no connection.
func (a *apiServer) connect(log *slog.Logger) (*connection, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next, err := a.read()
	switch {
	case err != nil && a.current == nil:
		return nil, err
	case err != nil:
		if begins, _ := a.failing.note(err); begins {
			log.Error("the kubeconfig cannot be used; the last good one stays in force", "err", report(err))
		}
		return a.current, nil
	case a.current == nil || a.current.fingerprint != next.fingerprint:
		if a.current != nil {
			a.current.replace()
		}
		a.current = next
		a.current.warn(log)
	}
	if _, ends := a.failing.note(nil); ends {
		log.Info("the kubeconfig can be used again", "kubeconfig", a.kubeconfig)
	}
	return a.current, nil
}

// warnAgain repeats what makes the credentials unsafe, after a reload.
func (a *apiServer) warnAgain(log *slog.Logger) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current != nil {
		a.current.warn(log)
	}
}

func (c *connection) warn(log *slog.Logger) {
	for _, w := range c.warnings {
		log.Warn("the way to the API server is not safe", "credentials", c.credentials, "why", w)
	}
}

// read makes a connection of the kubeconfig as it is now.
func (a *apiServer) read() (*connection, error) {
	c := &connection{credentials: a.kubeconfig}
	cfg, raw, err := a.load(c)
	if err != nil {
		return nil, err
	}
	if err := readNamed(&cfg.CAFile, &cfg.CAData); err != nil {
		return nil, fmt.Errorf("credentials of %s: %w", c.credentials, err)
	}
	sum := sha256.New()
	for _, part := range [][]byte{raw, cfg.CAData, cfg.CertData, cfg.KeyData} {
		fmt.Fprintf(sum, "%d:", len(part))
		sum.Write(part)
	}
	sum.Sum(c.fingerprint[:0])
	if a.current != nil && a.current.fingerprint == c.fingerprint {
		return a.current, nil
	}
	if err := a.dress(cfg, c); err != nil {
		return nil, err
	}
	c.replaced, c.replace = context.WithCancel(context.Background())
	return c, nil
}

// load reads what says where the API server is. raw is its text, for comparison.
func (a *apiServer) load(c *connection) (cfg *rest.Config, raw []byte, err error) {
	if a.kubeconfig == "" {
		c.credentials = "the pod's service account"
		if cfg, err = rest.InClusterConfig(); err != nil {
			return nil, nil, fmt.Errorf("no kubeconfig is configured, and this is not a pod with a service account: %w", err)
		}
		c.tokenFile, cfg.BearerToken, cfg.BearerTokenFile = cfg.BearerTokenFile, "", ""
		return cfg, []byte(cfg.Host), nil
	}
	if raw, err = readRegular(a.kubeconfig, maxKubeconfig); err != nil {
		return nil, nil, fmt.Errorf("kubeconfig: %w", err)
	}
	if cfg, err = a.parse(raw, c); err != nil {
		return nil, nil, fmt.Errorf("kubeconfig %s: %w", a.kubeconfig, err)
	}
	return cfg, raw, nil
}

// parse makes sense of a kubeconfig.
func (a *apiServer) parse(raw []byte, c *connection) (*rest.Config, error) {
	switch {
	case isUTF16(string(raw)):
		return nil, errors.New("it is UTF-16, want UTF-8 text")
	case strings.TrimSpace(string(raw)) == "":
		return nil, errors.New("it is empty: it names no cluster")
	}
	loaded, err := clientcmd.Load(raw)
	if err != nil {
		return nil, unquoted(err)
	}
	cluster, user, err := usedEntries(loaded)
	if err != nil {
		return nil, err
	}
	for key, text := range map[string]string{"server": cluster.Server, "proxy-url": cluster.ProxyURL} {
		if err := checkURL(key, text); err != nil {
			return nil, fmt.Errorf("cluster of the current context: %w", err)
		}
	}
	if c.program = user != nil && (user.Exec != nil || user.AuthProvider != nil); c.program && !a.programs {
		return nil, errProgram(user)
	}
	for _, place := range loaded.Clusters {
		place.LocationOfOrigin = a.kubeconfig
	}
	for _, place := range loaded.AuthInfos {
		place.LocationOfOrigin = a.kubeconfig
	}
	if err := clientcmd.ResolveLocalPaths(loaded); err != nil {
		return nil, err
	}
	c.warnings = unsafeWay(a.kubeconfig, cluster)
	if err := readNamed(&cluster.CertificateAuthority, &cluster.CertificateAuthorityData); err != nil {
		return nil, err
	}
	if user != nil {
		if err := errors.Join(readNamed(&user.ClientCertificate, &user.ClientCertificateData), readNamed(&user.ClientKey, &user.ClientKeyData)); err != nil {
			return nil, err
		}
		c.tokenFile, user.TokenFile = user.TokenFile, ""
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*loaded, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		for _, secret := range []string{cluster.Server, cluster.ProxyURL} {
			if secret != "" {
				err = errors.New(strings.ReplaceAll(err.Error(), secret, "(URL)"))
			}
		}
		return nil, err
	}
	return cfg, nil
}

// quotations matches what an error of the YAML library quotes of a file.
var quotations = regexp.MustCompile("'.*'|\".*\"|`(?s:.*)`")

// unquoted is an error of the YAML library without what it quotes: a password that begins
// with "*" is an unknown anchor.
func unquoted(err error) error {
	if text := err.Error(); strings.Contains(text, "yaml:") {
		return errors.New(quotations.ReplaceAllString(text, "(text)"))
	}
	return err
}

// errProgram is the error of a user whose credentials come from a program.
func errProgram(user *clientcmdapi.AuthInfo) error {
	kind := "exec"
	if user.AuthProvider != nil {
		kind = "auth-provider"
	}
	return fmt.Errorf("the user of its current context gets credentials by a program (%s); write allow_exec_credentials = true at the top of config.toml to let it run, or use a token or a certificate", kind)
}

// usedEntries are the cluster and the user of the current context; the user is nil when
// it names none. The error says what is missing, and what there is.
func usedEntries(k *clientcmdapi.Config) (*clientcmdapi.Cluster, *clientcmdapi.AuthInfo, error) {
	contexts := make([]string, 0, len(k.Contexts))
	for name := range k.Contexts {
		contexts = append(contexts, name)
	}
	if k.CurrentContext == "" {
		return nil, nil, fmt.Errorf("it has no current-context; %s", thereAre("contexts", contexts))
	}
	now := printable(shorten(k.CurrentContext, quotedText))
	context := k.Contexts[k.CurrentContext]
	if context == nil {
		return nil, nil, fmt.Errorf("its current-context %q does not exist; %s", now, thereAre("contexts", contexts))
	}
	cluster := k.Clusters[context.Cluster]
	if cluster == nil {
		clusters := make([]string, 0, len(k.Clusters))
		for name := range k.Clusters {
			clusters = append(clusters, name)
		}
		return nil, nil, fmt.Errorf("its context %q names cluster %q, which does not exist; %s", now, printable(shorten(context.Cluster, quotedText)), thereAre("clusters", clusters))
	}
	if cluster.Server == "" {
		return nil, nil, fmt.Errorf("its cluster %q has no server", printable(shorten(context.Cluster, quotedText)))
	}
	user := k.AuthInfos[context.AuthInfo]
	if user == nil && context.AuthInfo != "" {
		users := make([]string, 0, len(k.AuthInfos))
		for name := range k.AuthInfos {
			users = append(users, name)
		}
		return nil, nil, fmt.Errorf("its context %q names user %q, which does not exist; %s", now, printable(shorten(context.AuthInfo, quotedText)), thereAre("users", users))
	}
	return cluster, user, nil
}

// thereAre lists names of a kubeconfig.
func thereAre(what string, names []string) string {
	if len(names) == 0 {
		return "it has no " + what
	}
	sort.Strings(names)
	more := ""
	if n := len(names) - namedEntries; n > 0 {
		names, more = names[:namedEntries], fmt.Sprintf(" and %d more", n)
	}
	names = slices.Clone(names)
	for i, name := range names {
		names[i] = printable(shorten(name, quotedText))
	}
	return fmt.Sprintf("its %s are %s%s", what, strings.Join(names, ", "), more)
}

// checkURL checks an address without quoting any of it: it may have a password. A
// server may be written without its scheme.
func checkURL(key, text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil && !strings.Contains(text, "://") {
		u, err = url.Parse("https://" + text)
	}
	if err != nil {
		return fmt.Errorf("%s is no valid URL, want one such as https://10.0.0.5:6443; its text is not shown here, because it may have a password", key)
	}
	if strings.Contains(u.Path+u.RawQuery+u.Fragment+u.Opaque, "@") && strings.Contains(text, "://") {
		// What is before the first of these characters would be a host in each message.
		return fmt.Errorf("%s has an @ behind its host, want %%2F, %%3F, %%23 for the characters /, ? and # of a password; its text is not shown here, because it may have a password", key)
	}
	schemes := []string{"http", "https"}
	if key == "proxy-url" {
		schemes = append(schemes, "socks5")
	}
	if strings.Contains(text, "://") && !slices.Contains(schemes, strings.ToLower(u.Scheme)) {
		return fmt.Errorf("%s has another scheme than %s; its text is not shown here, because it may have a password", key, strings.Join(schemes, ", "))
	}
	return nil
}

// unsafeWay says what lets another program or host read the credentials or give false
// answers.
func unsafeWay(path string, cluster *clientcmdapi.Cluster) (all []string) {
	if u, err := url.Parse(cluster.Server); err == nil && strings.EqualFold(u.Scheme, "http") {
		all = append(all, "server is http, so that credentials and answers are not encrypted")
	}
	if cluster.InsecureSkipTLSVerify {
		all = append(all, "insecure-skip-tls-verify is true, so that any host can be the API server")
	}
	if why := writableByOthers(path); why != "" {
		all = append(all, why)
	}
	return all
}

// dress gives c its transport.
func (a *apiServer) dress(cfg *rest.Config, c *connection) (err error) {
	cfg.UserAgent = a.userAgent
	cfg.Timeout = 0 // each request has its own
	cfg.Dial = (&net.Dialer{
		// A SYN lost while the API server is down is sent again only after longer
		// and longer waits. A new connection is quicker.
		Timeout:         5 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}).DialContext
	if c.base, _, err = rest.DefaultServerUrlFor(cfg); err != nil {
		return fmt.Errorf("server of %s: it is no valid URL", c.credentials)
	}
	if c.base.Scheme != "https" && cfg.Proxy == nil {
		// The environment's proxy could read the credentials, which it cannot with
		// TLS. A proxy-url in the kubeconfig is the operator's decision.
		cfg.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	if path := c.tokenFile; path != "" {
		cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return &tokenFile{path, next} })
	}
	if c.program {
		cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return hasCredentials{next} })
		if cfg.ExecProvider != nil {
			cfg.ExecProvider.StdinUnavailable = true
			cfg.ExecProvider.StdinUnavailableMessage = "a director has no terminal"
		}
	}
	// No http.Client: it follows redirects. That sends the credentials to any host,
	// whose answer would be used.
	if c.transport, err = rest.TransportFor(cfg); err != nil {
		return fmt.Errorf("credentials of %s: %w", c.credentials, err)
	}
	return nil
}

// readNamed reads the file at path, if there is one, in place of client-go, which waits
// for a FIFO without end. What it contains is part of the fingerprint.
func readNamed(path *string, data *[]byte) (err error) {
	if *path != "" && len(*data) == 0 {
		*data, err = readCredential(*path)
	}
	*path = ""
	return err
}

// readCredential reads a file that a kubeconfig names. One without content is a fault:
// without its authority client-go trusts those of the system.
func readCredential(path string) ([]byte, error) {
	b, err := readRegular(path, maxCredential)
	if err == nil && len(bytes.TrimSpace(b)) == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	return b, err
}

// errToken is the fault of a token file that cannot be used.
var errToken = errors.New("token file")

// tokenFile adds the token that a file has now to each request. client-go would read
// it once a minute: a token that is replaced because the old one is refused has to be
// used at once.
type tokenFile struct {
	path string
	next http.RoundTripper
}

// RoundTrip is http.RoundTripper.
func (t *tokenFile) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := readCredential(t.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errToken, err)
	}
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	return t.next.RoundTrip(req)
}

// credentialsReady is the key of a function in a request's context: it is called when
// the request has its credentials.
type credentialsReady struct{}

// hasCredentials is behind the part of client-go that runs a program for credentials.
type hasCredentials struct{ next http.RoundTripper }

// RoundTrip is http.RoundTripper.
func (h hasCredentials) RoundTrip(req *http.Request) (*http.Response, error) {
	if ready, ok := req.Context().Value(credentialsReady{}).(func()); ok {
		ready()
	}
	return h.next.RoundTrip(req)
}

// send is RoundTrip. A program that gets credentials may hang, and client-go waits for
// it without a limit: such a request is abandoned, and none is sent while it waits.
func (c *connection) send(req *http.Request) (*http.Response, error) {
	if !c.program {
		return c.transport.RoundTrip(req)
	}
	if c.abandoned.Load() > 0 {
		return nil, errors.New("the program that gets credentials, or one that it has started, has not ended yet")
	}
	type answer struct {
		resp *http.Response
		err  error
	}
	done, ready := make(chan answer), make(chan struct{})
	ctx := context.WithValue(req.Context(), credentialsReady{}, sync.OnceFunc(func() { close(ready) }))
	left := make(chan struct{}) // the answer is not wanted any more
	go func() {
		resp, err := c.transport.RoundTrip(req.WithContext(ctx))
		select {
		case done <- answer{resp, err}:
		case <-left:
			c.abandoned.Add(-1)
			if resp != nil {
				resp.Body.Close()
			}
		}
	}()
	patience := time.NewTimer(programPatience)
	defer patience.Stop()
	for begins := ready; ; {
		select {
		case a := <-done:
			return a.resp, a.err
		case <-begins:
			begins = nil
			patience.Stop() // what the server may take is limited by ctx
		case <-patience.C:
			c.abandoned.Add(1)
			close(left)
			return nil, fmt.Errorf("the program that gets credentials, or one that it has started, has not ended within %s", programPatience)
		case <-ctx.Done():
			c.abandoned.Add(1)
			close(left)
			return nil, ctx.Err()
		}
	}
}
