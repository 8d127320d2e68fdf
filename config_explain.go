// What each [[vip]] means, as TOML: with the values of its ingress in place of that key.
//
// Used by cmd_check.go. The text reads as the same VIPs. Keys that neither the file nor a
// preset has are not in it: they have the defaults of config.toml.example. It reads the one
// file that it is given, and writes nothing.

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// explainFile returns the VIPs of the file at path as a text with one [[vip]] for each.
func explainFile(path string) (string, error) {
	text, err := readConfigFile(path)
	if err != nil {
		return "", err
	}
	return explainVIPs(path, text)
}

// explainVIPs is explainFile for text, the content of the file at path.
func explainVIPs(path string, text []byte) (string, error) {
	r := newConfigReader(path)
	v, err := r.decode(string(text))
	if err != nil {
		return "", err
	}
	r.config(v) // adds what the presets have
	if err := r.mistakes.err(path); err != nil {
		return "", err
	}
	var b strings.Builder
	vips, _ := v.child("vip").list()
	for i, raw := range vips {
		writeTable(&b, value{&r.tomlFile, indexPath("vip", i), raw}, "[[vip]]", "vip")
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// keyOrder sorts the keys of a [[vip]]: what says which one it is comes first.
func keyOrder(a, b string) int {
	first := func(key string) int { return 1 + slices.Index([]string{"ingress", "addresses", "name"}, key) }
	return cmp.Or(cmp.Compare(first(b), first(a)), cmp.Compare(a, b))
}

// writeTable writes the table v below header, then the tables in it. name is that of v in
// the headers of those.
func writeTable(b *strings.Builder, v value, header, name string) {
	origin := func(v value) string {
		if preset := v.r.preset[v.path]; preset != "" {
			return fmt.Sprintf(" # from ingress = %q", preset)
		}
		return ""
	}
	fmt.Fprintf(b, "%s%s\n", header, origin(v))
	table, _ := v.raw.(map[string]any)
	keys := sortedBy(maps.Keys(table), keyOrder)
	for _, key := range keys {
		child := v.child(key)
		if _, isTable := child.raw.(map[string]any); isTable {
			continue
		}
		if key == "ingress" {
			fmt.Fprintf(b, "# ingress = %s\n", literal(child.raw))
			continue
		}
		fmt.Fprintf(b, "%s = %s%s\n", key, literal(child.raw), origin(child))
	}
	b.WriteString("\n")
	for _, key := range keys {
		child := v.child(key)
		inner, isTable := child.raw.(map[string]any)
		if isTable && (key != "health" || len(inner) > 0) { // empty, it means no probes, as its absence does
			writeTable(b, child, "["+name+"."+key+"]", name+"."+key)
		}
	}
}

// literal is a value as TOML has it on one line.
func literal(raw any) string {
	var elements []string
	switch raw := raw.(type) {
	case string:
		return strconv.Quote(raw) // values without a mistake are printable
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(raw)) {
			elements = append(elements, key+" = "+literal(raw[key]))
		}
		return "{ " + strings.Join(elements, ", ") + " }"
	default:
		list, isList := value{raw: raw}.list()
		if !isList {
			return fmt.Sprint(raw)
		}
		for _, e := range list {
			elements = append(elements, literal(e))
		}
		return "[" + strings.Join(elements, ", ") + "]"
	}
}
