// Follows one stream at an API server: list, watch, and what to do when one of
// them fails.
//
// Used by kube.go. There is one followServer for each stream. A list has pages
// and is accepted as a whole or not at all. A watch continues from the newest
// resource version while the server remembers it. After a failure it waits and
// tries again, without a limit. No error ends it.
//
// A peer that disappears is noticed in three ways. client-go pings an HTTP/2
// connection after 30 s of silence and drops it 15 s later
// (HTTP2_READ_IDLE_TIMEOUT_SECONDS, HTTP2_PING_TIMEOUT_SECONDS); TCP keep-alive does
// the same for HTTP/1.1; and a watch ends at the latest pace.overdue after the
// time that was asked of the server.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// serverFollower keeps one stream current from an API server. It belongs to one
// goroutine.
type serverFollower struct {
	*stream
	api     *apiServer
	conn    *connection
	content collection
	// version is the newest known resource version. mustList is set when a watch
	// cannot continue there.
	version  string
	mustList bool
	sampled  time.Time // when it was last asked which pods there are instead
	silences int       // watches in a row that went silent
}

// bulkList is the number of objects from which a list leaves so much garbage that memory goes
// back to the system, afterList later: by then the list is compared with the table, and the
// routes to new real servers are looked up. A large change of the table does the same, but
// after a restart the table is whole already.
const (
	bulkList  = 2_500
	afterList = 10 * time.Second
)

// tolerated is how many times in a row only a list may show the present state, or a
// server that has just started may refuse, before that is a failure.
const tolerated = 2

// followServer keeps s current from api until ctx ends.
func (w *clusterWatch) followServer(ctx context.Context, api *apiServer, s *stream) {
	f := &serverFollower{stream: s, api: api, mustList: true}
	retry := streamBackoff{pace: &w.pace, random: w.random}
	passing := 0 // faults in a row that a server has for a moment
	for {
		lived, err := f.listAndWatch(ctx)
		if ctx.Err() != nil {
			return
		}
		healthy := lived >= w.pace.healthy
		if healthy {
			retry.reset()
		}
		var problem *fault
		if !errors.As(err, &problem) {
			if healthy {
				passing = 0
				continue // the usual end of a watch
			}
			problem = &fault{topic: faultTopic{kind: faultAway}, err: fmt.Errorf("watch %s: it ended after %v: %w", s.key, lived.Round(time.Millisecond), err)}
		}
		if f.conn != nil && f.conn.replaced.Err() != nil {
			continue // not a failure: another stream found newer credentials
		}
		// A watch that soon ends with 410 each time never was a success.
		if healthy && (problem.topic.code != http.StatusGone || lived >= w.pace.silence) {
			passing = 0
		}
		f.mustList = f.mustList || problem.relist
		if passing++; problem.topic.kind != faultStale && problem.topic.kind != faultDenied {
			passing = 0
		}
		switch again := retry.kind == problem.topic.kind; {
		case f.hasNone(problem):
		case problem.topic.kind == faultStale && passing <= tolerated:
			w.log.Debug("the stream lists its objects again", "stream", s.key.String(), "why", problem)
		case problem.topic.kind == faultDenied && !again && passing <= tolerated:
			// An API server that has just started refuses every client until it
			// has read its roles. Only a second refusal is logged.
			s.fails(problem)
		default:
			s.fails(problem)
			s.reports(problem)
		}
		pause, cancel := f.conn.during(ctx)
		w.sleep(pause, retry.next(problem))
		cancel()
	}
}

// listAndWatch lists if it must, watches until the watch ends, and returns how
// long that was. An error that is no *fault is the end of an open watch.
func (f *serverFollower) listAndWatch(ctx context.Context) (lived time.Duration, err error) {
	conn, err := f.api.connect(f.owner.log)
	if err != nil {
		return 0, &fault{topic: faultTopic{kind: faultConfig}, err: err}
	}
	if conn != f.conn {
		// It may be another cluster: resource versions mean nothing there.
		f.conn, f.mustList, f.version = conn, true, ""
	}
	ctx, cancel := conn.during(ctx)
	defer cancel()

	if f.mustList {
		if err := f.list(ctx); err != nil {
			return 0, err
		}
		f.mustList = false
	}
	return f.watch(ctx)
}

// list reads every page and publishes them as one answer. It asks for no
// resourceVersion: only then the answer is as new as the newest write. With
// resourceVersion=0 a server that has just started may answer from a cache that is
// older than what is known here.
func (f *serverFollower) list(ctx context.Context) error {
	answer := f.key.collect()
	version, token := "", ""
	deadline := f.owner.now().Add(f.owner.pace.list)
	for {
		head, err := f.page(ctx, token, answer)
		if err != nil {
			return err
		}
		if head.Metadata.Continue != "" && f.owner.now().After(deadline) {
			return f.badAnswer("list", fmt.Errorf("%w answer: it does not end within %s", errMalformed, f.owner.pace.list))
		}
		if version == "" {
			// All pages have one version. If a server does not keep to that, a
			// watch from the first version misses nothing.
			version = head.Metadata.ResourceVersion
		}
		if head.Metadata.Continue == "" {
			break
		}
		if head.Metadata.Continue == token {
			return f.badAnswer("list", fmt.Errorf("%w answer: the next page is the same page", errMalformed))
		}
		token = head.Metadata.Continue
	}
	if older(version, f.version) && f.timeToLog(faultTopic{kind: faultStale, verb: "list"}) {
		f.owner.log.Warn("the resource version went backwards, as after a restore from a backup; the new answer is used",
			"stream", f.key.String(), "resourceVersion", shorten(version, quotedText), "before", shorten(f.version, quotedText))
	}
	answer.complete()
	f.content, f.version = answer, version
	if err := f.checkRemoval(answer, false, "a new list"); err != nil {
		f.owner.sleep(ctx, f.owner.pace.confirm)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return f.list(ctx)
	}
	f.owner.publish(f.stream, f.content, true)
	if f.content.len() >= bulkList {
		time.AfterFunc(afterList, debug.FreeOSMemory)
	}
	f.hasAPI()
	f.sampled = time.Time{}
	f.sample(ctx)
	return nil
}

// page reads the page that token names into answer.
func (f *serverFollower) page(ctx context.Context, token string, answer collection) (listHead, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.owner.pace.answer, errNoAnswer)
	defer cancel()
	query := url.Values{"limit": {strconv.Itoa(pageLimit)}}
	if token != "" {
		query.Set("continue", token)
	}
	resp, err := f.conn.get(ctx, "list", f.key, query)
	if err != nil {
		return listHead{}, err
	}
	defer resp.Body.Close()
	head, err := decodePage(resp.Body, answer)
	if err != nil {
		return listHead{}, f.badAnswer("list", because(ctx, err))
	}
	return head, nil
}

// sample asks which pods there are while a selector matches none, and publishes that
// too: after a list, and then with events and bookmarks, not more often than
// pace.sample. It is only for a message: a failure leaves that out.
func (f *serverFollower) sample(ctx context.Context) {
	l, pods := f.content.(*podCollection)
	if !pods || len(l.kept) > 0 || l.Selector == "" || f.owner.now().Sub(f.sampled) < f.owner.pace.sample {
		return
	}
	f.sampled = f.owner.now()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	all := PodQuery{Namespace: l.Namespace}
	resp, err := f.conn.get(ctx, "list", streamKey{all}, url.Values{"limit": {strconv.Itoa(pageLimit)}})
	if err != nil {
		return
	}
	defer resp.Body.Close()
	seen := &sampleCollection{podCollection: podCollection{PodQuery: all}, keys: selectorKeys(l.Selector)}
	if _, err := decodePage(resp.Body, seen); err == nil {
		l.instead = seen.text(seen.keys, l.Namespace)
		f.owner.publish(f.stream, l, false)
	}
}

// sampleCollection counts the labels of a list's pods.
type sampleCollection struct {
	podCollection
	labelSample
	keys []string
}

func (c *sampleCollection) add(o object) error {
	c.labelSample.add(c.keys, o.meta().Metadata.Labels)
	return nil
}

// badAnswer is the fault of an answer that is cut short or makes no sense.
func (f *serverFollower) badAnswer(verb string, err error) *fault {
	kind := faultAway
	if malformed(err) {
		kind = faultOther
	}
	return &fault{topic: faultTopic{kind: kind}, relist: true, err: fmt.Errorf("%s %s: %w", verb, f.key, err)}
}

// watch opens a watch at version and applies its events until it ends.
func (f *serverFollower) watch(ctx context.Context) (lived time.Duration, err error) {
	pace := &f.owner.pace
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := func(d time.Duration, why error) *time.Timer {
		return time.AfterFunc(d, func() { cancel(why) })
	}

	life := pace.watchFor + time.Duration(f.owner.random()*float64(pace.watchFor))
	unanswered := limit(pace.answer, errNoAnswer)
	resp, err := f.conn.get(ctx, "watch", f.key, url.Values{
		"watch":               {"true"},
		"allowWatchBookmarks": {"true"},
		"resourceVersion":     {f.version},
		"timeoutSeconds":      {strconv.Itoa(int(life.Seconds()))},
	})
	unanswered.Stop()
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	// A watch from a resource version in the future (etcd restored from a backup)
	// never has an event. A working watch has at least bookmarks.
	silent := limit(pace.silence, errSilent)
	defer silent.Stop()
	defer limit(life+pace.overdue, errOverdue).Stop()

	f.follows()
	opened := f.owner.now()
	events := newEventDecoder(resp.Body, f.key.kind())
	for {
		e, err := events.next()
		if err == nil {
			silent.Reset(pace.silence)
			err = f.take(e)
		}
		if err == nil {
			f.sample(ctx)
			continue
		}
		if err = because(ctx, err); err != errSilent {
			f.silences = 0
		}
		if err == errSilent {
			err = f.wentSilent(err)
		} else if malformed(err) {
			err = f.badAnswer("watch", err)
		}
		return f.owner.now().Sub(opened), err
	}
}

// wentSilent is the fault of a watch that sends nothing any more. The first time, a
// list shows whether anything was missed; a second time in a row is a fault of the
// server, or of what is between.
func (f *serverFollower) wentSilent(err error) *fault {
	f.silences++
	problem := &fault{topic: faultTopic{kind: faultStale}, relist: true, err: fmt.Errorf("watch %s: %w", f.key, err)}
	if f.silences > 1 {
		problem.topic = faultTopic{kind: faultAway, verb: "watch"}
		problem.err = fmt.Errorf("watch %s: %w, %d times in a row; its objects are listed again each time", f.key, err, f.silences)
	}
	return problem
}

// take applies one event.
func (f *serverFollower) take(e *event) error {
	if e.kind == eventError {
		if http.StatusText(e.status.Code) == "" {
			e.status.Code = 0 // no status of HTTP: each number would be a topic of the log
		}
		problem := f.conn.refusal("watch", f.key, e.status.Code, e.status.Message)
		problem.relist = true
		return problem
	}
	f.version = e.object.meta().Metadata.ResourceVersion
	f.event(e.kind == eventBookmark)
	if e.kind == eventBookmark {
		return nil
	}
	f.content.apply(e.object, e.kind == eventDeleted)
	if f.content.len() > maxObjects {
		return errTooMany
	}
	if err := f.checkRemoval(f.content, false, "a new list"); err != nil {
		return &fault{topic: faultTopic{kind: faultStale}, relist: true, retryAfter: f.owner.pace.confirm, err: err}
	}
	f.owner.publish(f.stream, f.content, false)
	return nil
}

// older reports whether resource version a is before b. They are numbers, though
// the API reserves the right to change that; what is no number is not older.
func older(a, b string) bool {
	m, errA := strconv.ParseUint(a, 10, 64)
	n, errB := strconv.ParseUint(b, 10, 64)
	return errA == nil && errB == nil && m < n
}

// Why a request ended here.
var (
	errNoAnswer = errors.New("no answer in time")
	errSilent   = errors.New("the server has sent nothing for too long, not even a bookmark, so the watch is not trusted")
	errOverdue  = errors.New("the server did not end the watch when it should have")
)

// because returns why ctx ended, if it did, and otherwise err.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// get asks for what key wants. The error is a *fault.
func (c *connection) get(ctx context.Context, verb string, key streamKey, query url.Values) (*http.Response, error) {
	kind, of := key.kind(), key.scope()
	u := c.base.JoinPath(kind.api)
	if of.namespace != "" {
		u = u.JoinPath("namespaces", url.PathEscape(of.namespace))
	}
	u = u.JoinPath(kind.resource)
	if of.selector != "" {
		query.Set("labelSelector", of.selector)
	}
	if of.name != "" {
		// This is what a Role limited by resourceNames allows to list and watch.
		query.Set("fieldSelector", "metadata.name="+of.name)
	}
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, &fault{topic: faultTopic{kind: faultOther}, err: fmt.Errorf("%s %s: %w", verb, key, err)}
	}
	req.Header.Set("Accept", "application/json")
	if user := c.base.User; user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	resp, err := c.send(req)
	if err != nil {
		return nil, &fault{topic: faultTopic{kind: faultAway}, err: fmt.Errorf("%s %s at %s: %w", verb, key, c.base.Host, because(ctx, err))}
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	if 300 <= resp.StatusCode && resp.StatusCode < 400 {
		return nil, c.redirected(verb, key, resp)
	}
	status := apiStatus{Message: http.StatusText(resp.StatusCode)}
	// A body that is no Status (a proxy's page) leaves the standard text.
	_ = json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&status)
	problem := c.refusal(verb, key, resp.StatusCode, status.Message)
	if seconds, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 32); err == nil {
		problem.retryAfter = time.Duration(seconds) * time.Second
	}
	return nil, problem
}

// redirected is the fault of a redirect. It names the target.
func (c *connection) redirected(verb string, key streamKey, resp *http.Response) *fault {
	where := "nowhere"
	if to := resp.Header.Get("Location"); to != "" {
		// What comes before "@" or after "?" and "#" may be a secret.
		if u, err := resp.Request.URL.Parse(to); err == nil && u.Opaque == "" {
			u.User, u.RawQuery, u.Fragment = nil, "", ""
			where = shorten(u.String(), 2*quotedText)
		} else {
			to, _, _ = strings.Cut(to, "?")
			to, _, _ = strings.Cut(to, "#")
			where = strconv.Quote(shorten(to[strings.LastIndex(to, "@")+1:], quotedText))
		}
	}
	return &fault{
		topic:  faultTopic{kind: faultOther, verb: verb, code: resp.StatusCode},
		relist: true,
		err: fmt.Errorf("%s %s: %s answers %d, a redirect to %s; redirects are not followed: the address in %s must be that of the API server",
			verb, key, c.base.Host, resp.StatusCode, where, c.credentials),
	}
}

// refusal is the fault of an answer with an error, and says what to do about it.
func (c *connection) refusal(verb string, key streamKey, code int, message string) *fault {
	f := &fault{topic: faultTopic{kind: faultOther, verb: verb, code: code}, relist: true}
	message = shorten(message, 4*quotedText)
	if absent := absence(key, code, message); absent != nil {
		return absent
	}
	switch {
	case code == http.StatusUnauthorized:
		f.topic.kind, f.relist = faultDenied, false
		f.err = fmt.Errorf("%s %s: the API server does not accept the credentials of %s; they are missing, wrong or expired: renew them (server: %s)",
			verb, key, c.credentials, message)
		return f
	case code == http.StatusForbidden:
		f.topic.kind, f.relist = faultDenied, false
		resource, of := key.kind().resource, key.scope()
		what := strconv.Quote(resource)
		if of.name != "" {
			what += " " + strconv.Quote(of.name)
		}
		if of.namespace != "" {
			what += " in namespace " + strconv.Quote(of.namespace)
		}
		role := "Role"
		if of.namespace == "" { // also a Role grants nothing there
			role = "ClusterRole"
		}
		f.err = fmt.Errorf("%s is forbidden: the account of %s may not %q %s: grant it in the %s of %s (server: %s)",
			resource, c.credentials, verb, what, role, key.kind().rights, message)
		return f
	case code == http.StatusGone:
		f.topic.kind = faultStale
	case code == http.StatusTooManyRequests || code >= 500:
		// Too busy, or no server behind the load balancer. A 500 may be about the
		// version that was asked for.
		f.topic.kind, f.relist = faultAway, code == http.StatusInternalServerError
	}
	f.err = fmt.Errorf("%s %s: the API server answers %d: %s", verb, key, code, message)
	return f
}
