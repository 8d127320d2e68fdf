// Which rights a director keeps after its start, and which reloads ask for one that it
// has given up.
//
// Used by main.go. A director that root starts needs CAP_NET_ADMIN and CAP_NET_RAW, and
// writes to few directories. What its configuration needs beyond that at the start stays,
// with a warning. A reload that needs more is refused, because nothing comes back before
// a restart. It changes nothing but the rights of the process.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// directorCapabilities are what a director needs in any case. NET_ADMIN: IPVS, nftables,
// addresses, sync daemons, and /proc/sys/net beside the owner's rights. NET_RAW: frames of
// ARP and neighbour discovery, the datapath probe.
const directorCapabilities capabilities = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW

// sysctlDirectory is where sysctl.go writes.
const sysctlDirectory = "/proc/sys/net"

// heldRights are the rights that the start has left. nil: all are there.
type heldRights struct {
	confined bool // writing is restricted to the directories of the start
}

// A rightsNeed is something in a configuration that file permissions or a low port can
// forbid.
type rightsNeed struct {
	key     string
	value   string       // compared at a reload: what has not changed is not asked again
	granted capabilities // lets a process of root do it in any case
	try     func() error // fails with fs.ErrPermission when it is forbidden
}

// rightsNeeds are those of c.
func rightsNeeds(c *Config) []rightsNeed {
	write := func(dir string) func() error {
		return func() error {
			return wrap("write to "+dir, unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS))
		}
	}
	needs := []rightsNeed{
		{"state_dir", c.StateDir, writesAll, write(c.StateDir)},
		{"cache_dir", c.CacheDir, writesAll, write(c.CacheDir)},
	}
	if c.Path != "" {
		needs = append(needs, rightsNeed{"config", c.Path, readsAll, tryReading(c.Path)})
	}
	if q := c.ClusterQuery(); q.ClusterFile != "" {
		needs = append(needs, rightsNeed{"cluster_file", q.ClusterFile, readsAll, tryReading(q.ClusterFile)})
	} else if len(allKeys(&q)) > 0 {
		needs = append(needs, rightsNeed{"kubeconfig", q.Kubeconfig, readsAll, func() error { return readableSource(&q) }})
	}
	if c.Events.TokenFile != "" {
		needs = append(needs, rightsNeed{"events.token_file", c.Events.TokenFile, readsAll, tryReading(c.Events.TokenFile)})
	}
	if c.Listen != "" {
		needs = append(needs, rightsNeed{"listen", c.Listen, 1 << unix.CAP_NET_BIND_SERVICE, func() error {
			ln, err := net.Listen("tcp", c.Listen)
			if err == nil {
				err = ln.Close()
			}
			return err
		}})
	}
	return needs
}

// readsAll lets a process of root read the files of other users, writesAll also write them.
const (
	readsAll  capabilities = 1 << unix.CAP_DAC_READ_SEARCH
	writesAll capabilities = 1 << unix.CAP_DAC_OVERRIDE
)

// tryReading opens the file at path.
func tryReading(path string) func() error {
	return func() error {
		f, _, err := openRegular(path, 1<<62)
		if err == nil {
			err = f.Close()
		}
		return err
	}
}

// savedNeeds are the files that an earlier run has left, perhaps as another user: the
// start reads them after it has given up its rights.
func savedNeeds(c *Config) (needs []rightsNeed) {
	for _, saved := range []struct{ key, path string }{
		{"state_dir", (&stateDir{path: c.StateDir}).file()},
		{"state_dir", filepath.Join(c.StateDir, confirmationFile)},
		{"cache_dir", snapshotFile(c.CacheDir)},
		{"cache_dir", filepath.Join(c.CacheDir, drainedFile)},
	} {
		needs = append(needs, rightsNeed{saved.key, saved.path, readsAll, tryReading(saved.path)})
	}
	return needs
}

// giveUpRights takes from the process what a director with the configuration c does not
// need. It never fails: a director with too many rights is better than none.
func giveUpRights(log *slog.Logger, c *Config) *heldRights {
	held := new(heldRights)
	// It could not be made later. When this fails, so does each attempt to save a file
	// there, which logs why.
	_ = makeDirectory(c.CacheDir)
	drop, forbid := dropToNeeds(log, c), forbidNewPrivileges()
	if err := cmp.Or(drop, forbid); err != nil {
		log.Warn("the process keeps rights that it does not need", "err", err)
	}
	// Landlock needs no_new_privs. Where a program that gets credentials keeps its own
	// files is not known.
	if forbid != nil || c.ExecCredentials {
		return held
	}
	if err := restrictWriting([]string{c.StateDir, c.CacheDir, sysctlDirectory}); err != nil {
		log.Info("where the process may write is not restricted; everything else works", "err", err)
		return held
	}
	held.confined = true
	return held
}

// dropToNeeds drops the capabilities that a director with c does not need.
func dropToNeeds(log *slog.Logger, c *Config) error {
	has, err := permittedCapabilities()
	if err != nil {
		return err
	}
	keep := directorCapabilities
	if has&^keep != 0 {
		var why error
		err = withCapabilities(keep, func() {
			for _, n := range append(rightsNeeds(c), savedNeeds(c)...) {
				if err := n.try(); errors.Is(err, fs.ErrPermission) && has&n.granted != 0 {
					keep |= n.granted
					why = cmp.Or(why, fmt.Errorf("%s: %w", n.key, err))
				}
			}
		})
		if keep&writesAll != 0 {
			keep &^= readsAll
		}
		if err == nil && why != nil {
			log.Warn("the process keeps a right of root, because the configuration needs it", "kept", keep, "err", why)
		}
	}
	return cmp.Or(err, dropCapabilities(keep))
}

// refuse is why a running director with the configuration now cannot take next, whose file
// has this text; nil when it can.
func (h *heldRights) refuse(now, next *Config, text []byte) error {
	if h == nil {
		return nil
	}
	key, why := h.lacks(now, next)
	if why == nil {
		return nil
	}
	lines, _ := scanKeyLines(string(text))
	return ConfigErrors{First: []ConfigError{{File: next.Path, Line: lines.line(key), Key: key, Msg: report(why) + "; it gave up the rights of its start: restart it for this change"}}}
}

// lacks finds the first key of next that needs a right which the process does not have.
func (h *heldRights) lacks(now, next *Config) (key string, why error) {
	if h.confined {
		for _, d := range []struct{ key, now, next string }{{"state_dir", now.StateDir, next.StateDir}, {"cache_dir", now.CacheDir, next.CacheDir}} {
			if d.now != d.next {
				return d.key, fmt.Errorf("the running controller may not write to %s", d.next)
			}
		}
		if next.ExecCredentials && !now.ExecCredentials {
			return "allow_exec_credentials", errors.New("a program that the running controller starts may write to its directories alone")
		}
	}
	before := make(map[string]string)
	for _, n := range rightsNeeds(now) {
		before[n.key] = n.value
	}
	for _, n := range rightsNeeds(next) {
		if was, had := before[n.key]; had && was == n.value {
			continue
		}
		if err := n.try(); errors.Is(err, fs.ErrPermission) {
			return n.key, fmt.Errorf("the running controller may not use it: %w", err)
		}
	}
	return "", nil
}
