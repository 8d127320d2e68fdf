// The checks of doctor with -peer: have both directors of a pair the same table?
//
// Used by cmd_doctor.go. The answers are those of both listeners.

package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// peerListener is the address of the other director's listener: that of -peer, with the
// port of this one's where it has none.
func (h *doctorHost) peerListener() string {
	if _, _, err := net.SplitHostPort(h.peer); err == nil {
		return h.peer
	}
	_, port, err := net.SplitHostPort(h.cfg.Listen)
	if err != nil {
		_, port, _ = net.SplitHostPort(defaultConfig().Listen)
	}
	return net.JoinHostPort(strings.Trim(h.peer, "[]"), port)
}

// isListener reports whether text is an address or a name, with or without a port.
func isListener(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.Trim(text, "[]"), "1"
	}
	_, badPort := ParsePortNumber(port)
	_, badAddress := netip.ParseAddr(host)
	return badPort == nil && (badAddress == nil || objectNames.MatchString(host))
}

// checkPeer looks whether the other director answers and is ready.
func checkPeer(h *doctorHost) []finding {
	at := h.peerListener()
	switch st, err := h.ask.status(controllerAt{listen: at}); {
	case err != nil && hasAnswered(err):
		return []finding{{levelFail, fmt.Sprintf("%s %s: %v", at, unanswered(err), err), []string{"# on the other director:", "lvs-controller status"}}}
	case err != nil:
		// On the address at alone it would no longer answer keepalived's script there.
		_, port, _ := net.SplitHostPort(at)
		return []finding{{levelFail, fmt.Sprintf("%s does not answer: %v", at, err), []string{
			"# on the other director, in config.toml (its listener is on 127.0.0.1 by default; keepalived asks there):", fmt.Sprintf("# listen = %q", ":"+port), "systemctl start lvs-controller"}}}
	case !st.Drained.IsZero():
		return []finding{{levelWarn, fmt.Sprintf("%s: an operator has drained it on %s", at, st.Drained.Format(time.DateTime)), []string{"# on the other director:", "lvs-controller drain -undo"}}}
	case !st.Ready:
		return []finding{{levelFail, fmt.Sprintf("%s is not ready: %s", at, st.Reason), []string{"# on the other director:", "lvs-controller status"}}}
	}
	return allWell("%s is ready", at)
}

// checkPeerTable compares the numbers of both wanted tables.
func checkPeerTable(h *doctorHost) []finding {
	own, err := h.ask.status(h.at)
	if err != nil || own.TableHash == 0 {
		return []finding{{levelWarn, "not known: the controller of this host does not say", []string{"systemctl start lvs-controller"}}}
	}
	at := h.peerListener()
	other, err := h.ask.status(controllerAt{listen: at})
	switch {
	case err != nil:
		return nil // the check of the peer says why
	case other.TableHash == 0:
		return []finding{{levelWarn, at + " does not say: it has no table yet, or an older version", []string{"# on the other director:", "lvs-controller version", "lvs-controller status"}}}
	case own.TableHash == other.TableHash:
		return allWell("both want the same (number %d)", own.TableHash)
	}
	commands := []string{"# on both directors; the outputs have to be the same:", "lvs-controller status | grep -e cluster -e warning -e config"}
	if h.file != onlyFlags {
		commands = slices.Insert(commands, 1, "sha256sum "+shellWord(h.file))
	}
	return []finding{{levelFail, fmt.Sprintf("this director wants another table (number %d) than %s (%d): clients lose connections when the VIPs move", own.TableHash, at, other.TableHash), commands}}
}
