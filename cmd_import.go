// The sub-command import: prints a config.toml that serves what keepalived.conf or the
// kernel's table has.
//
// Used by main.go. cmd_import_conf.go, cmd_import_keepalived.go, cmd_import_checks.go and
// cmd_import_table.go read what there is into one form, services. cmd_import_fit.go leaves
// out what config.toml cannot say, cmd_import_group.go makes VIPs of the rest, and
// cmd_import_text.go the text. It changes nothing, and writes to stdout and stderr only.

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

var importCommand = command{
	name:    "import",
	summary: "print a config.toml made from keepalived.conf or ipvsadm",
	about: `Prints a config.toml with the virtual servers of a keepalived.conf or, with
-ipvsadm, those of a listing that ipvsadm -Sn has printed. FILE may be - for standard
input. With -ipvsadm and no FILE it reads what a pipe brings, else, and if that is nothing,
the kernel's table.
What config.toml cannot say is a comment at its place, with the reason. The first lines
and stderr count what was taken and what was not.`,
	operand: "[FILE]",
	exits:   map[int]string{exitOK: "something was taken", exitFailure: "nothing could be read, or nothing was taken"},
	examples: `lvs-controller import /etc/keepalived/keepalived.conf > config.toml
ipvsadm -Sn | lvs-controller import -ipvsadm > config.toml
lvs-controller import -ipvsadm saved.txt > config.toml`,
	new: func() task { return &importTask{in: os.Stdin} },
}

// importTask is one call of `lvs-controller import`.
type importTask struct {
	listing  bool
	configID string
	file     string
	in       *os.File
}

func (t *importTask) flags(fs *flag.FlagSet) {
	fs.BoolVar(&t.listing, "ipvsadm", false, "FILE is a listing of ipvsadm -Sn; without FILE the kernel's table")
	fs.StringVar(&t.configID, "config-id", "", "`id` of the lines of keepalived.conf that begin with @id, as for keepalived -i (default this host's name up to the first dot)")
}

func (t *importTask) parsed(fs *flag.FlagSet) { t.file = fs.Arg(0) }

// run prints the configuration.
func (t *importTask) run(_ context.Context, stdout, stderr io.Writer) int {
	if t.file == "" && !t.listing {
		return importCommand.misused(stderr, "want the FILE of a keepalived.conf, or -ipvsadm")
	}
	if t.configID != "" && t.listing {
		return importCommand.misused(stderr, "-config-id is for a keepalived.conf, not for -ipvsadm")
	}
	found, err := t.read()
	if err != nil {
		return fail(stderr, "lvs-controller import:", importError{err})
	}
	text, count := found.configuration()
	if _, err := io.WriteString(stdout, text); err != nil {
		return fail(stderr, err)
	}
	for _, line := range count.lines() {
		fmt.Fprintf(stderr, "%s: %s\n", printable(shorten(found.source, mostPath)), line)
	}
	if count.vips == 0 {
		return exitFailure
	}
	return exitOK
}

// importError is the reason why nothing could be read, in one short line: it may quote
// the file.
type importError struct{ error }

func (e importError) Error() string { return report(e.error) }

func (e importError) Unwrap() error { return e.error }

// read reads what the command line names.
func (t *importTask) read() (*imported, error) {
	if !t.listing {
		id := t.configID
		if id == "" {
			name, _ := os.Hostname() // without one no line with an id is taken
			id, _, _ = strings.Cut(name, ".")
		}
		return importKeepalived(t.file, id, t.in)
	}
	in, file := bufio.NewReader(t.in), t.file
	if info, err := t.in.Stat(); file == "" && err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		if _, err := in.Peek(1); err == nil { // a pipe that brings nothing is that of a program which starts this one
			file = "-"
		}
	}
	switch file {
	case "":
		return importKernel()
	case "-":
		saved, err := readListing(in)
		return importTable("standard input", saved.Table, saved.Lines), wrap("standard input", err)
	}
	saved, err := openListing(file)
	return importTable(file, saved.Table, saved.Lines), err
}

// importKernel reads the table of this network namespace.
func importKernel() (*imported, error) {
	d, err := dialIPVS()
	if err == nil {
		defer d.Close()
		var have shards
		if have, err = d.Table(func(ServiceKey) bool { return true }, nil, nil); err == nil {
			var t Table
			for _, s := range have {
				t = append(t, s.Services...)
			}
			return importTable("the kernel's table", t, nil), nil
		}
	}
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w; with a FILE, or - for standard input, no kernel is asked", err)
	}
	return nil, wrap("read the kernel's table", err)
}
