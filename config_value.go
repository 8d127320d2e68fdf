// Reads single values of config.toml.
//
// Used by config*.go and cmd*.go. A table is described as a list of settings: a key and a
// reader, made by parsed, duration, integer and so on. A reader stores the value, or
// says in one line what is wrong and what is allowed; the line number is added here.
// This file does not know the program's keys. No I/O.

package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tomlFile is a file that is read, and what is wrong with it.
type tomlFile struct {
	file     string
	lines    keyLines
	mistakes mistakes
	warnings []ConfigError     // of a file without mistakes
	wrong    map[string]bool   // paths of all mistakes, and of what they are in
	preset   map[string]string // path of a key that comes from ingress → name of the preset
	topLevel []string          // keys of the top level
	ports    int               // of all lists so far
}

// value is one TOML value and its place in the file.
type value struct {
	r    *tomlFile
	path string
	raw  any // as the decoder made it: string, int64, []any, map[string]any, …
}

// setting is one key of a table and what reads it.
type setting struct {
	key  string
	read func(value)
}

// table reads v as a table that has these settings and no other key, and
// reports whether it is a table. A setting that is absent is not read, so its
// destination keeps the default.
func (v value) table(settings ...setting) bool {
	table, ok := v.raw.(map[string]any)
	if !ok {
		v.misfit("a table")
		return false
	}
	var keys []string
	for _, s := range settings {
		keys = append(keys, s.key)
	}
	if v.path == "" {
		v.r.topLevel = keys
	}
	for _, s := range settings {
		if v.has(s.key) {
			s.read(v.child(s.key))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		if !slices.Contains(keys, key) {
			v.unknown(key, keys)
		}
	}
	return true
}

// unknown reports a key that is not among those that v may have. The key that is meant is
// not reported as missing too: that would hide this mistake where only the first is shown.
func (v value) unknown(key string, allowed []string) {
	if near := nearest(key, allowed); near != "" && !v.has(near) {
		v.r.wrong[joinPath(v.path, near)] = true
	}
	v.child(key).found(func() string {
		if slices.Contains(v.r.topLevel, key) {
			return "unknown key in this table, want it above the first [table] of the file"
		}
		if near := nearest(key, allowed); near != "" {
			return fmt.Sprintf("unknown key, did you mean %q?", near)
		}
		return "unknown key, want one of " + strings.Join(allowed, ", ")
	})
}

// each reads v as a list, element by element, whatever mistakes the others
// have. want names the list.
func (v value) each(want string, read func(value)) {
	list, ok := v.list()
	if !ok {
		v.misfit(want)
	}
	for i, raw := range list {
		read(value{v.r, indexPath(v.path, i), raw})
	}
}

// list returns the elements of v, and whether it is a list.
func (v value) list() ([]any, bool) {
	tables, ok := v.raw.([]map[string]any)
	if !ok {
		list, ok := v.raw.([]any)
		return list, ok
	}
	list := make([]any, len(tables))
	for i, table := range tables {
		list[i] = table
	}
	return list, true
}

// asText is v, as text if it is an integer.
func (v value) asText() value {
	if n, ok := v.raw.(int64); ok {
		v.raw = strconv.FormatInt(n, 10)
	}
	return v
}

// isFirst reports whether v is the first with that text, and adds it to seen, text to
// path. kind is what is the same as an earlier one, each what there may be one of.
func (v value) isFirst(seen map[string]string, text, kind, each string) bool {
	other, ok := seen[text]
	if ok {
		v.mistake("%s is the same %s as %s (line %d), want each %s once", text, kind, other, v.r.lines.line(other), each)
		return false
	}
	seen[text] = v.path
	return true
}

// child returns the value of key, whose raw is nil when v has no such key.
func (v value) child(key string) value {
	table, _ := v.raw.(map[string]any)
	return value{v.r, joinPath(v.path, key), table[key]}
}

// has reports whether v is a table with that key.
func (v value) has(key string) bool {
	table, _ := v.raw.(map[string]any)
	return table[key] != nil
}

// blank reports whether v has no such key, or its value is "" or [].
func (v value) blank(key string) bool {
	table, _ := v.raw.(map[string]any)
	list, isList := table[key].([]any)
	return table[key] == nil || table[key] == "" || isList && len(list) == 0
}

// wrong reports whether a mistake has been found in v. It is for checks that
// compare keys: a key with a mistake is not compared.
func (v value) wrong() bool { return v.r.wrong[v.path] }

// line returns the line of v.
func (v value) line() int { return v.r.lines.line(v.path) }

// mistake adds a mistake about v.
func (v value) mistake(format string, args ...any) {
	v.found(func() string { return fmt.Sprintf(format, args...) })
}

// found adds a mistake about v. text is called at the end of the reading, if at all. That an
// absent key is missing is a mistake once.
func (v value) found(text func() string) {
	if v.raw == nil && v.wrong() {
		return
	}
	if name := presetAt(v.r.preset, v.path); name != "" {
		plain := text
		text = func() string { return fmt.Sprintf("%s; the value comes from ingress = %q", plain(), name) }
	}
	v.r.mistakes.add(v.line(), v.path, text)
	for path := v.path; path != "" && !v.r.wrong[path]; path = parentPath(path) {
		v.r.wrong[path] = true
	}
}

// warning adds a warning about v: the file is valid, and may mean something else
// than the operator expects.
func (v value) warning(format string, args ...any) {
	v.r.warnings = append(v.r.warnings, ConfigError{v.r.file, v.line(), v.path, fmt.Sprintf(format, args...)})
}

// misfit adds the mistake that v is not what is wanted.
func (v value) misfit(want string) { v.mistake("is %s, want %s", describe(v.raw), want) }

// parsed reads a string through parse. want says what parse accepts.
func parsed[T any](dst *T, want string, parse func(string) (T, error)) func(value) {
	return func(v value) {
		s, ok := v.raw.(string)
		got, err := parse(s)
		switch {
		case !ok || errors.Is(err, errMisfit):
			v.misfit(want)
		case err != nil:
			v.mistake("is %s (%s), want %s", describe(s), shorten(printable(err.Error()), maxReason), want)
		default:
			*dst = got
		}
	}
}

// oneOf reads one of a few words.
func oneOf(dst *string, words ...string) func(value) {
	return parsed(dst, "one of "+strings.Join(words, ", "), func(s string) (string, error) {
		if !slices.Contains(words, s) {
			return "", errMisfit
		}
		return s, nil
	})
}

// meaningOf reads one of a few words as what it means.
func meaningOf[T any](dst *T, words []string, meanings ...T) func(value) {
	return func(v value) {
		var word string
		oneOf(&word, words...)(v)
		if i := slices.Index(words, word); i >= 0 {
			*dst = meanings[i]
		}
	}
}

// duration reads a Go duration string from low to high.
func duration(dst *time.Duration, low, high time.Duration) func(value) {
	return durationOf(dst, "a duration in quotes with its unit", time.Nanosecond, low, high)
}

// wholeSeconds reads a duration that the kernel will take as seconds.
func wholeSeconds(dst *time.Duration, low, high time.Duration) func(value) {
	return durationOf(dst, "whole seconds as a duration in quotes with its unit", time.Second, low, high)
}

// durationOf reads a multiple of unit from low to high.
func durationOf(dst *time.Duration, what string, unit, low, high time.Duration) func(value) {
	want := fmt.Sprintf(`%s such as "10s", from %s to %s`, what, shortDuration(low), shortDuration(high))
	return parsed(dst, want, func(s string) (time.Duration, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d < low || d > high || d%unit != 0 {
			return 0, errMisfit
		}
		return d, nil
	})
}

// shortDuration writes d in short: "1h", not "1h0m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// integer reads a whole number from low to high.
func integer[T ~uint8 | ~uint16 | ~uint32 | ~int32](dst *T, low, high T) func(value) {
	return func(v value) {
		n, ok := v.raw.(int64)
		if !ok || n < int64(low) || n > int64(high) {
			v.misfit(fmt.Sprintf("an integer from %d to %d", low, high))
			return
		}
		*dst = T(n)
	}
}

// boolean reads true or false.
func boolean(dst *bool) func(value) {
	return func(v value) {
		b, ok := v.raw.(bool)
		if !ok {
			v.misfit("true or false, without quotes")
			return
		}
		*dst = b
	}
}
