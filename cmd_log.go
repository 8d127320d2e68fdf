// The flags about the log, of the commands that go on running.
//
// Used by cmd*.go and main.go. It opens a log, and writes nothing to it.

package main

import (
	"flag"
	"io"
	"log/slog"
	"time"
)

// logPatience is the time that the log has for its last lines.
const logPatience = time.Second

// logSettings are what flags say about the log.
type logSettings struct {
	format string
	level  slog.Level
	debug  bool
}

// flags adds the flags about the log to fs.
func (s *logSettings) flags(fs *flag.FlagSet) {
	s.format = logText
	fs.Func("log-format", "`format` of the log: text, json or journal; the journal's has priorities and no time (default text)", func(name string) (err error) {
		s.format, err = parseLogFormat(name)
		return err
	})
	fs.Func("log-level", "least `level` that is logged: debug, info, warn or error (default info); SIGUSR1 changes to debug and back", func(name string) (err error) {
		s.level, err = parseLogLevel(name)
		return err
	})
}

func (s *logSettings) open(w io.Writer) *programLog {
	if s.debug {
		s.level = slog.LevelDebug
	}
	return openLog(w, s.format, s.level)
}
