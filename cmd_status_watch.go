// status -w: the status again and again, in the same place of a terminal.
//
// Used by cmd_status.go. Without a terminal it prints one status below the other. It ends
// at SIGINT, with the cursor as it was.

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What is sent to a terminal (ECMA-48).
const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	goHome     = "\x1b[H"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
	clearAll   = "\x1b[2J"
)

// follow draws until ctx ends, or SIGINT or SIGTERM.
func (t *statusTask) follow(ctx context.Context, view *statusText, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	terminal := isTerminal(stdout)
	if terminal {
		fmt.Fprint(stdout, hideCursor, clearAll)
		defer fmt.Fprint(stdout, showCursor)
	}
	for {
		st, note, err := t.fetch(ctx)
		if ctx.Err() != nil {
			return exitOK
		}
		var lines []textLine
		if note != "" {
			for line := range strings.Lines(note) {
				lines = append(lines, textLine{bad, strings.TrimSpace(line)})
			}
		}
		if err != nil {
			lines = append(lines, textLine{bad, printable(err.Error())})
		} else {
			lines = append(lines, view.draw(&st)...)
		}
		text := view.screen(lines, terminal, stdout)
		if _, err := io.WriteString(stdout, text); err != nil {
			return fail(stderr, err)
		}
		if sleepContext(ctx, t.interval); ctx.Err() != nil {
			return exitOK
		}
	}
}

// screen is the text that shows lines. On a terminal it has no more of them than fit.
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
	if more := len(lines) - (height - 1); more > 0 && height > 2 {
		lines = append(lines[:height-2:height-2], textLine{plain, fmt.Sprintf("… %d lines more", more+1)})
	}
	b.WriteString(goHome)
	for _, l := range lines {
		v.write(&b, l, min(width, v.width))
		b.WriteString(clearLine + "\n")
	}
	b.WriteString(clearBelow)
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
