// The webhook: sends events to a server of the operator's, by POST.
//
// Used by http_metrics.go and main.go. It follows the record of events as a client of
// /events does, and has no other queue: while the server cannot be reached, the newest
// events are kept and the others counted as lost. One POST runs at a time, so events come
// in order; one whose answer was lost comes twice. It never delays the loop. No text from
// here has the URL, which may have a password in it.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// webhookBatch is how many events one POST has at most, and webhookGather how long
	// it waits for those that belong together.
	webhookBatch  = 100
	webhookGather = 200 * time.Millisecond
	// webhookRetry is the wait after the first failure, and webhookLongest after many.
	webhookRetry   = time.Second
	webhookLongest = time.Minute
	// maxToken is the size of the largest token, in bytes.
	maxToken = 4096
)

// webhookVersion is raised when a field of a message changes its meaning or goes.
const webhookVersion = 1

// webhookMessage is the body of a POST.
type webhookMessage struct {
	Version int     `json:"version"` // webhookVersion
	Host    string  `json:"host"`
	Lost    uint64  `json:"lost,omitempty"` // events before these that were not sent and are not kept any more
	Events  []Event `json:"events"`
}

// webhook sends events to the server that the newest configuration names.
type webhook struct {
	log     *slog.Logger
	configs *latest[Config]
	wake    <-chan struct{} // receives after configs has changed
	events  *eventRecord
	host    string
	client  *http.Client

	sent, failed, lost atomic.Uint64 // POSTs, and events that no POST had
	failing            atomic.Bool   // the last POST has failed
}

// newWebhook returns a webhook of this host.
func newWebhook(log *slog.Logger, configs *latest[Config], wake <-chan struct{}, events *eventRecord, host string) *webhook {
	return &webhook{log: log, configs: configs, wake: wake, events: events, host: host, client: &http.Client{
		// No connection is kept: net/http logs by itself what a server sends unasked.
		Transport: &http.Transport{DisableKeepAlives: true, TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 16 << 10},
		// A redirect is a failure: the token is for one server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Run sends events until ctx ends.
func (h *webhook) Run(ctx context.Context) error {
	var failing failureLog
	at, wait := uint64(0), backoff{first: webhookRetry, most: webhookLongest}
	for ctx.Err() == nil {
		settings := h.configs.Get().Events
		if settings.Webhook == "" {
			failing = failureLog{}
			h.failing.Store(false)
			wait.reset()
			select {
			case <-h.wake:
			case <-ctx.Done():
			}
			at = h.events.newest() // what happens without one is not sent later
			continue
		}
		batch, lost, next, more := h.events.after(at, webhookBatch)
		if len(batch) == 0 && lost == 0 {
			select {
			case <-more:
				sleepContext(ctx, webhookGather)
			case <-h.wake:
			case <-ctx.Done():
			}
			continue
		}
		err := h.postUnlessChanged(ctx, &settings, &webhookMessage{webhookVersion, h.host, lost, batch})
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errOtherWebhook):
			continue
		}
		h.failing.Store(err != nil)
		switch begins, ends := failing.note(err); {
		case begins:
			h.log.Warn("events cannot be sent to the webhook; this is tried again", "err", err)
		case ends:
			h.log.Info("events are sent to the webhook again", "lost", lost)
		}
		if err == nil {
			at = next
			h.sent.Add(1)
			h.lost.Add(lost)
			wait.reset()
			continue
		}
		h.failed.Add(1)
		retry := time.NewTimer(webhookRetry/2 + jittered(wait.next(), rand.Float64()))
		select {
		case <-retry.C:
		case <-h.wake: // the URL may be another one
		case <-ctx.Done():
		}
		retry.Stop()
	}
	return nil
}

// errOtherWebhook says that a reload has changed the webhook during a POST.
var errOtherWebhook = errors.New("the webhook is another one")

// postUnlessChanged is post, and gives it up when a reload changes to: the server of
// before may be the reason why it is slow.
func (h *webhook) postUnlessChanged(ctx context.Context, to *Events, m *webhookMessage) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	answer := make(chan error, 1)
	go func() { answer <- h.post(ctx, to, m) }()
	for {
		select {
		case err := <-answer:
			return err
		case <-h.wake:
			if h.configs.Get().Events != *to {
				giveUp()
				<-answer
				return errOtherWebhook
			}
		}
	}
}

// post sends one message.
func (h *webhook) post(ctx context.Context, to *Events, m *webhookMessage) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, to.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.Webhook, bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL of the webhook cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "lvs-controller/"+version)
	if to.TokenFile != "" {
		token, err := readToken(to.TokenFile)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := h.client.Do(req)
	if err != nil {
		if whole, ok := errors.AsType[*url.Error](err); ok {
			err = whole.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer in %s", to.Timeout)
		}
		return errors.New("POST: " + report(err)) // it may quote the answer
	}
	resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("POST: the answer is %d", resp.StatusCode)
	}
	return nil
}

// readToken reads the token in the file at path. It is read for each POST, because tokens
// are rotated.
func readToken(path string) (string, error) {
	b, err := readRegular(path, maxToken)
	if err != nil {
		return "", fmt.Errorf("token_file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("token_file: %s has no token: one line of printable ASCII without spaces", path)
	}
	return token, nil
}

// write writes the counters of the events and of the webhook.
func (h *webhook) write(e *exposition) {
	e.family("events_total", counter, "Events since the start.")(float64(h.events.newest()))
	posts := e.family("webhook_posts_total", counter, "Messages to the webhook by their result.")
	posts(float64(h.sent.Load()), "result", "ok")
	posts(float64(h.failed.Load()), "result", "failed")
	e.family("webhook_lost_events_total", counter, "Events that the webhook did not get.")(float64(h.lost.Load()))
	e.family("webhook_failing", gauge, "1 while messages to the webhook fail.")(flag01(h.failing.Load()))
}
