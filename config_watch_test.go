package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
)

// configText is a valid file with these VIPs, each "name=port".
func configText(vips ...string) string {
	var b strings.Builder
	for i, vip := range vips {
		name, port, _ := strings.Cut(vip, "=")
		fmt.Fprintf(&b, "[[vip]]\nname = %q\naddresses = [\"10.0.0.%d\"]\nports = [%s]\n", name, i+1, port)
	}
	return b.String()
}

// reloadTest runs a ConfigWatcher and receives what it says.
type reloadTest struct {
	*testing.T
	dir, path string
	published chan *Config
	rejected  chan error
	hup       chan os.Signal
	audits    atomic.Int32
	log       reloadLog
}

// reloadLog is a log that is read while it is written.
type reloadLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *reloadLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *reloadLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startReload writes configText("edge=80") with write, which is given the
// directory and returns the path to watch, and starts the watcher.
func startReload(t *testing.T, write func(w *reloadTest), options ...func(*ConfigWatcher)) *reloadTest {
	t.Helper()
	t.Parallel()
	dir := t.TempDir()
	w := &reloadTest{
		T: t, dir: dir, path: filepath.Join(dir, "config.toml"),
		published: make(chan *Config, 100), rejected: make(chan error, 100), hup: make(chan os.Signal, 1),
	}
	write(w)
	current, err := LoadConfig(w.path)
	if err != nil {
		t.Fatal(err)
	}
	watcher := &ConfigWatcher{
		Path: w.path, Hup: w.hup, Current: current, Parse: ParseConfig,
		Log: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { // what is left is the same in every run
				if a.Key == slog.TimeKey || a.Key == "file" {
					return slog.Attr{}
				}
				return a
			},
		})),
		Publish:  func(c *Config) { w.published <- c },
		Rejected: func(err error) { w.rejected <- err },
		Audit:    func() { w.audits.Add(1) },
	}
	for _, option := range options {
		option(watcher)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- watcher.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if len(w.published) > 0 || len(w.rejected) > 0 {
			t.Errorf("%d configs and %d errors that nobody waited for", len(w.published), len(w.rejected))
		}
		if t.Failed() {
			t.Logf("log:\n%s", w.log.String())
		}
	})
	return w
}

// plainConfigFile is a configuration that is a file of its own.
func plainConfigFile(w *reloadTest) { w.write(w.path, configText("edge=80")) }

// check fails the test for an error of its own file operations.
func (w *reloadTest) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *reloadTest) write(path, text string) {
	w.Helper()
	w.check(os.WriteFile(path, []byte(text), 0o600))
}

// rename puts text in place of the file in one step.
func (w *reloadTest) rename(text string) {
	w.Helper()
	w.write(w.path+".new", text)
	w.check(os.Rename(w.path+".new", w.path))
}

const reloadPatience = 10 * time.Second

// wantPublished waits for the next configuration, which has these VIPs, and
// for nothing before it.
func (w *reloadTest) wantPublished(vips ...string) {
	w.Helper()
	select {
	case c := <-w.published:
		var got []string
		for _, v := range c.VIPs {
			got = append(got, fmt.Sprintf("%s=%d", v.Name, v.Ports[0].Number))
		}
		if diff := cmp.Diff(vips, got); diff != "" {
			w.Fatalf("published (-want +got):\n%s", diff)
		}
	case err := <-w.rejected:
		w.Fatalf("rejected, want %v: %v", vips, err)
	case <-time.After(reloadPatience):
		w.Fatalf("nothing happened, want %v", vips)
	}
}

// wantRejected waits for the next rejection.
func (w *reloadTest) wantRejected(want string) {
	w.Helper()
	select {
	case c := <-w.published:
		w.Fatalf("published %d VIPs, want rejected", len(c.VIPs))
	case err := <-w.rejected:
		if got := strings.ReplaceAll(err.Error(), w.dir+"/", ""); !strings.HasPrefix(got, want) {
			w.Fatalf("rejected with %q, want %q", got, want)
		}
	case <-time.After(reloadPatience):
		w.Fatal("nothing happened, want rejected")
	}
}

// wantLog waits until the log has a line.
func (w *reloadTest) wantLog(line string) {
	w.Helper()
	for end := time.Now().Add(reloadPatience); !strings.Contains(w.log.String(), line); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("not in the log: %s", line)
		}
	}
}

func TestWatchWrite(t *testing.T) {
	w := startReload(t, plainConfigFile)
	w.write(w.path, configText("edge=81"))
	w.wantPublished("edge=81")
	w.wantLog(`level=INFO msg="the configuration is reloaded" changes="vip edge changed"`)
	w.write(w.path, configText("db=5432", "mail=25"))
	w.wantPublished("db=5432", "mail=25")
	w.wantLog(`level=INFO msg="the configuration is reloaded" changes="vip db added, vip mail added, vip edge removed"`)
	w.write(w.path, configText("edge=80")) // where it began: news all the same
	w.wantPublished("edge=80")
}

func TestWatchRenameOver(t *testing.T) {
	w := startReload(t, plainConfigFile)
	for port := 81; port < 84; port++ {
		vip := fmt.Sprintf("edge=%d", port)
		w.rename(configText(vip))
		w.wantPublished(vip)
	}
}

func TestWatchDeleteAndRecreate(t *testing.T) {
	w := startReload(t, plainConfigFile)
	w.check(os.Remove(w.path))
	w.wantRejected("read the configuration: open config.toml: no such file or directory")
	w.write(w.path, configText("edge=81"))
	w.wantPublished("edge=81")

	// The whole directory goes, and a new one comes.
	w.check(os.RemoveAll(w.dir))
	w.wantRejected("read the configuration: ")
	w.check(os.Mkdir(w.dir, 0o700))
	w.write(w.path, configText("edge=82"))
	w.wantPublished("edge=82")

	// The directory is moved away and replaced.
	w.check(os.Rename(w.dir, w.dir+".old"))
	w.check(os.Mkdir(w.dir, 0o700))
	w.write(w.path, configText("edge=83"))
	w.wantPublished("edge=83")
	w.write(w.path, configText("edge=84"))
	w.wantPublished("edge=84")
	w.check(os.RemoveAll(w.dir + ".old"))
}

// A ConfigMap volume: config.toml → ..data/config.toml, ..data → a directory
// that is new at each update; the old one is deleted.
func TestWatchKubernetesVolume(t *testing.T) {
	update := func(w *reloadTest, version, text string) {
		w.check(os.Mkdir(filepath.Join(w.dir, version), 0o700))
		w.write(filepath.Join(w.dir, version, "config.toml"), text)
		w.check(os.Symlink(version, filepath.Join(w.dir, "..data_tmp")))
		w.check(os.Rename(filepath.Join(w.dir, "..data_tmp"), filepath.Join(w.dir, "..data")))
	}
	w := startReload(t, func(w *reloadTest) {
		update(w, "..2026_01", configText("edge=80"))
		w.check(os.Symlink("..data/config.toml", w.path))
	})
	for i, version := range []string{"..2026_02", "..2026_03", "..2026_04"} {
		vip := fmt.Sprintf("edge=%d", 81+i)
		update(w, version, configText(vip))
		w.check(os.RemoveAll(filepath.Join(w.dir, fmt.Sprintf("..2026_%02d", i+1))))
		w.wantPublished(vip)
	}
	// The file inside the newest directory is watched too.
	w.write(filepath.Join(w.dir, "..2026_04", "config.toml"), configText("edge=90"))
	w.wantPublished("edge=90")
}

// A symlink to a file in another directory, first written there, then swapped
// for a symlink to a third.
func TestWatchSymlink(t *testing.T) {
	elsewhere, third := t.TempDir(), t.TempDir()
	w := startReload(t, func(w *reloadTest) {
		w.write(filepath.Join(elsewhere, "real.toml"), configText("edge=80"))
		w.check(os.Symlink(filepath.Join(elsewhere, "real.toml"), w.path))
	})
	w.write(filepath.Join(elsewhere, "real.toml"), configText("edge=81"))
	w.wantPublished("edge=81")
	w.write(filepath.Join(third, "real.toml"), configText("edge=82"))
	w.check(os.Symlink(filepath.Join(third, "real.toml"), w.path+".new"))
	w.check(os.Rename(w.path+".new", w.path))
	w.wantPublished("edge=82")
	w.write(filepath.Join(third, "real.toml"), configText("edge=83"))
	w.wantPublished("edge=83")
}

func TestWatchHangup(t *testing.T) {
	w := startReload(t, plainConfigFile)
	w.hup <- syscall.SIGHUP
	w.wantLog(`level=INFO msg="the configuration is reloaded" changes=none`)

	// The signal is an answer at once: no quiet time, and a person who asks
	// again is told again, while the rejection is counted once.
	bad := "listen = 1\n" + configText("edge=81")
	w.rename(bad)
	w.wantRejected(`config.toml:1: listen: is the integer 1`)
	w.hup <- syscall.SIGHUP
	for end := time.Now().Add(reloadPatience); strings.Count(w.log.String(), "configuration file is rejected") < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the second hangup is not answered")
		}
	}
	w.rename(configText("edge=82"))
	start := time.Now()
	w.hup <- syscall.SIGHUP
	w.wantPublished("edge=82")
	if d := time.Since(start); d >= quietTime {
		t.Errorf("reload on a hangup took %v", d)
	}
	for end := time.Now().Add(reloadPatience); w.audits.Load() != 3; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d audits after three hangups", w.audits.Load())
		}
	}
}

func TestWatchBadThenGood(t *testing.T) {
	w := startReload(t, plainConfigFile)
	w.write(w.path, "[[vip]]\nname = ")
	w.wantRejected("config.toml:2: syntax: ")
	w.write(w.path, configText("edge=81", "edge=82"))
	w.wantRejected(`config.toml:6: vip[1].name: "edge" is also the name of the VIP in line 2`)
	w.wantLog(`level=ERROR msg="the configuration file is rejected; the last good one stays in force" err="`)

	// The very content that was in force is news too: it ends the rejection.
	w.write(w.path, configText("edge=80"))
	w.wantPublished("edge=80")
	w.wantLog(`level=INFO msg="the configuration file is valid again" changes=none`)

	w.write(w.path, "")
	w.wantRejected("config.toml:1: vip: missing")
	w.write(w.path, configText("edge=80", "db=5432"))
	w.wantPublished("edge=80", "db=5432")
	w.wantLog(`level=INFO msg="the configuration file is valid again" changes="vip db added"`)
}

// Half a file is neither reported nor, if it happens to be valid, applied,
// when the other half follows in a moment.
func TestWatchHalfWritten(t *testing.T) {
	w := startReload(t, plainConfigFile)
	whole := configText("edge=81", "db=5432")
	half := len(configText("edge=81"))
	for _, cut := range []int{0, half - 5, half} {
		f, err := os.Create(w.path)
		w.check(err)
		_, err = f.WriteString(whole[:cut])
		w.check(err)
		time.Sleep(quietTime / 4)
		_, err = f.WriteString(whole[cut:])
		w.check(err)
		w.check(f.Close())
		if cut == 0 {
			w.wantPublished("edge=81", "db=5432")
		}
	}
	w.rename(configText("edge=82")) // nothing came of the other two: they ended where they began
	w.wantPublished("edge=82")
}

// What changes nothing is published to nobody.
func TestWatchSameMeaning(t *testing.T) {
	w := startReload(t, plainConfigFile)
	w.hup <- syscall.SIGHUP // so that the first reading is over
	w.wantLog("changes=none")
	w.write(filepath.Join(w.dir, "other.toml"), "x")
	w.check(os.Chtimes(w.path, time.Now(), time.Now()))
	w.rename(configText("edge=80"))
	w.write(w.path, "# a comment\n"+configText("edge=80"))
	w.wantLog(`level=INFO msg="the configuration file changed, but no setting did"`)
	w.write(w.path, configText("edge=81"))
	w.wantPublished("edge=81")
	if n := strings.Count(w.log.String(), "\n"); n != 3 {
		t.Errorf("%d lines in the log, want 3", n)
	}
}

// A change between LoadConfig and Run is not lost.
func TestWatchChangedBeforeStart(t *testing.T) {
	w := startReload(t, plainConfigFile, func(w *ConfigWatcher) {
		if err := os.WriteFile(w.Path, []byte(configText("edge=81")), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	w.wantPublished("edge=81")
}

func TestWatchPollsInstead(t *testing.T) {
	poll := func(w *ConfigWatcher) { w.poll = 10 * time.Millisecond }
	t.Run("no notifications", func(t *testing.T) {
		w := startReload(t, plainConfigFile, poll, func(w *ConfigWatcher) {
			w.notifier = func() (*fsnotify.Watcher, error) { return nil, syscall.EMFILE }
		})
		w.wantLog(`level=WARN msg="the configuration file cannot be watched and is read at an interval" every=10ms err="too many open files"`)
		w.write(w.path, configText("edge=81"))
		w.wantPublished("edge=81")
		w.check(os.Remove(w.path))
		w.wantRejected("read the configuration: ")
		w.rename(configText("edge=82"))
		w.wantPublished("edge=82")
	})
	t.Run("notifications end", func(t *testing.T) {
		for name, end := range map[string]func(*fsnotify.Watcher){
			"closed": func(n *fsnotify.Watcher) { n.Close() },
			"error":  func(n *fsnotify.Watcher) { n.Errors <- syscall.EIO },
		} {
			t.Run(name, func(t *testing.T) {
				var notifier *fsnotify.Watcher
				w := startReload(t, plainConfigFile, poll, func(w *ConfigWatcher) {
					w.notifier = func() (*fsnotify.Watcher, error) { return notifier, nil }
					var err error
					if notifier, err = fsnotify.NewWatcher(); err != nil {
						t.Fatal(err)
					}
				})
				end(notifier)
				w.wantLog(`level=WARN msg="the configuration file cannot be watched`)
				w.write(w.path, configText("edge=81"))
				w.wantPublished("edge=81")
			})
		}
	})
	t.Run("lost events", func(t *testing.T) {
		var notifier *fsnotify.Watcher
		w := startReload(t, plainConfigFile, func(w *ConfigWatcher) {
			w.notifier = func() (*fsnotify.Watcher, error) { return notifier, nil }
			var err error
			if notifier, err = fsnotify.NewWatcher(); err != nil {
				t.Fatal(err)
			}
		})
		notifier.Errors <- fsnotify.ErrEventOverflow
		w.write(w.path, configText("edge=81"))
		w.wantPublished("edge=81")
		if strings.Contains(w.log.String(), "cannot be watched") {
			t.Error("lost events end the watch")
		}
	})
}

// A change that nobody notifies of, here through another link to the file, is
// seen when somebody rings.
func TestWatchRecheck(t *testing.T) {
	ring := make(chan struct{})
	w := startReload(t, plainConfigFile, func(w *ConfigWatcher) { w.Recheck = ring })
	other := filepath.Join(t.TempDir(), "link")
	w.check(os.Link(w.path, other))
	w.hup <- syscall.SIGHUP // so that the watcher runs
	w.wantLog("changes=none")
	time.Sleep(2 * quietTime) // the first reading is over
	w.check(os.WriteFile(other, []byte(configText("edge=81")), 0o600))
	time.Sleep(3 * quietTime)
	if len(w.published) > 0 {
		t.Fatal("the change was notified: this test shows nothing")
	}
	ring <- struct{}{}
	w.wantPublished("edge=81")
}

// A FIFO in the file's place would block its reader for ever.
func TestWatchNotRegular(t *testing.T) {
	w := startReload(t, plainConfigFile)
	w.check(os.Remove(w.path))
	w.check(syscall.Mkfifo(w.path, 0o600))
	w.wantRejected("read the configuration: config.toml is not a regular file but a FIFO")
}

// Every field of Config is named when it changes, or a reload would be
// silently left out.
func TestConfigChanges(t *testing.T) {
	base := defaultConfig()
	base.VIPs = []VIP{{Name: "edge", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}
	for i := range reflect.TypeFor[Config]().NumField() {
		c := *base
		field := reflect.ValueOf(&c).Elem().Field(i)
		name := reflect.TypeFor[Config]().Field(i).Name
		switch field.Kind() {
		case reflect.String:
			field.SetString("x")
		case reflect.Bool:
			field.SetBool(!field.Bool())
		case reflect.Int64:
			field.SetInt(1)
		case reflect.Uint8:
			field.SetUint(1)
		case reflect.Struct:
			field.Field(0).Set(reflect.ValueOf(1).Convert(field.Field(0).Type()))
		case reflect.Pointer:
			c.Sync = pairSync()
		case reflect.Map:
			c.Sysctls = map[string]string{"sloppy_tcp": "1"}
		case reflect.Slice:
			if c.VIPs = []VIP{{Name: "edge", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}}; name == "PeerMACs" {
				c.VIPs, c.PeerMACs = base.VIPs, []macAddress{{2}}
			}
		default:
			t.Fatalf("%s is a %v", name, field.Kind())
		}
		got := configChanges(base, &c)
		if name == "Path" { // the watched path itself; it cannot change
			continue
		}
		want := " changed"
		if strings.HasSuffix(name, "Dir") || name == "ConnectionTableBits" {
			want = " changed for the next start"
		}
		if !strings.HasSuffix(got, want) || strings.Contains(got, ",") {
			t.Errorf("%s changed: %q", name, got)
		}
	}
	if got := configChanges(base, base); got != "none" {
		t.Errorf("nothing changed: %q", got)
	}
}

// A rejection can be taken apart by its receiver.
func TestWatchRejectedIsConfigErrors(t *testing.T) {
	w := startReload(t, plainConfigFile)
	w.write(w.path, "a = 1\nb = 2\n")
	err := <-w.rejected
	if mistakes, ok := errors.AsType[ConfigErrors](err); !ok || len(mistakes.First) != 3 {
		t.Errorf("%d mistakes, %v: %v", len(mistakes.First), ok, err)
	}
}

// A reload of many VIPs is a line that can be read.
func TestConfigChangesAreBounded(t *testing.T) {
	many := defaultConfig()
	for i := range 1_000 {
		many.VIPs = append(many.VIPs, VIP{Name: fmt.Sprintf("vip-%04d", i)})
	}
	got := configChanges(defaultConfig(), many)
	if !strings.HasPrefix(got, "vip vip-0000 added, ") || !strings.HasSuffix(got, "vip vip-0019 added, and 980 more") {
		t.Errorf("changes: %s", shorten(got, 1_000))
	}
}

// The old content is put back before the first reading after a start with the last good
// file: that ends the time of a rejected one, although no setting changes.
func TestWatchPutBackBeforeTheFirstReading(t *testing.T) {
	text := configText("edge=80")
	current, err := ParseConfig("config.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	published := 0
	w := ConfigWatcher{
		Path: "config.toml", Log: slog.New(slog.DiscardHandler), Current: current, Parse: ParseConfig, Refused: digest{1},
		Publish: func(*Config) { published++ }, Rejected: func(err error) { t.Error(err) },
	}
	for range 2 {
		w.conclude(reading{digest: digest{2}, text: []byte(text)}, false)
	}
	if published != 1 {
		t.Errorf("published %d times, want once", published)
	}
}
