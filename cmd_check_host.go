// What the sub-command check finds on this host of what a configuration names: files,
// directories, devices, addresses and kernel modules.
//
// Used by cmd_check.go. A file is often checked on another host than the director, so
// each finding is a warning. It reads only: it makes no file or device, loads no module
// and sends nothing to the network. Each thing has hostPatience.

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hostPatience is how long check waits for one thing, such as a file on a file system
// that hangs.
const hostPatience = 2 * time.Second

// maxModules is the largest list of a kernel's modules that is read. Debian's has 0.7 MB.
const maxModules = 32 << 20

// hostCheck compares one configuration with this host.
type hostCheck struct {
	file     string // that is named in a warning
	lines    keyLines
	root     string // "" = this host; tests have another one
	patience time.Duration
	found    []ConfigError
}

// all checks what c names.
func (h *hostCheck) all(c *Config) []ConfigError {
	q := c.ClusterQuery()
	if source := "kubeconfig"; q.Kubeconfig != "" || q.ClusterFile != "" {
		if q.ClusterFile != "" {
			source = "cluster_file"
		}
		h.look(source, func() error { return readableSource(&q) })
	}
	dummy := false
	for i := range c.VIPs {
		dummy = dummy || c.VIPs[i].Announce.method().onDummy
	}
	if dummy {
		h.look("announce_device", func() error { return usableDummy(c.AnnounceDevice) })
	}
	h.device("interface", c.Interface)
	if c.Sync != nil {
		h.device("sync.interface", c.Sync.Interface)
	}
	h.directory("state_dir", c.StateDir)
	h.directory("cache_dir", c.CacheDir)
	if host, _, err := net.SplitHostPort(c.Listen); err == nil {
		if a, err := netip.ParseAddr(host); err == nil {
			h.look("listen", func() error { return ownAddress(a) })
		}
	}
	h.modules(c)
	return h.found
}

// look warns at key of what do returns, or that do does not return, and reports
// whether all is well.
func (h *hostCheck) look(key string, do func() error) bool {
	done := make(chan error, 1)
	go func() { done <- do() }()
	var err error
	select {
	case err = <-done:
	case <-time.After(h.patience):
		err = fmt.Errorf("it cannot be examined within %s", h.patience)
	}
	if err != nil {
		h.warn(key, err)
	}
	return err == nil
}

func (h *hostCheck) warn(key string, err error) {
	h.found = append(h.found, ConfigError{File: h.file, Line: h.lines.line(key), Key: key, Msg: "on this host: " + report(err)})
}

// device checks a device that has to exist.
func (h *hostCheck) device(key, name string) {
	if name != "" {
		h.look(key, func() error { _, err := deviceByName(name); return err })
	}
}

// directory checks a directory that the file names. It need not exist: the controller
// makes it.
func (h *hostCheck) directory(key, dir string) {
	if _, named := h.lines[key]; named {
		h.look(key, func() error { return writableDirectory(dir) })
	}
}

// usableDummy checks that no other program has made the device. The controller makes it.
func usableDummy(name string) error {
	r, err := openRtnl(context.Background())
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err = r.dummy(name); errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// writableDirectory looks at dir or, where that does not exist, at the directory in
// which it would be made.
func writableDirectory(dir string) error {
	info, err := os.Stat(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		info, err = os.Stat(dir)
	}
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	}
	return wrap("write to "+dir, unix.Access(dir, unix.W_OK|unix.X_OK))
}

// ownAddress checks that a is an address of this host. The port is not tried: the
// controller may be running here.
func ownAddress(a netip.Addr) error {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err == nil {
		err = l.Close()
	}
	return err
}

// modules checks that the kernel has what the VIPs of c need, loaded, built in or on
// disk. Where the lists of the kernel's modules are missing, as in a container, it says
// nothing.
func (h *hostCheck) modules(c *Config) {
	var release string
	var has map[string]bool
	if !h.look("vip", func() (err error) { release, has, err = kernelModules(h.root); return err }) || has == nil {
		return
	}
	need := func(key, module string) {
		if has[module] {
			return
		}
		has[module] = true // one warning is enough
		if _, err := os.Stat(h.root + "/sys/module/" + module); err != nil {
			h.warn(key, fmt.Errorf("the kernel %s has no module %s", release, module))
		}
	}
	for _, n := range neededModules(c) {
		need(n.key, n.module)
	}
}

// neededModule is a module of the kernel, and the key of the configuration that needs it.
type neededModule struct{ key, module string }

// neededModules are those that the VIPs of c need. A module can be there several times.
func neededModules(c *Config) []neededModule {
	needed := []neededModule{{"vip", "ip_vs"}}
	need := func(key, module string) { needed = append(needed, neededModule{key, module}) }
	for i := range c.VIPs {
		v, key := &c.VIPs[i], indexPath("vip", i)+"."
		need(key+"scheduler", "ip_vs_"+v.Scheduler)
		if v.Persistence.Engine != "" {
			need(key+"persistence.engine", "ip_vs_pe_"+v.Persistence.Engine)
		}
		if len(v.Groups) > 0 {
			need(key+"groups", "nf_tables")
		}
		if v.OneMark {
			need(key+"one_mark", "nf_tables")
		}
		if v.NoTrack {
			need(key+"notrack", "nft_ct")
		}
		if v.Announce.method().onDummy {
			need(key+"announce", "dummy")
		}
	}
	return needed
}

// kernelModules lists what the running kernel has built in or on disk; nil where that
// is not known.
func kernelModules(root string) (release string, has map[string]bool, err error) {
	if release, err = (procSys{Root: root + "/proc/sys"}).KernelRelease(); err != nil {
		return "", nil, err
	}
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		b, err := readRegular(filepath.Join(root, "/lib/modules", release, list), maxModules)
		// With ProtectKernelModules=yes a service may not look there.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if has == nil {
			has = make(map[string]bool)
		}
		for line := range strings.Lines(string(b)) {
			file, _, _ := strings.Cut(line, ":") // in modules.dep what the module needs follows
			name, _, _ := strings.Cut(path.Base(file), ".ko")
			has[strings.ReplaceAll(name, "-", "_")] = true
		}
	}
	return release, has, nil
}
