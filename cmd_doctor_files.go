// The checks of doctor that are about files: keepalived.conf, the files of kernel
// settings, and the controller's directories.
//
// Used by cmd*.go. They only read. docs/doctor.md has the reason of each.

package main

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const keepalivedFile = "/etc/keepalived/keepalived.conf"

// keepalivedConf is what a keepalived.conf says of VIPs and IPVS. Files that it includes
// are not read.
type keepalivedConf struct {
	err        error // why there is nothing
	addresses  []netip.Addr
	interfaces []string
	peers      []string
	scripts    []string // the commands of scripts
	flags      string   // with which `lvs-controller keepalived` has printed it; "" = it has not
	servers    int      // virtual_server blocks
}

func (k *keepalivedConf) has(a netip.Addr) bool { return slices.Contains(k.addresses, a) }

// keepalivedConf reads the file. It is small, so each check that needs it reads it.
func (h *doctorHost) keepalivedConf() *keepalivedConf {
	text, err := readRegular(h.root+keepalivedFile, maxKeepalived)
	if err != nil {
		return &keepalivedConf{err: err}
	}
	return parseKeepalived(string(text))
}

// maxKeepalived is the largest keepalived.conf that is read.
const maxKeepalived = 4 << 20

// parseKeepalived reads the words of a file. A block's name is the first word of the line
// on which it opens, or of the line before.
func parseKeepalived(text string) *keepalivedConf {
	k := new(keepalivedConf)
	var blocks []string
	last := ""
	for line := range strings.Lines(text) {
		if _, flags, found := strings.Cut(line, "lvs-controller keepalived "); found && strings.HasPrefix(line, "#") {
			k.flags = strings.TrimSpace(flags)
		}
		if i := strings.IndexAny(line, "#!"); i >= 0 {
			line = line[:i]
		}
		words := strings.Fields(strings.NewReplacer("{", " { ", "}", " } ").Replace(line))
		if len(words) == 0 {
			continue
		}
		k.take(blocks, words)
		for _, w := range words {
			switch {
			case w == "{":
				if blocks = append(blocks, last); last == "virtual_server" {
					k.servers++
				}
			case w == "}" && len(blocks) > 0:
				blocks = blocks[:len(blocks)-1]
			case w == words[0] && w != "}":
				last = w
			}
		}
	}
	return k
}

// take reads a line within blocks.
func (k *keepalivedConf) take(blocks, words []string) {
	block := ""
	if len(blocks) > 0 {
		block = blocks[len(blocks)-1]
	}
	switch {
	case block == "virtual_ipaddress" || block == "virtual_ipaddress_excluded":
		text, _, _ := strings.Cut(words[0], "/")
		if a, err := netip.ParseAddr(text); err == nil {
			k.addresses = append(k.addresses, a.Unmap())
		}
	case block == "unicast_peer" && words[0] != "}":
		k.peers = append(k.peers, words[0])
	case block == "vrrp_instance" && words[0] == "interface" && len(words) > 1:
		k.interfaces = append(k.interfaces, words[1])
	case block == "vrrp_script" && words[0] == "script" && len(words) > 1:
		k.scripts = append(k.scripts, strings.Trim(strings.Join(words[1:], " "), `"'`))
	}
}

// checkKeepalived compares keepalived.conf with config.toml.
func checkKeepalived(h *doctorHost) []finding {
	k := h.keepalivedConf()
	var left []netip.Addr // what config.toml leaves to another program
	var wrong []string
	for i := range h.cfg.VIPs {
		v := &h.cfg.VIPs[i]
		for _, a := range v.Addresses {
			switch {
			case v.Announce == AnnounceNone:
				if left = append(left, a); k.err == nil && !k.has(a) {
					wrong = append(wrong, fmt.Sprintf("%s lacks %s of %s, which has announce = \"none\"", keepalivedFile, a, v.Name))
				}
			case k.has(a):
				wrong = append(wrong, fmt.Sprintf("%s has %s of %s, which the controller announces (announce = %q)", keepalivedFile, a, v.Name, v.Announce))
			}
		}
	}
	print := h.call("keepalived") + " -peer ADDR > " + keepalivedFile
	switch {
	case isAbsent(k.err) && (len(left) == 0 || !h.runs("keepalived")):
		return allWell("there is no %s", keepalivedFile)
	case isAbsent(k.err):
		return []finding{{levelWarn, "keepalived runs without " + keepalivedFile + ", so its file cannot be compared", []string{print}}}
	case k.err != nil:
		return []finding{{levelWarn, "not known: " + k.err.Error(), []string{"sudo " + h.call("doctor")}}}
	case len(k.addresses) == 0 && len(left) == 0:
		return allWell("%s has no VIP", keepalivedFile)
	case k.flags != "":
		print = "lvs-controller keepalived " + k.flags + " > " + keepalivedFile
	case len(k.peers) > 0:
		print = strings.Replace(print, "ADDR", k.peers[0], 1)
	}
	wrong = append(wrong, h.keepalivedSettings(k)...)
	if len(wrong) == 0 {
		return allWell("%s has %s, as the configuration", keepalivedFile, numberOf(len(k.addresses), "VIP address"))
	}
	var found []finding
	for _, fact := range wrong {
		found = append(found, finding{levelFail, fact, nil})
	}
	found[len(found)-1].commands = []string{print, "systemctl reload keepalived"}
	return found
}

// keepalivedSettings compares what else must agree.
func (h *doctorHost) keepalivedSettings(k *keepalivedConf) (wrong []string) {
	for _, device := range k.interfaces {
		if h.uplink != "" && device != h.uplink {
			wrong = append(wrong, fmt.Sprintf("%s has the interface %s, the configuration %s", keepalivedFile, device, h.uplink))
		}
	}
	for _, script := range k.scripts {
		words := strings.Fields(script)
		if len(words) < 2 || words[1] != "ready" || path.Base(words[0]) != "lvs-controller" {
			continue
		}
		if info, err := os.Stat(h.root + words[0]); err != nil || info.Mode()&0o111 == 0 {
			wrong = append(wrong, fmt.Sprintf("the script of %s is %s, which is no program", keepalivedFile, words[0]))
		}
		if i := slices.Index(words, "-listen"); i >= 0 && i+1 < len(words) && !h.answersAt(words[i+1]) {
			wrong = append(wrong, fmt.Sprintf("the script of %s asks %s, and the controller listens at %q", keepalivedFile, words[i+1], h.cfg.Listen))
		}
	}
	return wrong
}

// answersAt reports whether a program of this host that asks at the address at reaches the
// configuration's listener.
func (h *doctorHost) answersAt(at string) bool {
	host, port, err := net.SplitHostPort(dialable(at))
	listen, own, off := net.SplitHostPort(h.cfg.Listen)
	if err != nil || off != nil || port != own {
		return false
	}
	asked := []string{host}
	if host == "localhost" {
		asked = []string{"127.0.0.1", "::1"}
	}
	return slices.ContainsFunc(asked, func(text string) bool {
		to, err := netip.ParseAddr(text)
		if err != nil {
			return false // a name, which ready asks DNS for
		}
		on, err := netip.ParseAddr(strings.Replace(listen, "localhost", "127.0.0.1", 1)) // as net.Listen
		if err != nil || on.IsUnspecified() {
			return to.IsLoopback() || h.net.err != nil || len(h.net.with(to.Unmap())) > 0
		}
		return to.Unmap() == on.Unmap()
	})
}

// settingsDirs have the files of kernel settings. A file takes the place of those with
// its name in the directories after it (sysctl.d(5)).
var settingsDirs = []string{"/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d"}

// ownSettings comes after the files that distributions have.
const ownSettings = "/etc/sysctl.d/zz-lvs-controller.conf"

// setLine is a line that sets a kernel setting.
type setLine struct {
	file  string
	line  int
	key   string // with slashes
	value string
}

// settingsLines are the lines of all files in the order in which they are applied.
// procps applies /etc/sysctl.conf last; Debian has a link to it in sysctl.d.
func (h *doctorHost) settingsLines() (all []setLine) {
	files := make(map[string]string) // by name
	for _, dir := range slices.Backward(settingsDirs) {
		for _, name := range h.names(dir, "") {
			if strings.HasSuffix(name, ".conf") {
				files[name] = dir + "/" + name
			}
		}
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	paths := make([]string, 0, len(names)+1)
	for _, name := range names {
		paths = append(paths, files[name])
	}
	for _, file := range append(paths, "/etc/sysctl.conf") {
		n := 0
		text, _ := readRegular(h.root+file, mostHostFile) // one that cannot be read sets nothing
		for line := range strings.Lines(string(text)) {
			n++
			line = strings.TrimLeft(strings.TrimSpace(line), "-")
			key, value, found := strings.Cut(line, "=")
			if !found || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
				continue
			}
			all = append(all, setLine{file, n, slashedKey(strings.TrimSpace(key)), strings.Join(strings.Fields(value), " ")})
		}
	}
	return all
}

// slashedKey is a key with slashes. The first separator decides: after a dot a slash
// means a dot of a device's name.
func slashedKey(key string) string {
	i := strings.IndexAny(key, "./")
	if i < 0 || key[i] == '/' {
		return key
	}
	swap := strings.NewReplacer(".", "/", "/", ".")
	return swap.Replace(key)
}

// checkSettingsFiles looks for files that set one of the controller's settings to another
// value, at each boot and at each `sysctl --system`.
func checkSettingsFiles(h *doctorHost) []finding {
	want, _, err := h.wantedSettings()
	if err != nil {
		return []finding{{levelWarn, err.Error(), nil}}
	}
	lines := h.settingsLines()
	var found []finding
	for _, s := range want {
		var last *setLine
		for i := range lines {
			exact := lines[i].key == s.Key
			if matches, _ := path.Match(lines[i].key, s.Key); exact || matches && (last == nil || last.key != s.Key) {
				last = &lines[i] // a pattern does not replace what is named
			}
		}
		if last == nil || last.value == strings.ReplaceAll(s.Want, "\t", " ") || slices.Contains(s.Also, last.value) {
			continue
		}
		mend := fmt.Sprintf("echo '%s = %s' >> %s", s.Key, strings.ReplaceAll(s.Want, "\t", " "), ownSettings)
		if last.file == "/etc/sysctl.conf" || last.file >= ownSettings {
			mend = fmt.Sprintf("sed -i '%ds/^/# /' %s", last.line, last.file)
		}
		found = append(found, finding{levelWarn, fmt.Sprintf("%s:%d sets %s to %q at each boot, want %q", last.file, last.line, s.Key, last.value, s.Want), []string{mend}})
	}
	if found == nil {
		return allWell("no file of sysctl sets one of %s otherwise", numberOf(len(want), "setting"))
	}
	return found
}

// Space that a directory has to have: below the first the controller may soon not save
// its state, below the second it cannot.
const (
	enoughSpace = 32 << 20
	leastSpace  = 1 << 20
)

// checkDirectories looks at state_dir and cache_dir.
func checkDirectories(h *doctorHost) []finding {
	return []finding{h.judgeDirectory("state_dir", h.cfg.StateDir), h.judgeDirectory("cache_dir", h.cfg.CacheDir)}
}

func (h *doctorHost) judgeDirectory(key, dir string) finding {
	info, err := os.Stat(h.root + dir)
	there := dir
	for isAbsent(err) && there != filepath.Dir(there) {
		there = filepath.Dir(there)
		info, err = os.Stat(h.root + there)
	}
	name := fmt.Sprintf("%s %s", key, dir)
	switch {
	case err != nil:
		return finding{levelWarn, name + ": " + strings.ReplaceAll(err.Error(), h.root+dir, dir), []string{"sudo " + h.call("doctor")}}
	case !info.IsDir():
		return finding{levelFail, fmt.Sprintf("%s: %s is no directory", name, there), []string{fmt.Sprintf("mv %s %[1]s.old", there)}}
	}
	if why := writableByOthers(h.root+there, h.ask.users()...); why != "" && info.Mode()&fs.ModeSticky == 0 {
		why = strings.ReplaceAll(why, h.root+there, there)
		return finding{levelWarn, name + ": " + why + ", and so the controller's state", []string{fmt.Sprintf("chown root:root %s && chmod go-w %[1]s", there)}}
	}
	space, err := h.ask.space(h.root + there)
	f := finding{fact: fmt.Sprintf("%s: %d MiB are free", name, space.bytes>>20)}
	switch {
	case err != nil:
		return finding{levelWarn, name + ": " + err.Error(), []string{"df -h " + there}}
	case space.readOnly:
		return finding{levelFail, name + ": its file system is read-only", []string{"mount -o remount,rw $(findmnt -n -o TARGET -T " + there + ")"}}
	case space.bytes < leastSpace || space.files == 0:
		f.level, f.fact = levelFail, fmt.Sprintf("%s: the file system is full (%d KiB and %d files are free)", name, space.bytes>>10, space.files)
	case space.bytes < enoughSpace:
		f.level = levelWarn
	}
	if f.level != levelOK {
		f.commands = []string{"df -h " + there, "df -i " + there, "du -x -h -d 2 $(findmnt -n -o TARGET -T " + there + ") | sort -h | tail"}
	}
	return f
}
