// config.toml → Config.
//
// Used by cmd*.go. The result is a whole valid Config, or every mistake in the
// file at once. LoadDirectories, for the sub-command drain, accepts a file with
// most mistakes. The keys of each table and their ranges are in the function
// that reads the table, the defaults in defaultConfig and defaultVIP. A key that
// no function reads is unknown, which is a mistake.
//
// Only this file imports the TOML library. It reads the one file that it is given
// and does no other I/O: it does not check whether a kubeconfig or a device
// exists.

package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// maxConfigSize is the largest file that is read at all: a thousand VIPs take
// a quarter of it.
const maxConfigSize = 1 << 20

// maxTimeout is the longest IPVS timeout that every kernel accepts:
// INT_MAX jiffies at 1000 Hz (ip_vs_set_timeout), rounded down to hours.
const maxTimeout = 596 * time.Hour

// defaultConfig is a configuration without any VIP, with all other defaults.
func defaultConfig() *Config {
	return &Config{
		AnnounceDevice: "lvs0",
		WithdrawHold:   3 * time.Second,
		Listen:         "127.0.0.1:9652",
		AuditInterval:  10 * time.Second,
		ManageSysctls:  true,
		StateDir:       "/run/lvs-controller",
		CacheDir:       "/var/lib/lvs-controller",
		Marks:          MarkRange{First: 0x1000, Count: 0x1000},
		Events:         defaultEvents(),

		ConnectionTableBits: defaultTableBits,
	}
}

// LoadConfig reads and validates the file at path. Mistakes in the file are a
// ConfigErrors; any other error means that it could not be read.
func LoadConfig(path string) (*Config, error) {
	text, err := readConfigFile(path)
	if err != nil {
		return nil, err
	}
	return ParseConfig(path, text)
}

// readConfigFile returns the content of the file at path, if it is not too large.
func readConfigFile(path string) ([]byte, error) {
	text, err := readRegular(path, maxConfigSize)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return text, nil
}

// ParseConfig validates text, the content of the file at path. Its errors are
// all ConfigErrors.
func ParseConfig(path string, text []byte) (*Config, error) {
	return newConfigReader(path).parse(string(text))
}

// LoadDirectories reads state_dir and cache_dir alone from the file at path; all
// other values are defaults. The file has to be TOML, but other keys may have
// mistakes.
func LoadDirectories(path string) (*Config, error) {
	text, err := readConfigFile(path)
	if err != nil {
		return nil, err
	}
	r := newConfigReader(path)
	v, err := r.decode(string(text))
	if err != nil {
		return nil, err
	}
	c := defaultConfig()
	for _, s := range []setting{directory("state_dir", &c.StateDir), directory("cache_dir", &c.CacheDir)} {
		if v.has(s.key) {
			s.read(v.child(s.key))
		}
	}
	if err := r.mistakes.err(path); err != nil {
		return nil, err
	}
	return c, nil
}

// configReader reads one file.
type configReader struct {
	tomlFile

	// What has to be unique over all VIPs, or compared with all of them.
	names     map[string]string    // VIP name → path of its key
	addresses map[netip.Addr]owner // VIP address → VIP that has it
	servers   []placedAddr         // every static real server and sorry server
	peers     bool                 // peer_macs has one
}

func newConfigReader(path string) *configReader {
	return &configReader{
		tomlFile:  tomlFile{file: path, wrong: map[string]bool{}, preset: map[string]string{}},
		names:     map[string]string{},
		addresses: map[netip.Addr]owner{},
	}
}

// parse decodes and validates text.
func (r *configReader) parse(text string) (*Config, error) {
	v, err := r.decode(text)
	if err != nil {
		return nil, err
	}
	c := r.config(v)
	if err := r.mistakes.err(r.file); err != nil {
		return nil, err
	}
	c.Warnings = r.warnings
	return c, nil
}

// decode returns text's top level and notes the line of each key. A text that
// would keep the decoder busy for long is refused before.
func (r *configReader) decode(text string) (value, error) {
	text = strings.TrimPrefix(text, "\ufeff") // byte order mark: the decoder's offsets are without it
	if isUTF16(text) {                        // the decoder skips the mark of UTF-16, whatever follows; scanKeyLines does not
		return value{}, r.refuse(1, "syntax", "the file is UTF-16, want UTF-8 text")
	}
	lines, excess := scanKeyLines(text)
	if excess != nil {
		return value{}, r.refuse(excess.Line, excess.Key, excess.Msg)
	}
	r.lines = lines
	raw := map[string]any{}
	if _, err := toml.Decode(text, &raw); err != nil {
		return value{}, r.syntaxError(text, err)
	}
	return value{r: &r.tomlFile, raw: raw}, nil
}

// refuse is the one mistake of a file that is read no further.
func (r *configReader) refuse(line int, key, msg string) error {
	return ConfigErrors{First: []ConfigError{{r.file, line, shorten(key, quotedText), msg}}}
}

// syntaxError is the decoder's error about text, on one line. The decoder's own
// line is where it stopped, which after an unfinished header is the next line.
// The operator has to look at the line on which the wrong piece begins.
func (r *configReader) syntaxError(text string, err error) error {
	line, msg := 1, ""
	if parse, ok := errors.AsType[toml.ParseError](err); ok {
		start := min(max(parse.Position.Start, 0), len(text))
		line, msg = 1+strings.Count(text[:start], "\n"), parse.Message
	} else {
		msg = err.Error()
	}
	msg = printable(strings.TrimRight(strings.Join(strings.Fields(msg), " "), "."))
	return r.refuse(line, "syntax", shorten(msg, maxReason)+"; want TOML: one KEY = VALUE a line, strings in quotes, each key once")
}

// config reads the top level.
func (r *configReader) config(v value) *Config {
	c := defaultConfig()
	c.Path = r.file
	v.table(
		setting{"kubeconfig", r.relativePath(&c.Kubeconfig)},
		setting{"allow_exec_credentials", boolean(&c.ExecCredentials)},
		setting{"cluster_file", r.relativePath(&c.ClusterFile)},
		setting{"interface", parsed(&c.Interface, `a device name such as "eth0", at most 15 characters without "/", ":" and spaces, or "" for the device of the default route`, parseDevice)},
		setting{"listen_names", func(v value) { c.ListenNames = readNames(v) }},
		setting{"listen", parsed(&c.Listen, `"ADDRESS:PORT" such as "127.0.0.1:9652", ":9652" for all addresses, or "" for off`, parseListen)},
		setting{"metrics", meaningOf(&c.Metrics, metricsDetails[:], metricsSums, metricsServices, metricsServers)},
		setting{"announce_device", parsed(&c.AnnounceDevice, `a device name such as "lvs0", at most 15 characters without "/", ":" and spaces`, parseNamedDevice)},
		setting{"withdraw_hold", duration(&c.WithdrawHold, 0, time.Minute)},
		setting{"audit_interval", duration(&c.AuditInterval, time.Second, time.Hour)},
		setting{"manage_sysctls", boolean(&c.ManageSysctls)},
		directory("state_dir", &c.StateDir),
		directory("cache_dir", &c.CacheDir),
		setting{"timeouts", func(v value) { readTimeouts(v, &c.Timeouts) }},
		setting{"director", func(v value) {
			v.table(setting{"connection_table_bits", integer(&c.ConnectionTableBits, 8, 27)})
		}},
		setting{"marks", func(v value) { readMarkRange(v, &c.Marks) }},
		setting{"peer_macs", func(v value) { c.PeerMACs = r.peerMACs(v) }},
		setting{"events", func(v value) { r.events(v, &c.Events) }},
		setting{"sync", func(v value) { c.Sync = readSync(v) }},
		setting{"sysctl", func(v value) { c.Sysctls = readSysctls(v) }},
		setting{"vip", func(v value) { c.VIPs = r.vips(v) }},
	)
	if c.Kubeconfig != "" && c.ClusterFile != "" {
		v.child("cluster_file").mistake("excludes kubeconfig (line %d), want one of the two", v.child("kubeconfig").line())
	}
	if v.blank("vip") {
		v.child("vip").mistake("missing, want at least one [[vip]]")
	}
	if sysctl := v.child("sysctl"); len(c.Sysctls) > 0 && !c.ManageSysctls {
		sysctl.mistake("excludes manage_sysctls = false (line %d), want one of the two", v.child("manage_sysctls").line())
	}
	c.checkNoTrack(v)
	if need := c.markCount(); uint64(c.Marks.Count) < need {
		v.child("marks").child("count").mistake("is %d, want at least %d: one for each of groups and each one_mark", c.Marks.Count, need)
	}
	return c
}

// checkNoTrack warns of what notrack cannot do in the configuration at v.
func (c *Config) checkNoTrack(v value) {
	tunnelled := 0
	for i := range c.VIPs {
		vip, notrack := &c.VIPs[i], value{r: v.r, path: indexPath("vip", i) + ".notrack"}
		if !vip.NoTrack {
			continue
		}
		if c.Sysctls["conntrack"] == "1" {
			notrack.warning("is true beside sysctl.conntrack = 1 (line %d), with which IPVS keeps its connections in connection tracking; want one of the two", v.child("sysctl").child("conntrack").line())
		}
		if vip.Forward != Tunnel {
			continue
		}
		if tunnelled += len(vip.Addresses); tunnelled > maxTunnelled && tunnelled-len(vip.Addresses) <= maxTunnelled {
			notrack.warning("is true for more than %d addresses with forward = \"tunnel\"; the outer packets of the others stay tracked", maxTunnelled)
		}
	}
}

// directory is a setting with the path of a directory, which dst has a default for.
func directory(key string, dst *string) setting {
	return setting{key, parsed(dst, fmt.Sprintf("an absolute path such as %q", *dst), parseAbsolute)}
}

// maxPeers is the largest number of peer_macs: each packet is compared with all.
const maxPeers = 16

// peerMACs reads peer_macs and sorts it.
func (r *configReader) peerMACs(v value) (macs []macAddress) {
	if list, _ := v.list(); len(list) > maxPeers {
		v.mistake("has %d elements, want at most %d", len(list), maxPeers)
		return nil
	}
	seen := map[string]string{}
	v.each(`a list of MAC addresses such as ["52:54:00:12:34:56"]`, func(v value) {
		var mac macAddress
		parsed(&mac, `the MAC address of another director, such as "52:54:00:12:34:56"`, func(s string) (mac macAddress, err error) {
			if err = mac.UnmarshalText([]byte(s)); err != nil || mac[0]&1 != 0 || mac == (macAddress{}) { // a group's, or none
				err = errMisfit
			}
			return mac, err
		})(v)
		if r.peers = true; mac != (macAddress{}) && v.isFirst(seen, mac.String(), "MAC address", "MAC address") {
			macs = append(macs, mac)
		}
	})
	sortBy(macs, func(a, b macAddress) int { return slices.Compare(a[:], b[:]) })
	return macs
}

// readTimeouts reads [timeouts].
func readTimeouts(v value, t *Timeouts) {
	v.table(
		setting{"tcp", wholeSeconds(&t.TCP, time.Second, maxTimeout)},
		setting{"tcp_fin", wholeSeconds(&t.TCPFin, time.Second, maxTimeout)},
		setting{"udp", wholeSeconds(&t.UDP, time.Second, maxTimeout)},
	)
}

// readMarkRange reads [marks].
func readMarkRange(v value, m *MarkRange) {
	first, count := v.child("first"), v.child("count")
	v.table(
		setting{"first", integer(&m.First, 1, math.MaxUint32)},
		setting{"count", integer(&m.Count, 1, math.MaxUint32)},
	)
	if last := uint64(m.First) + uint64(m.Count) - 1; last > math.MaxUint32 && !first.wrong() && !count.wrong() {
		at := count
		if !v.has("count") {
			at = first
		}
		at.mistake("the last mark, first + count - 1, is %d, want at most %d", last, uint32(math.MaxUint32))
	}
}

// readSync reads [sync].
func readSync(v value) *SyncDaemon {
	d := SyncDaemon{ID: 1, Group: defaultSyncGroup, Port: defaultSyncPort, TTL: defaultSyncTTL}
	isTable := v.table(
		setting{"interface", parsed(&d.Interface, `a device name such as "eth1", at most 15 characters without "/", ":" and spaces`, parseNamedDevice)},
		setting{"syncid", integer(&d.ID, 0, 255)},
		setting{"group", parsed(&d.Group, `a multicast IPv4 or IPv6 address such as "224.0.0.81"`, parseMulticast)},
		setting{"port", integer(&d.Port, 1, math.MaxUint16)},
		setting{"ttl", integer(&d.TTL, 1, 255)},
		setting{"maxlen", func(v value) { syncMaxLen(v, &d.MaxLen) }},
	)
	if isTable && !v.has("interface") {
		v.child("interface").mistake("missing, want the device that leads to the other director")
	}
	return &d
}

// syncMaxLen reads the length of a sync message. The kernel moves what is
// outside these bounds into them: 1024 for the backup's buffer, and 65535 less
// the headers of IPv6 and UDP (start_sync_thread).
func syncMaxLen(v value, dst *uint16) {
	const low, high = 1024, 65535 - 40 - 8
	n, ok := v.raw.(int64)
	if !ok || n != 0 && (n < low || n > high) {
		v.misfit(fmt.Sprintf("0 or an integer from %d to %d", low, high))
		return
	}
	*dst = uint16(n)
}

// readSysctls reads [sysctl], settings below net/ipv4/vs, with the values that
// the kernel accepts (net/netfilter/ipvs/ip_vs_ctl.c; tried with Linux 6.1 and 7.3). The
// kernel takes any integer for a switch; here it is 0 or 1.
func readSysctls(v value) map[string]string {
	var (
		values          = map[string]string{}
		settings        []setting
		n               int32
		text, threshold string
	)
	add := func(check func(value), names ...string) {
		for _, name := range names {
			settings = append(settings, setting{name, func(v value) {
				if check(v); !v.wrong() {
					values[name] = fmt.Sprint(v.raw)
				}
			}})
		}
	}
	add(integer(&n, 0, 1), "backup_only", "cache_bypass", "conntrack", "expire_nodest_conn", "expire_quiescent_template",
		"ignore_tunneled", "nat_icmp_send", "pmtu_disc", "run_estimation", "schedule_icmp", "sloppy_sctp", "sloppy_tcp",
		"snat_reroute", "sync_persist_mode", "sync_version")
	add(integer(&n, 0, 3), "conn_reuse_mode", "drop_entry", "drop_packet", "secure_tcp", "sync_retries")
	add(integer(&n, 0, math.MaxInt32), "am_droprate", "amemthresh", "sync_qlen_max", "sync_sock_size")
	add(integer(&n, 0, math.MaxInt32/1000), "sync_refresh_period") // jiffies in an int, 1000 a second at most
	add(integer(&n, -20, 19), "est_nice")
	add(integer(&n, -8, 8), "conn_lfactor", "svc_lfactor")
	add(integer(&n, 1, 1<<30), "conn_max") // the kernel takes 0 too: no connection at all
	add(parsed(&text, `CPU numbers such as "0-3,8", "all", or "" for none`, matching(cpuLists)), "est_cpulist")
	add(syncPorts, "sync_ports")
	add(parsed(&threshold, `"THRESHOLD PERIOD" such as "3 50", the first below the second, or any first with a second of 0`,
		parseSyncThreshold), "sync_threshold")
	sortBy(settings, func(a, b setting) int { return cmp.Compare(a.key, b.key) })
	v.table(settings...)
	if threshold != "" {
		values["sync_threshold"] = threshold
	}
	if len(values) == 0 {
		return nil
	}
	return values
}

// syncPorts accepts a number of sync threads: a power of two up to
// IPVS_SYNC_PORTS_MAX.
func syncPorts(v value) {
	if n, ok := v.raw.(int64); !ok || n < 1 || n > 64 || n&(n-1) != 0 {
		v.misfit("one of 1, 2, 4, 8, 16, 32, 64")
	}
}

// parseSyncThreshold accepts what proc_do_sync_threshold does, and writes it
// as the kernel prints it: with a tab. One number alone would set the other
// to 0.
func parseSyncThreshold(s string) (string, error) {
	fields := strings.Fields(s)
	if len(fields) != 2 {
		return "", errMisfit
	}
	threshold, err1 := strconv.ParseUint(fields[0], 10, 31)
	period, err2 := strconv.ParseUint(fields[1], 10, 31)
	if err1 != nil || err2 != nil || period > 0 && threshold >= period {
		return "", errMisfit
	}
	return fmt.Sprintf("%d\t%d", threshold, period), nil
}

// relativePath reads a path that is relative to the configuration file's own
// directory, as the same file must mean the same thing from every working
// directory.
func (r *configReader) relativePath(dst *string) func(value) {
	return parsed(dst, `a path, or ""`, func(s string) (string, error) {
		if s == "" || filepath.IsAbs(s) {
			return s, nil
		}
		return filepath.Join(filepath.Dir(r.file), s), nil
	})
}

// readNames reads a list of host names.
func readNames(v value) (names []string) {
	v.each(`a list of host names such as ["director1.example.org"]`, func(v value) {
		var name string
		parsed(&name, `a host name such as "director1.example.org"`, matching(objectNames))(v)
		names = append(names, name)
	})
	return names
}
