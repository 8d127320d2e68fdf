package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// [events] has a webhook with a timeout and a token, or none. No mistake quotes the URL.
func TestParseEvents(t *testing.T) {
	const none = `no URL of an HTTP server; want one such as "https://hooks.example/lvs", or "" for none`
	head := func(lines string) string { return "[events]\n" + lines + "\n[[vip]]\n" + goodVIP }
	for text, want := range map[string]Events{
		"[[vip]]\n" + goodVIP: {Timeout: 5 * time.Second},
		head("webhook = 'https://u:p@hooks.example:8443/a?b=c'\ntimeout = '1m'\ntoken_file = 'token'"): {
			Webhook: "https://u:p@hooks.example:8443/a?b=c", Timeout: time.Minute, TokenFile: "dir/token",
		},
		head("webhook = 'http://[2001:db8::1]/'\ntoken_file = '/run/token'"): {Webhook: "http://[2001:db8::1]/", Timeout: 5 * time.Second, TokenFile: "/run/token"},
		head("webhook = ''"): {Timeout: 5 * time.Second},
	} {
		c, err := ParseConfig("dir/c.toml", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, c.Events); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	tests := []struct{ text, want string }{
		{head("webhook = 7"), `2: events.webhook: is ` + none},
		{head("timeout = '50ms'"), `2: events.timeout: is "50ms", want a duration in quotes with its unit such as "10s", from 100ms to 1m`},
		{head("token_file = 'a'"), `2: events.token_file: is for a webhook alone, want that or no token_file`},
	}
	for _, url := range []string{"hooks.example", "ftp://hooks.example", "https://", "https:///secret", "https://h/#secret", "http://h:secret/", "http://h/" + strings.Repeat("a", maxWebhook)} {
		tests = append(tests, struct{ text, want string }{head("webhook = '" + url + "'"), `2: events.webhook: is ` + none})
	}
	checkMistakes(t, tests)
}
