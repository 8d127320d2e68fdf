// The log of the controller: its formats, and its level, which an operator can change
// while the controller runs.
//
// Used by http*.go, cmd*.go and main.go. It knows nothing of what the lines say. It
// never waits for the reader of the log (log_queue.go).

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
)

// The formats of the log.
const (
	logText    = "text"    // key=value, with time and level
	logJSON    = "json"    // an object a line
	logJournal = "journal" // a priority before key=value; the journal has the time
)

// logLevels are the levels by their names.
var logLevels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// parseLogLevel returns the level called name.
func parseLogLevel(name string) (slog.Level, error) {
	level, known := logLevels[name]
	if !known {
		return 0, errors.New("want debug, info, warn or error")
	}
	return level, nil
}

// parseLogFormat returns name, if it is the name of a format.
func parseLogFormat(name string) (string, error) {
	switch name {
	case logText, logJSON, logJournal:
		return name, nil
	}
	return "", errors.New("want text, json or journal")
}

// programLog is the log of a controller.
type programLog struct {
	*slog.Logger
	queue *logQueue
	level *logLevel
}

// openLog returns a log that writes to w in a format, from a level on. Its queue has to
// be closed.
func openLog(w io.Writer, format string, level slog.Level) *programLog {
	l := &logLevel{configured: level}
	l.Set(level)
	queue := newLogQueue(w, format)
	l.handler = newLogHandler(queue, format, l)
	return &programLog{slog.New(l.handler), queue, l}
}

// newLogHandler writes each line to w with one Write.
func newLogHandler(w io.Writer, format string, level slog.Leveler) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case logJSON:
		return slog.NewJSONHandler(w, options)
	case logJournal:
		return newJournalHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

// The priorities of syslog (sd-daemon(3)) of the four levels.
var priorities = [...]struct {
	least  slog.Level
	prefix string
}{{slog.LevelError, "<3>"}, {slog.LevelWarn, "<4>"}, {slog.LevelInfo, "<6>"}, {slog.LevelDebug, "<7>"}}

// journalHandler writes lines for the journal: a priority, and the text without the
// time and the level, which the journal shows.
type journalHandler [len(priorities)]slog.Handler

func newJournalHandler(w io.Writer, options *slog.HandlerOptions) (h journalHandler) {
	options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	for i := range h {
		h[i] = slog.NewTextHandler(prefixWriter{w, priorities[i].prefix}, options)
	}
	return h
}

// prefixWriter writes each line with a prefix.
type prefixWriter struct {
	w      io.Writer
	prefix string
}

func (p prefixWriter) Write(line []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

func (h journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h[0].Enabled(ctx, level)
}

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	i := 0
	for i < len(h)-1 && r.Level < priorities[i].least {
		i++
	}
	return h[i].Handle(ctx, r)
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for i := range h {
		h[i] = h[i].WithAttrs(attrs)
	}
	return h
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	for i := range h {
		h[i] = h[i].WithGroup(name)
	}
	return h
}

// gapLine is the line about dropped lines, in a format.
func gapLine(format string, lines uint64) []byte {
	var b bytes.Buffer
	log := slog.New(newLogHandler(&b, format, nil))
	log.Warn("lines of the log were dropped: their reader is too slow", "lines", lines)
	return b.Bytes()
}

// logLevel is the level of a log. It is safe from any goroutine.
type logLevel struct {
	slog.LevelVar
	configured slog.Level
	handler    slog.Handler
}

// change sets the level, because of why. One line says so at every level.
func (l *logLevel) change(level slog.Level, why string) {
	l.Set(level)
	l.always(slog.LevelInfo, "the log level is changed", "to", strings.ToLower(level.String()), "why", why)
}

// toggle changes between the level of the start and debug; info and debug, where the
// start's is debug.
func (l *logLevel) toggle(why string) {
	next := slog.LevelDebug
	if l.Level() == next {
		if next = l.configured; next == slog.LevelDebug {
			next = slog.LevelInfo
		}
	}
	l.change(next, why)
}

// always writes a line whatever the level is.
func (l *logLevel) always(level slog.Level, message string, args ...any) {
	r := slog.NewRecord(time.Now(), level, message, 0)
	r.Add(args...)
	_ = l.handler.Handle(context.Background(), r) // the queue takes every line
}

// follow toggles the level for each of signals, until ctx ends. It returns nil.
func (l *logLevel) follow(ctx context.Context, signals <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-signals:
			l.toggle("SIGUSR1")
		}
	}
}
