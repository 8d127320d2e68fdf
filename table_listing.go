// Reads the listing of `ipvsadm -Sn`.
//
// Used by cmd*.go. Pure: it reads what it is given, bounded in size, and nothing
// else. A line that it does not understand is an error with the line's number:
// a part of a table is never taken for the whole.

package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	maxListing      = 32 << 20 // bytes: half a million real servers
	maxListingLine  = 1024     // bytes; ipvsadm writes some 100
	maxEngineName   = 15       // IP_VS_PENAME_MAXLEN, and IP_VS_SCHEDNAME_MAXLEN
	defaultPersists = 300      // seconds: what ipvsadm takes for -p without a number
)

// listingOption is an option of a listing's lines, as ipvsadm names it.
type listingOption struct {
	short, long string
	value       optionValue
	lines       string // the commands that have it
}

type optionValue uint8

const (
	noValue optionValue = iota
	needsValue
	mayHaveValue
)

// The places of options in listingOptions.
const (
	optAddService = iota
	optAddServer
	optTCP
	optUDP
	optSCTP
	optMark
	optIPv6
	optScheduler
	optPersistent
	optNetmask
	optEngine
	optOnePacket
	optFlags
	optServer
	optDirect
	optTunnel
	optMasq
	optWeight
	optUpper
	optLower
	optTunnelType
	optTunnelPort
	optNoChecksum
	optChecksum
	optRemoteChecksum
	numOptions
)

var listingOptions = [numOptions]listingOption{
	optAddService:     {"-A", "--add-service", noValue, "-A"},
	optAddServer:      {"-a", "--add-server", noValue, "-a"},
	optTCP:            {"-t", "--tcp-service", needsValue, "-A -a"},
	optUDP:            {"-u", "--udp-service", needsValue, "-A -a"},
	optSCTP:           {"", "--sctp-service", needsValue, "-A -a"},
	optMark:           {"-f", "--fwmark-service", needsValue, "-A -a"},
	optIPv6:           {"-6", "--ipv6", noValue, "-A -a"},
	optScheduler:      {"-s", "--scheduler", needsValue, "-A"},
	optPersistent:     {"-p", "--persistent", mayHaveValue, "-A"},
	optNetmask:        {"-M", "--netmask", needsValue, "-A"},
	optEngine:         {"", "--pe", needsValue, "-A"},
	optOnePacket:      {"-o", "--ops", noValue, "-A"},
	optFlags:          {"-b", "--sched-flags", needsValue, "-A"},
	optServer:         {"-r", "--real-server", needsValue, "-a"},
	optDirect:         {"-g", "--gatewaying", noValue, "-a"},
	optTunnel:         {"-i", "--ipip", noValue, "-a"},
	optMasq:           {"-m", "--masquerading", noValue, "-a"},
	optWeight:         {"-w", "--weight", needsValue, "-a"},
	optUpper:          {"-x", "--u-threshold", needsValue, "-a"},
	optLower:          {"-y", "--l-threshold", needsValue, "-a"},
	optTunnelType:     {"", "--tun-type", needsValue, "-a"},
	optTunnelPort:     {"", "--tun-port", needsValue, "-a"},
	optNoChecksum:     {"", "--tun-nocsum", noValue, "-a"},
	optChecksum:       {"", "--tun-csum", noValue, "-a"},
	optRemoteChecksum: {"", "--tun-remcsum", noValue, "-a"},
}

// listing is what a listing says.
type listing struct {
	Table Table
	// Thresholds: some line has one. ipvsadm lists none, so without any they are not
	// known.
	Thresholds bool
	Lines      map[ServiceKey]int // where each virtual service is, counted from 1
}

// readListing reads the output of `ipvsadm -Sn` or of ipvsadm-save -n. Empty lines and
// those that begin with # are passed over.
func readListing(from io.Reader) (listing, error) {
	p := listingReader{services: make(map[ServiceKey]int), rows: make(map[rowID]bool)}
	p.Lines = make(map[ServiceKey]int)
	lines := bufio.NewScanner(io.LimitReader(from, maxListing+1))
	lines.Buffer(nil, maxListingLine)
	size := 0
	for n := 1; lines.Scan(); n++ {
		if size += len(lines.Bytes()) + 1; size > maxListing {
			return listing{}, fmt.Errorf("the listing is larger than %d MiB", maxListing>>20)
		}
		if err := p.line(lines.Text()); err != nil {
			return listing{}, fmt.Errorf("line %d: %w", n, err)
		}
		p.lines = n
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return listing{}, fmt.Errorf("line %d: it is longer than %d characters", p.lines+1, maxListingLine)
	case err != nil:
		return listing{}, err
	}
	sortBy(p.Table, compareServices)
	for i := range p.Table {
		sortBy(p.Table[i].Servers, compareRows)
	}
	return p.listing, nil
}

// listingReader is the state of readListing.
type listingReader struct {
	listing
	lines    int                // before this one
	services map[ServiceKey]int // places in the table
	rows     map[rowID]bool
}

// line takes one line.
func (p *listingReader) line(text string) error {
	words := strings.Fields(text)
	if len(words) == 0 || strings.HasPrefix(words[0], "#") {
		return nil
	}
	var o listingLine
	if err := o.parse(words); err != nil {
		return err
	}
	key, err := o.key()
	if err != nil {
		return err
	}
	at, known := p.services[key]
	if o.has(optAddService) {
		if known {
			return fmt.Errorf("virtual service %s is listed twice", key)
		}
		s, err := o.service(key)
		if err != nil {
			return err
		}
		p.services[key], p.Lines[key] = len(p.Table), p.lines+1
		p.Table = append(p.Table, Service{VirtualService: s})
		return nil
	}
	if !known {
		return fmt.Errorf("there is no line -A for virtual service %s before", key)
	}
	r, err := o.server(key)
	if err != nil {
		return err
	}
	id := rowOf(key, r)
	if p.rows[id] {
		return fmt.Errorf("real server %s of %s is listed twice", r.Name(), key)
	}
	p.rows[id] = true
	p.Thresholds = p.Thresholds || o.has(optUpper) || o.has(optLower)
	p.Table[at].Servers = append(p.Table[at].Servers, Row{RealServer: r})
	return nil
}

// listingLine is the options of one line.
type listingLine struct {
	given  [numOptions]bool
	values [numOptions]string
}

func (o *listingLine) has(option int) bool { return o.given[option] }

// parse takes a line apart.
func (o *listingLine) parse(words []string) error {
	for i := 0; i < len(words); i++ {
		at := slices.IndexFunc(listingOptions[:], func(l listingOption) bool { return words[i] == l.short || words[i] == l.long })
		if at < 0 || i == 0 && at != optAddService && at != optAddServer {
			return notOfAListing(i, words[i])
		}
		option := &listingOptions[at]
		if o.given[at] {
			return fmt.Errorf("%s is given twice", words[i])
		}
		if i > 0 && !strings.Contains(option.lines, o.command()) {
			return fmt.Errorf("%s does not belong to %s", words[i], o.command())
		}
		o.given[at] = true
		more := i+1 < len(words)
		switch {
		case option.value == needsValue && !more:
			return fmt.Errorf("%s has no value", words[i])
		case option.value == needsValue, option.value == mayHaveValue && more && !strings.HasPrefix(words[i+1], "-"):
			i++
			o.values[at] = words[i]
		}
	}
	return nil
}

// command is the line's first word in its short form.
func (o *listingLine) command() string {
	if o.given[optAddService] {
		return "-A"
	}
	return "-a"
}

// notOfAListing is the error for a word that no listing has at its place i.
func notOfAListing(i int, word string) error {
	word = shorten(word, quotedText)
	switch {
	case i > 0:
		return fmt.Errorf("%q is no option of a listing", word)
	case word == "IP", word == "Prot", word == "TCP", word == "UDP", word == "SCTP", word == "FWM", word == "->":
		return errors.New("this is what ipvsadm -L prints; save the table with ipvsadm -Sn")
	}
	return fmt.Errorf("it begins with %q, want -A or -a, as ipvsadm -Sn prints it", word)
}

// key is the service that the line is about.
func (o *listingLine) key() (key ServiceKey, err error) {
	found := 0
	for option, protocol := range map[int]Protocol{optTCP: TCP, optUDP: UDP, optSCTP: SCTP, optMark: 0} {
		if !o.has(option) {
			continue
		}
		found++
		text := o.values[option]
		if option == optMark {
			// ipvsadm prints marks from 1<<31 on as negative numbers.
			mark, err := strconv.ParseInt(text, 10, 64)
			if err != nil || mark == 0 || mark < -1<<31 || mark >= 1<<32 {
				return key, fmt.Errorf("%q is not a firewall mark", shorten(text, quotedText))
			}
			key = MarkKey(uint32(mark), o.has(optIPv6))
			continue
		}
		at, err := addressOfListing(text)
		if err != nil {
			return key, err
		}
		key = ServiceKey{Address: at.Addr(), Protocol: protocol, Port: at.Port()}
	}
	if found != 1 {
		return key, errors.New("want one virtual service: -t, -u, --sctp-service or -f")
	}
	if o.has(optIPv6) && !key.Address.Is6() {
		return key, errors.New("-6 is for a firewall mark")
	}
	return key, nil
}

// addressOfListing reads ADDRESS:PORT as numbers.
func addressOfListing(text string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(text)
	if err != nil || !plainAddress(at.Addr()) {
		return at, fmt.Errorf("%q is not ADDRESS:PORT in numbers; save the table with ipvsadm -Sn, with the n", shorten(text, quotedText))
	}
	return at, nil
}

// number reads the number of an option, def where it is not given.
func (o *listingLine) number(option int, def, most uint64) (uint32, error) {
	if o.values[option] == "" {
		return uint32(def), nil
	}
	n, err := strconv.ParseUint(o.values[option], 10, 32)
	if err != nil || n > most {
		return 0, fmt.Errorf("%s %q is not a number from 0 to %d", cmp.Or(listingOptions[option].short, listingOptions[option].long), shorten(o.values[option], quotedText), most)
	}
	return uint32(n), nil
}

// service is the virtual service of a line -A.
func (o *listingLine) service(key ServiceKey) (s VirtualService, err error) {
	s = VirtualService{ServiceKey: key, Scheduler: "wlc", Engine: o.values[optEngine]} // ipvsadm's default
	if o.has(optScheduler) {
		s.Scheduler = o.values[optScheduler]
	}
	if known := schedulersByName[s.Scheduler]; known != nil {
		s.Scheduler = known.name // does not keep the line in memory
	}
	for _, name := range []string{s.Scheduler, s.Engine} {
		if len(name) > maxEngineName {
			return s, fmt.Errorf("%q has more than %d characters", shorten(name, quotedText), maxEngineName)
		}
	}
	if o.has(optPersistent) {
		s.Flags |= FlagPersistent
		if s.Persistence, err = o.number(optPersistent, defaultPersists, 1<<32-1); err != nil {
			return s, err
		}
	}
	if o.has(optNetmask) {
		if s.Netmask, err = netmaskOfListing(o.values[optNetmask], key.Address.Is6()); err != nil {
			return s, err
		}
	}
	if o.has(optOnePacket) {
		s.Flags |= FlagOnePacket
	}
	if o.has(optFlags) {
		for word := range strings.SplitSeq(o.values[optFlags], ",") {
			bit := flagOfListing(s.Scheduler, word)
			if bit == 0 {
				return s, fmt.Errorf("-b: %q is no flag of scheduler %s", shorten(word, quotedText), s.Scheduler)
			}
			s.Flags |= bit
		}
	}
	return s, nil
}

// netmaskOfListing reads the value of -M.
func netmaskOfListing(text string, is6 bool) (uint8, error) {
	if is6 {
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil || n > 128 {
			return 0, fmt.Errorf("-M %q is not a prefix length from 0 to 128", shorten(text, quotedText))
		}
		return uint8(n % 128), nil
	}
	mask, err := netip.ParseAddr(text)
	if err != nil || !mask.Is4() {
		return 0, fmt.Errorf("-M %q is not a netmask", shorten(text, quotedText))
	}
	return ipv4Prefix(mask.As4()), nil
}

// flagOfListing is the bit for a word of -b, 0 for none.
func flagOfListing(scheduler, word string) ServiceFlags {
	for i, bit := range schedulerBits {
		if word == "flag-"+strconv.Itoa(i+1) || word == findScheduler(scheduler).word(bit) && word != "" {
			return bit
		}
	}
	return 0
}

// schedulerBits are the flags whose meaning the scheduler gives.
var schedulerBits = [...]ServiceFlags{FlagSched1, FlagSched2, FlagSched3}

// server is the real server of a line -a.
func (o *listingLine) server(key ServiceKey) (r RealServer, err error) {
	at, err := addressOfListing(o.values[optServer])
	if err != nil {
		return r, err
	}
	r = RealServer{Address: at.Addr(), Port: at.Port(), Forward: DirectRoute}
	if r.Port == key.Port {
		r.Port = 0
	}
	methods := 0
	for option, method := range map[int]ForwardingMethod{optDirect: DirectRoute, optTunnel: Tunnel, optMasq: Masq} {
		if o.has(option) {
			r.Forward = method
			methods++
		}
	}
	if methods > 1 {
		return r, errors.New("want one of -g, -i and -m")
	}
	var port uint32
	for _, n := range []struct {
		option    int
		def, most uint64
		to        *uint32
	}{
		{optWeight, 1, 1<<31 - 1, &r.Weight},
		{optUpper, 0, 1<<32 - 1, &r.Upper},
		{optLower, 0, 1<<32 - 1, &r.Lower},
		{optTunnelPort, 0, 1<<16 - 1, &port},
	} {
		if *n.to, err = o.number(n.option, n.def, n.most); err != nil {
			return r, err
		}
	}
	if r.Tunnel, err = o.tunnel(uint16(port)); err != nil {
		return r, err
	}
	r.Tunnel = r.Tunnel.effective(r.Forward)
	return r, nil
}

// tunnel is the form of a tunnel.
func (o *listingLine) tunnel(port uint16) (t TunnelSettings, err error) {
	t.Port = port
	if o.has(optTunnelType) {
		i := slices.Index(tunnelTypes[:], o.values[optTunnelType])
		if i < 0 {
			return t, fmt.Errorf("--tun-type %q is not ipip, gue or gre", shorten(o.values[optTunnelType], quotedText))
		}
		t.Type = TunnelType(i)
	}
	checks := 0
	for option, flags := range map[int]TunnelFlags{optNoChecksum: TunnelNoChecksum, optChecksum: TunnelChecksum, optRemoteChecksum: TunnelRemoteChecksum} {
		if o.has(option) {
			t.Flags = flags
			checks++
		}
	}
	if checks > 1 {
		return t, errors.New("want one of --tun-nocsum, --tun-csum and --tun-remcsum")
	}
	return t, nil
}

// tunnelTypes are ipvsadm's words.
var tunnelTypes = [...]string{TunnelIPIP: "ipip", TunnelGUE: "gue", TunnelGRE: "gre"}
