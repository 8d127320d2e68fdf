// Hot reload of the configuration file.
//
// Used by http.go, cmd.go and main.go. One ConfigWatcher runs beside the reconcile loop. It
// notices every change of the file (filewatch.go) and SIGHUP. It publishes valid
// configurations only, never changes the one in force, and runs until its context
// ends: a bad file or a broken watch changes nothing.

package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"time"
)

const (
	// quietTime is how long the file's content must stay the same before
	// anything is concluded from it. An editor or a script writes in several
	// steps, and half a file is not only often invalid: it may be valid with
	// half of the VIPs, which would stop serving the other half.
	quietTime = 200 * time.Millisecond

	// pollInterval is how often the file is read when it cannot be watched.
	pollInterval = 2 * time.Second
)

// ConfigWatcher reloads one configuration file. Set all exported fields before
// Run.
type ConfigWatcher struct {
	Path string
	Log  *slog.Logger
	Hup  <-chan os.Signal // reload now; nil = never
	// Recheck makes the watcher read the file although no change was notified: a
	// network file system or a bind mount may change it unseen. The reconcile
	// loop rings it while it is awake, so that an idle process does not wake for
	// this.
	Recheck <-chan struct{}
	Current *Config // in force when Run starts
	// Refused is the reading that was refused before Run starts, zero if none was: the
	// same one at first is no news.
	Refused digest
	Parse   func(path string, text []byte) (*Config, error)

	// Accepted takes each content that is valid, the first one included, and what it
	// says, after Publish. It may be nil.
	Accepted func(c *Config, text []byte)
	// Publish takes a configuration that differs from the last one, or that
	// ends a time of rejected ones. Rejected takes the reason once for each
	// distinct bad content, an unreadable file included. Both are called from
	// Run alone, one at a time.
	Publish  func(*Config)
	Rejected func(error)
	Audit    func() // called after each SIGHUP, whatever the file has

	// Reloading is called before a reading of the file is acted on, but for the first one,
	// and Reloaded after that with what has come of it. nil = never.
	Reloading func()
	Reloaded  func(result string)

	notifier fileNotifier  // see fileWatch
	poll     time.Duration // pollInterval when zero

	concluded digest // the reading that Current or the rejection came from
	rejected  bool   // the concluded reading is a bad one
}

// digest identifies a reading of the file: its content, or why it had none.
type digest [sha256.Size]byte

// Run watches the file until ctx ends. Its error is always nil: a watcher that
// fails must not take the director down.
func (w *ConfigWatcher) Run(ctx context.Context) error {
	poll := cmp.Or(w.poll, pollInterval)
	watch := &fileWatch{
		path: w.Path,
		look: func() (string, func(bool) string) {
			got := readConfig(w.Path)
			now := string(got.digest[:])
			return now, func(asked bool) string { w.conclude(got, asked); return now }
		},
		quiet:     quietTime,
		pollBlind: poll,
		recheck:   w.Recheck,
		asked:     w.Hup,
		unwatchable: func(err error) {
			w.Log.Warn("the configuration file cannot be watched and is read at an interval", "file", w.Path, "every", poll, "err", err,
				"hint", "the usual limits are the sysctls fs.inotify.max_user_instances and fs.inotify.max_user_watches")
		},
		notifier: w.notifier,
	}
	watch.run(ctx)
	return nil
}

// reading is what the file contained at one moment.
type reading struct {
	digest
	text []byte
	err  error // why it could not be read
}

// readConfig reads the configuration file at path.
func readConfig(path string) reading {
	text, err := readConfigFile(path)
	if err != nil {
		return reading{digest: sha256.Sum256([]byte("\xff" + err.Error())), err: err} // no TOML starts with 0xff
	}
	return reading{digest: sha256.Sum256(text), text: text}
}

// conclude applies or rejects a reading. asked is set when an operator wants an
// answer even if nothing has changed.
func (w *ConfigWatcher) conclude(got reading, asked bool) {
	if asked {
		defer w.Audit()
	}
	first, again := w.concluded == digest{}, w.concluded == got.digest
	w.concluded = got.digest
	if first {
		w.rejected = w.Refused != digest{} // then what is in force is the copy
		if !asked && got.digest == w.Refused {
			return
		}
	}
	result := "the configuration file is rejected"
	if !first && w.Reloading != nil {
		w.Reloading()
		defer func() { w.Reloaded(result) }()
	}
	cfg, err := (*Config)(nil), got.err
	if err == nil {
		cfg, err = w.Parse(w.Path, got.text)
	}
	if err != nil {
		w.Log.Error("the configuration file is rejected; the last good one stays in force", "file", w.Path, "err", err)
		if !again {
			w.Rejected(err)
		}
		w.rejected = true
		return
	}
	changes := configChanges(w.Current, cfg)
	result = "the configuration is reloaded, changes: " + changes
	switch {
	case w.rejected:
		w.Log.Info("the configuration file is valid again", "file", w.Path, "changes", changes)
	case changes != noChanges || asked:
		w.Log.Info("the configuration is reloaded", "file", w.Path, "changes", changes)
	case !first:
		w.Log.Info("the configuration file changed, but no setting did", "file", w.Path)
	}
	if changes != noChanges || asked || w.rejected {
		logWarnings(w.Log, cfg)
	}
	if changes != noChanges || w.rejected {
		w.Publish(cfg)
		w.Current = cfg
	}
	w.rejected = false
	if w.Accepted != nil {
		w.Accepted(cfg, got.text)
	}
}

// logWarnings logs the warnings about what cfg's file may mean, and who else can change
// what the director reads.
func logWarnings(log *slog.Logger, cfg *Config) {
	for _, path := range []string{cfg.Path, cfg.StateDir, cfg.CacheDir} {
		if why := writableByOthers(path); path != "" && why != "" {
			log.Warn("another user can change what the director reads", "why", why)
		}
	}
	for i, warning := range cfg.Warnings {
		if i == shownWarnings {
			log.Warn("the configuration has more warnings; the sub-command check prints all of them", "file", cfg.Path, "more", len(cfg.Warnings)-i)
			return
		}
		log.Warn("configuration: "+warning.Msg, "file", warning.File, "line", warning.Line, "key", warning.Key)
	}
}

// shownChanges is how many changes of a reload one log line names.
const shownChanges = 20

// noChanges is what configChanges says of equal configurations.
const noChanges = "none"

// configChanges names what differs between two configurations, VIP by VIP and
// by key for the rest: "vip db added, vip edge changed, listen changed".
func configChanges(before, after *Config) string {
	var changes []string
	old := make(map[string]*VIP, len(before.VIPs)) // that after has not been seen to have
	for i := range before.VIPs {
		old[before.VIPs[i].Name] = &before.VIPs[i]
	}
	for i := range after.VIPs {
		v := &after.VIPs[i]
		was := old[v.Name]
		delete(old, v.Name)
		switch {
		case was == nil:
			changes = append(changes, "vip "+v.Name+" added")
		case !reflect.DeepEqual(was, v):
			changes = append(changes, "vip "+v.Name+" changed")
		}
	}
	for i := range before.VIPs {
		if name := before.VIPs[i].Name; old[name] != nil {
			changes = append(changes, "vip "+name+" removed")
		}
	}
	for _, s := range []struct {
		key           string
		before, after any
	}{
		{"kubeconfig", before.Kubeconfig, after.Kubeconfig},
		{"allow_exec_credentials", before.ExecCredentials, after.ExecCredentials},
		{"cluster_file", before.ClusterFile, after.ClusterFile},
		{"interface", before.Interface, after.Interface},
		{"announce_device", before.AnnounceDevice, after.AnnounceDevice},
		{"withdraw_hold", before.WithdrawHold, after.WithdrawHold},
		{"listen", before.Listen, after.Listen},
		{"listen_names", before.ListenNames, after.ListenNames},
		{"metrics", before.Metrics, after.Metrics},
		{"audit_interval", before.AuditInterval, after.AuditInterval},
		{"manage_sysctls", before.ManageSysctls, after.ManageSysctls},
		{"state_dir", before.StateDir, after.StateDir},
		{"cache_dir", before.CacheDir, after.CacheDir},
		{"timeouts", before.Timeouts, after.Timeouts},
		{"director.connection_table_bits", before.ConnectionTableBits, after.ConnectionTableBits},
		{"marks", before.Marks, after.Marks},
		{"peer_macs", before.PeerMACs, after.PeerMACs},
		{"events", before.Events, after.Events},
		{"sync", before.Sync, after.Sync},
		{"sysctl", before.Sysctls, after.Sysctls},
	} {
		if !reflect.DeepEqual(s.before, s.after) {
			change := s.key + " changed"
			// Locked and loaded at the start, or compared then.
			if strings.HasSuffix(s.key, "_dir") || strings.HasPrefix(s.key, "director.") {
				change += " for the next start"
			}
			changes = append(changes, change)
		}
	}
	if more := len(changes) - shownChanges; more > 0 {
		changes = append(changes[:shownChanges], fmt.Sprintf("and %d more", more))
	}
	if len(changes) == 0 {
		return noChanges
	}
	return strings.Join(changes, ", ")
}
