// What the checkers of keepalived.conf ask: URLs, DNS questions and datagrams.
//
// Used by cmd_import_checks.go. What a probe cannot ask is left out,
// with the reason. Pure.

package main

import (
	"encoding/hex"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// urls reads the urls of s. It says why the checker is not taken.
func (r *checkReader) urls(s *confStatement, check *importCheck, host string) (all []HTTPProbe, wrong string) {
	for _, c := range s.block {
		if c.word(0) != "url" {
			continue
		}
		h := HTTPProbe{Path: "/", Host: host, Status: []StatusRange{{200, 299}}, TLS: s.word(0) == "SSL_GET"}
		if wrong = r.url(c, check, &h); wrong != "" {
			return nil, wrong
		}
		all = append(all, h)
	}
	if len(all) == 0 {
		return nil, "it has no url"
	}
	return all, ""
}

// url reads an url of a checker. It says why the checker is not taken.
func (r *checkReader) url(s *confStatement, check *importCheck, h *HTTPProbe) string {
	var pattern, digest, other *confStatement
	for _, c := range s.block {
		switch key := c.word(0); key {
		case "path":
			h.Path = c.word(1)
		case "virtualhost":
			h.Host = c.word(1)
		case "status_code":
			h.Status = nil
			for _, word := range c.words[1:] {
				status, err := parseStatusRange(word)
				if err != nil {
					return "its status_code " + quote(word) + " is not from 100 to 599"
				}
				h.Status = append(h.Status, status)
			}
			if len(h.Status) == 0 {
				return "its status_code is empty"
			}
		case "digest":
			digest = c
		case regexWord:
			pattern = c
		case "regex_no_match", "regex_options", "regex_min_offset", "regex_max_offset":
			other = c
		case "regex_stack": // how PCRE2 works, not what it finds
		default:
			r.option(c)
		}
	}
	switch {
	case !probePaths.MatchString(h.Path):
		return "its path " + quote(h.Path) + " is not one that a probe can ask for"
	case !probeHosts.MatchString(h.Host):
		return "its virtualhost " + quote(h.Host) + " is no host name"
	}
	if digest != nil {
		r.remarks.remark(digest, "it is an MD5 sum, and body_sha256 is another one: "+r.sumCommand(check, h)+" prints that")
	}
	switch {
	case pattern == nil:
	case other != nil:
		r.remarks.remark(pattern, "body_match has nothing like its "+other.word(0))
	default:
		var why string
		if h.Body.Match, why = bodyMatch(pattern); why != "" {
			r.remarks.remark(pattern, why)
		}
	}
	return ""
}

// sumCommand prints the SHA-256 sum of what h asks for.
func (r *checkReader) sumCommand(check *importCheck, h *HTTPProbe) string {
	at, options := r.server.Address.String(), "-s"
	if r.server.Address.Is6() {
		at = "[" + at + "]"
	}
	if check.port != 0 {
		at += ":" + strconv.Itoa(int(check.port))
	}
	scheme := "http"
	if h.TLS {
		scheme, options = "https", "-sk"
	}
	if h.Host != "" {
		options += " -H 'Host: " + h.Host + "'"
	}
	return "curl " + options + " '" + scheme + "://" + at + h.Path + "' | sha256sum"
}

// bodyMatch is the pattern of a regex for body_match, or the reason why there is none.
func bodyMatch(c *confStatement) (*regexp.Regexp, string) {
	text, ok := unescapeConf(c.word(1))
	switch {
	case len(c.words) != 2 || !ok:
		return nil, "it is not one pattern of printable ASCII in double quotes"
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }):
		return nil, "its pattern has characters that are not printable ASCII"
	}
	begin, atEnd := strings.CutSuffix(text, "$")
	if !readAlike(begin) || strings.HasSuffix(begin, `\`) && atEnd {
		return nil, "its pattern has what PCRE2 and RE2 do not read alike"
	}
	if atEnd { // to PCRE2 the end is also before a last line feed
		text = begin + `\n?$`
	}
	if len(text) > maxPattern {
		return nil, "its pattern has more than " + strconv.Itoa(maxPattern) + " characters"
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, "its pattern is none of RE2"
	}
	return re, ""
}

// readAlike reports whether each sign of a pattern means the same to PCRE2 and RE2. It
// knows no escapes but those of signs and of the classes d, w and s, and behind (? no more
// than a group and the flags i and s.
func readAlike(pattern string) bool {
	class := -1 // where the signs in brackets begin
	for i := 0; i < len(pattern); i++ {
		rest := pattern[i+1:]
		begins := func(texts ...string) bool {
			return slices.ContainsFunc(texts, func(t string) bool { return strings.HasPrefix(rest, t) })
		}
		switch c := pattern[i]; {
		case c == '\\':
			if i++; i == len(pattern) || isAlphanumeric(pattern[i]) && strings.IndexByte("dDwWsS", pattern[i]) < 0 {
				return false
			}
		case class >= 0 && c == '[' && begins(":"):
			_, behind, _ := strings.Cut(rest, ":]")
			i = len(pattern) - len(behind) - 1
		case class >= 0:
			if c == ']' && i > class {
				class = -1
			}
		case c == '[':
			if begins("^") {
				i++
			}
			class = i + 1
		case c == '$', c == '{' && begins(",", " "),
			c == '(' && begins("*"), c == '(' && begins("?") && !begins("?:", "?i)", "?i:", "?s)", "?s:"):
			return false
		}
	}
	return class < 0
}

func isAlphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// unescapeConf is the value of a word that may have escapes (lib/parser.c,
// alloc_strvec_quoted_escaped). ok reports that no escape makes a control character.
func unescapeConf(word string) (text string, ok bool) {
	if len(word) > 1 && word[0] == '\'' && word[len(word)-1] == '\'' {
		word = word[1 : len(word)-1]
	}
	var b strings.Builder
	for i := 0; i < len(word); i++ {
		c := word[i]
		if c == '\\' {
			if i++; i == len(word) || strings.IndexByte("xc01234567abEfnrtv", word[i]) >= 0 {
				return "", false
			}
			c = word[i]
		}
		b.WriteByte(c)
	}
	return b.String(), true
}

// question reads a keyword of a DNS_CHECK, and reports whether c is one.
func (r *checkReader) question(c *confStatement, d *DNSProbe, wrong *string) bool {
	text := c.word(1)
	switch c.word(0) {
	case "type":
		text = strings.ToUpper(text)
		switch {
		case dnsTypeCode(text) != 0:
			d.Type = text
		case text == "RRSIG" || text == "DNSKEY":
			*wrong = "no probe asks for the type " + text
		default:
			r.remarks.remark(c, "keepalived does not know "+quote(text)+" either, and asks for SOA")
		}
	case "name":
		if d.Name = text; text == "" {
			d.Name = "."
		}
		if !dnsNames.MatchString(d.Name) || len(d.Name) > maxDNSName {
			*wrong = "its name " + quote(text) + " is none that a probe can ask for"
		}
	default:
		return false
	}
	return true
}

// keepalivedDatagram is what keepalived sends without a payload.
const keepalivedDatagram = "keepalived check - keepalived ch"

// datagram reads a keyword of a UDP_CHECK, and reports whether c is one.
func (r *checkReader) datagram(c *confStatement, u *UDPProbe, wrong *string) bool {
	switch key := c.word(0); key {
	case "payload":
		b, _, ok := confBytes(c.words[1:], false)
		switch {
		case !ok || len(b) == 0:
			r.remarks.remark(c, "these are no hexadecimal digits, and keepalived sends "+strconv.Quote(keepalivedDatagram))
		case len(b) > maxDatagram:
			*wrong = "its payload has more than " + strconv.Itoa(maxDatagram) + " bytes"
		default:
			u.Send = string(b)
		}
	case "require_reply":
		u.AnswerRequired = true
		b, whole, ok := confBytes(c.words[1:], true)
		switch {
		case !ok:
			r.remarks.remark(c, "these are no hexadecimal digits, and keepalived takes any reply")
			return true
		case !whole:
			r.remarks.remark(c, "answer has no x for any digit; the bytes before the first are compared")
		case len(b) > 0:
			r.remarks.remarks = append(r.remarks.remarks, remark{at: c.at, note: true, text: "require_reply: an answer that is shorter is a failure; to keepalived it is none"})
		}
		if len(b) > maxDatagram {
			*wrong = "its reply has more than " + strconv.Itoa(maxDatagram) + " bytes"
		}
		u.Answer = string(b)
	case "min_reply_length", "max_reply_length":
		r.remarks.remark(c, "answer says how one begins, and nothing says its length")
	default:
		return false
	}
	return true
}

// confBytes reads bytes as hexadecimal digits. A byte with an x has any digit there, and
// ends what is returned: whole is false then.
func confBytes(words []string, wild bool) (b []byte, whole, ok bool) {
	whole = true
	for _, word := range strings.Fields(strings.Join(words, " ")) {
		for pair := range slices.Chunk([]byte(word), 2) {
			text := string(pair)
			if len(text) == 1 {
				text = "0" + text
			}
			if wild && strings.ContainsAny(text, "xX") {
				text, whole = strings.NewReplacer("x", "0", "X", "0").Replace(text), false
			}
			v, err := hex.DecodeString(text)
			if err != nil {
				return nil, false, false
			}
			if whole {
				b = append(b, v...)
			}
		}
	}
	return b, whole, true
}

// datagramText is b as the keys send and answer have it.
func datagramText(b string) string {
	if strings.ContainsFunc(b, func(r rune) bool { return r < ' ' || r > '~' }) || strings.HasPrefix(b, "hex:") {
		return "hex:" + hex.EncodeToString([]byte(b))
	}
	return b
}
