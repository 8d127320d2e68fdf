// How the sub-commands ask the running controller: over the control socket, or else at
// the address in listen.
//
// Used by cmd_status.go. It reads the configuration to find both, and works without one.

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// controllerAt is where the running controller answers; "" for where it does not.
type controllerAt struct {
	socket, listen string
	only           bool // the socket is asked alone: an operator has named it
}

// locate finds the controller of the configuration at path, "" for the default one. cfg is
// nil when that cannot be used, and err says why, unless the default file is missing or not
// this user's to read. Then the directories alone are read, or their defaults are taken.
// A socket that is given is asked alone: elsewhere another controller may answer.
func locate(path, socket string) (at controllerAt, cfg *Config, err error) {
	file := cmp.Or(path, defaultConfigPath)
	cfg, err = LoadConfig(file)
	if path == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		err = nil
	}
	known := cfg
	if known == nil {
		if known, _ = LoadDirectories(file); known == nil {
			known = defaultConfig()
		}
	}
	if socket != "" {
		return controllerAt{socket: socket, only: true}, cfg, err
	}
	return controllerAt{socket: socketPath(known.StateDir), listen: known.Listen}, cfg, err
}

// ask sends one GET request to the running controller, and calls read with the answer.
// When the socket has no controller, it asks the listener.
func (c controllerAt) ask(ctx context.Context, path string, patience time.Duration, read func(*http.Response) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var noSocket error
	if c.socket != "" {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.socket)
		}
		err := get(ctx, &http.Transport{DialContext: dial, DisableKeepAlives: true}, "controller", path, read)
		if err == nil || !slices.ContainsFunc([]error{unix.ENOENT, unix.ENOTDIR, unix.ECONNREFUSED, unix.EACCES}, func(is error) bool { return errors.Is(err, is) }) {
			return err
		}
		noSocket = err
	}
	switch {
	case c.only:
		return noSocket
	case c.listen == "" && noSocket == nil:
		return errors.New("listen is off")
	case c.listen == "":
		return fmt.Errorf("listen is off, and %w", noSocket)
	}
	// Without a proxy: listen is an address of this host.
	err := get(ctx, &http.Transport{DisableKeepAlives: true}, dialable(c.listen), path, read)
	if err != nil && noSocket != nil {
		err = fmt.Errorf("%w, and %w", err, noSocket)
	}
	return err
}

// refusal is an answer that is an error, from a controller or from another program there.
type refusal struct{ status, reason string }

func (r *refusal) Error() string { return "status " + r.status + r.reason }

// maxErrorText is how many bytes of an error's text are read. Its first line is shown.
const maxErrorText = 4096

// refused is the answer r, whose status is an error's.
func refused(r *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(r.Body, maxErrorText)) // the status alone says enough
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	if line = shorten(strings.TrimSpace(line), reportedText); line != "" {
		line = ": " + printable(line)
	}
	return &refusal{printable(shorten(r.Status, quotedText)), line}
}

// hasAnswered reports whether err, of ask, is an answer.
func hasAnswered(err error) bool { return errors.As(err, new(*refusal)) }

// unanswered is what err, of ask, says about the controller.
func unanswered(err error) string {
	if hasAnswered(err) {
		return "answers with an error"
	}
	return "does not answer"
}

// get sends one request, and calls read with the answer. It follows no redirect: what
// another host says is not about this one.
func get(ctx context.Context, client *http.Transport, host, path string, read func(*http.Response) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if to := resp.Header.Get("Location"); to != "" {
		return &refusal{printable(shorten(resp.Status, quotedText)), fmt.Sprintf(", a redirect to %q, which is not followed", shorten(to, quotedText))}
	}
	return read(resp)
}

// dialable is the address to connect to for a listen address: this host in place of a
// wildcard.
func dialable(listen string) string {
	for _, wildcard := range [][2]string{{":", "localhost:"}, {"0.0.0.0:", "127.0.0.1:"}, {"[::]:", "[::1]:"}} {
		if port, found := strings.CutPrefix(listen, wildcard[0]); found {
			return wildcard[1] + port
		}
	}
	return listen
}
