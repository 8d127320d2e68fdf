// [events] → Events.
//
// Used by config_toml.go. A key and its range are in the function that reads it, the
// defaults in defaultEvents. No I/O: whether the webhook can be reached is not checked.

package main

import (
	"net/url"
	"time"
)

// maxWebhook is the length of the longest URL of a webhook, in bytes.
const maxWebhook = 2048

// events reads [events].
func (r *configReader) events(v value, e *Events) {
	v.table(
		setting{"webhook", func(v value) {
			s, ok := v.raw.(string)
			if !ok || !isWebhook(s) { // without its text, which may have a password in it
				v.mistake(`is no URL of an HTTP server; want one such as "https://hooks.example/lvs", or "" for none`)
				return
			}
			e.Webhook = s
		}},
		setting{"timeout", duration(&e.Timeout, 100*time.Millisecond, time.Minute)},
		setting{"token_file", r.relativePath(&e.TokenFile)},
	)
	if e.Webhook == "" && e.TokenFile != "" && !v.child("webhook").wrong() {
		v.child("token_file").mistake("is for a webhook alone, want that or no token_file")
	}
}

// isWebhook reports whether s is the URL of an HTTP server, or "".
func isWebhook(s string) bool {
	u, err := url.Parse(s)
	return s == "" || err == nil && len(s) <= maxWebhook && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.Fragment == ""
}
