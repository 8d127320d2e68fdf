// status -w: the status again and again, in the same place of a terminal.
//
// Used by cmd_status.go. Without a terminal it prints one status below the other. It
// leaves the terminal as it was, at the end and while it is stopped.

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// What is sent to a terminal (ECMA-48, and the private modes of xterm).
const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	cutLines   = "\x1b[?7l" // a line that is too long does not go on below
	wrapLines  = "\x1b[?7h"
	goHome     = "\x1b[H"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
	clearAll   = "\x1b[2J"

	openScreen  = hideCursor + clearAll
	leaveScreen = "\r" + clearBelow + showCursor // where the next prompt is
)

// follow draws until ctx ends, or a signal of the terminal or SIGTERM.
func (t *statusTask) follow(ctx context.Context, view *statusText, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	terminal := isTerminal(stdout)
	events := make(chan os.Signal, 8)
	if terminal {
		signal.Notify(events, syscall.SIGWINCH, syscall.SIGTSTP, syscall.SIGCONT)
		defer signal.Stop(events)
		fmt.Fprint(stdout, openScreen)
		defer fmt.Fprint(stdout, leaveScreen)
	}
	for {
		st, note, err := t.fetch(ctx)
		if ctx.Err() != nil {
			return exitOK
		}
		if err == nil {
			note = strings.TrimPrefix(note+"\n"+t.only.apply(&st), "\n")
		}
		draw := func() error {
			view.fit(stdout)
			_, err := io.WriteString(stdout, view.screen(view.answer(&st, note, err), terminal, stdout))
			return err
		}
		if err := draw(); err != nil {
			return fail(stderr, err)
		}
		for next := time.After(t.interval); next != nil; {
			select {
			case <-ctx.Done():
				return exitOK
			case <-next:
				next = nil
			case event := <-events:
				if err := onTerminal(event, stdout, draw); err != nil {
					return fail(stderr, err)
				}
			}
		}
	}
}

// onTerminal does what a signal of the terminal asks for: draw in its new size, stop as
// ctrl-Z wants and leave the terminal as it was, or go on.
func onTerminal(event os.Signal, stdout io.Writer, draw func() error) error {
	switch event {
	case syscall.SIGTSTP:
		fmt.Fprint(stdout, leaveScreen)
		return unix.Kill(os.Getpid(), unix.SIGSTOP)
	case syscall.SIGCONT:
		fmt.Fprint(stdout, openScreen)
	}
	return draw()
}

// answer is what fetch has found, as lines.
func (v *statusText) answer(st *status, note string, err error) []textLine {
	v.lines = nil
	for line := range strings.Lines(note) {
		v.say(bad, "%s", line)
	}
	if err != nil {
		v.say(bad, "%s", err)
		return v.lines
	}
	notes := v.lines
	return append(notes, v.draw(st)...)
}

// screen is the text that shows lines. On a terminal it has no more of them than fit. It
// is written at once and clears nothing that it does not write again, so that nothing
// flickers.
func (v *statusText) screen(lines []textLine, terminal bool, stdout io.Writer) string {
	var b strings.Builder
	if !terminal {
		for _, l := range lines {
			v.write(&b, l, v.width)
			b.WriteByte('\n')
		}
		b.WriteByte('\n')
		return b.String()
	}
	width, height := terminalSize(stdout, v.width)
	room := min(width, v.width)
	if more := len(lines) - (height - 1); more > 0 && height > 2 {
		lines = append(lines[:height-2:height-2], textLine{plain, fmt.Sprintf("… %d lines more; -vip, -server, -port filter", more+1)})
	} else if more > 0 {
		lines = lines[:height-1]
	}
	b.WriteString(goHome + cutLines)
	for _, l := range lines {
		v.write(&b, l, room)
		if min(utf8.RuneCountInString(l.text), room) < width { // in a full line it would clear the last column
			b.WriteString(clearLine)
		}
		b.WriteByte('\n')
	}
	b.WriteString(wrapLines + clearBelow)
	return b.String()
}

// terminalSize is the size of the terminal that w is, of 24 lines if it does not say.
func terminalSize(w io.Writer, width int) (columns, lines int) {
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 && size.Row > 0 {
			return int(size.Col), int(size.Row)
		}
	}
	return width, 24
}
