// The sub-command import: prints a config.toml that serves what keepalived.conf or the
// kernel's table has.
//
// Used by main.go. cmd_import_conf.go, cmd_import_keepalived.go, cmd_import_checks.go and
// cmd_import_table.go read what there is into one form, services. cmd_import_fit.go
// leaves out what config.toml cannot say, cmd_import_group.go makes VIPs of the rest, and
// cmd_import_text.go the text. It changes nothing, and writes to stdout and stderr only.

package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
)

var importCommand = command{
	name:    "import",
	summary: "print a config.toml made from keepalived.conf or ipvsadm",
	about: `Prints a config.toml with the virtual servers of a keepalived.conf or, with
-ipvsadm, those of a listing that ipvsadm -Sn has printed. FILE may be - for standard
input. With -ipvsadm and no FILE it reads what a pipe brings, else the kernel's table.
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
	file := t.file
	if info, err := t.in.Stat(); file == "" && err == nil && info.Mode()&os.ModeNamedPipe != 0 {
		file = "-"
	}
	switch file {
	case "":
		return importKernel()
	case "-":
		saved, err := readListing(t.in)
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
		if have, err = d.Table(func(ServiceKey) bool { return true }, nil); err == nil {
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

// Bounds of what is read and printed.
const (
	mostServices = 20_000  // virtual services of a keepalived.conf, those of ranges one by one
	mostRows     = 500_000 // real servers of all of them, with checkers and comments
	mostPath     = 120     // characters of a file's name in a comment
	mostRemark   = 300     // and of the rest of the comment
	mostKinds    = 100     // keywords of the top level that are keepalived's alone
)

// importPlace is where something was found.
type importPlace struct {
	file  string
	line  int // counted from 1; 0 = not known
	order int // of lines over all files, as they were read
}

func (p *importPlace) String() string {
	file := p.file
	if r := []rune(file); len(r) > mostPath {
		file = "…" + string(r[len(r)-mostPath:])
	}
	if p.line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, p.line)
}

// mistake is an error that ends the reading there.
func (p *importPlace) mistake(text string) error { return errors.New(p.String() + ": " + text) }

// remark is a comment: what was not taken, and why, or what was taken differently.
type remark struct {
	at   *importPlace
	text string
	note bool // nothing is lost: it is not counted
}

// String is the comment without the sign that begins it.
func (r remark) String() string {
	return printable(r.at.String() + ": " + shorten(r.text, mostRemark))
}

// imported is what was found, in the form that all sources share.
type imported struct {
	source   string // for people
	services []*importService
	remarks  []remark
	// keeps has the addresses that keepalived brings to this host, with the name of the
	// vrrp_instance; nil when the source is no keepalived.conf.
	keeps map[netip.Addr]string
}

// importService is one virtual service of the source.
type importService struct {
	at   *importPlace
	what string // as the source names it
	name string // of its virtual_server_group, "" for none
	VirtualService
	servers []importServer
	sorry   []importServer // at most one that fits
	checks  []importCheck
	remarks []remark
	refused string // why it is not taken, "" when it is
}

// refuse notes the first reason why s is not taken.
func (s *importService) refuse(why string) { s.refused = cmp.Or(s.refused, why) }

// remark notes that keyword c is not taken. why says more than its name.
func (s *importService) remark(c *confStatement, why string) {
	s.remarks = append(s.remarks, remark{at: c.at, text: shorten(c.word(0), quotedText) + ": " + why})
}

// importServer is a real server or a sorry server of a service.
type importServer struct {
	at *importPlace
	RealServer
	refused string // why it is not taken, "" when it is
	remarks []remark
}

// importCount is what was taken, and what was not.
type importCount struct {
	vips             int
	services, taken  int // virtual services, and those of them that were taken
	rows, rowsTaken  int // real servers of each service
	settings, hidden int // settings that were not taken; comments that are not printed
}

// lines are the summary.
func (c *importCount) lines() []string {
	lines := []string{
		fmt.Sprintf("taken: %d of %d %s, %d of %d %s, as %d %s", c.taken, c.services, plural(c.services, "virtual service", "virtual services"),
			c.rowsTaken, c.rows, plural(c.rows, "real server", "real servers"), c.vips, plural(c.vips, "VIP", "VIPs")),
	}
	if c.services == c.taken && c.rows == c.rowsTaken && c.settings == 0 {
		return append(lines, "not taken: nothing")
	}
	text := fmt.Sprintf("not taken: %d %s, %d %s, %d %s; each has a comment with the reason", c.services-c.taken, plural(c.services-c.taken, "virtual service", "virtual services"),
		c.rows-c.rowsTaken, plural(c.rows-c.rowsTaken, "real server", "real servers"), c.settings, plural(c.settings, "setting", "settings"))
	if c.hidden > 0 {
		text += fmt.Sprintf(", but %d of these comments are left out", c.hidden)
	}
	return append(lines, text)
}
