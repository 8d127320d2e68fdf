// The file with the VIPs of a node.
//
// Used by cmd*.go. It has one address a line; # begins a comment. A file is
// taken as a whole or not at all: one wrong line, and it says nothing. A file without an
// address says nothing either, because an editor or a copy that failed leaves an empty
// one; the line "none" alone says that the node has no VIP.

package main

import (
	"fmt"
	"net/netip"
	"strings"
)

// vipsFileMost is the largest file with VIPs, in bytes: mostVIPs of them, with comments.
const vipsFileMost = 128 << 10

// noVIPs is the line of a file that means no address at all.
const noVIPs = "none"

// readVIPs reads the file at path. The error names it.
func readVIPs(path string) ([]netip.Addr, error) {
	text, err := readRegular(path, vipsFileMost)
	if err != nil {
		return nil, err
	}
	return parseVIPsFile(path, string(text))
}

// parseVIPsFile reads the text of the file at path. Repeats are dropped. The error is one
// line, about the first mistake.
func parseVIPsFile(path, text string) (vips []netip.Addr, err error) {
	n, none := 0, 0
	for line := range strings.Lines(text) {
		n++
		word, _, _ := strings.Cut(line, "#")
		switch word = strings.TrimSpace(word); word {
		case "":
			continue
		case noVIPs:
			none = n
			continue
		}
		a, err := parseNodeVIP(word)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %q: want %s", path, n, shorten(word, quotedText), unicast)
		}
		if vips = including(vips, a); len(vips) > mostVIPs {
			return nil, fmt.Errorf("%s:%d: more than %d addresses", path, n, mostVIPs)
		}
	}
	switch {
	case none > 0 && len(vips) > 0:
		return nil, fmt.Errorf("%s:%d: %q beside addresses: want the one or the others", path, none, noVIPs)
	case none == 0 && len(vips) == 0:
		return nil, fmt.Errorf("%s: no address in it; the line %q alone means that the node has no VIP", path, noVIPs)
	}
	return vips, nil
}
