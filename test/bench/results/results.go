// Package results is how measurements travel from the benchmarks, which run in
// a virtual machine, to the program that prints them: one JSON object a line.
//
// The TestBench… tests append to a file; test/bench reads it and looks for what
// its tables show.
package results

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
)

// Params are the sizes at which something was measured, by name.
type Params map[string]int

// Result is one thing measured in one way.
type Result struct {
	Name    string    `json:"name"` // what: "program", "join" …
	Way     string    `json:"way"`  // whose doing it: "ours", "floor", a peer's name
	Params  Params    `json:"params,omitempty"`
	Unit    string    `json:"unit"`
	Value   float64   `json:"value"` // the median of Samples
	Samples []float64 `json:"samples"`
	Note    string    `json:"note,omitempty"`
}

// New makes a result out of samples, of which there is at least one.
func New(name, way string, params Params, unit string, samples ...float64) Result {
	return Result{Name: name, Way: way, Params: params, Unit: unit, Value: Percentile(samples, 50), Samples: samples}
}

// Percentile is the smallest sample that at least p percent do not exceed.
func Percentile(samples []float64, p int) float64 {
	s := slices.Sorted(slices.Values(samples))
	return s[max(0, (len(s)*p+99)/100-1)]
}

// Append adds r to the file at path.
func Append(path string, r Result) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("result %s of %s: %w", r.Name, r.Way, err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(b, '\n')); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// Set is all results of a run.
type Set []Result

// Read reads files that Append wrote.
func Read(paths ...string) (Set, error) {
	var all Set
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(bytes.NewReader(b))
		lines.Buffer(nil, len(b)+1)
		for lines.Scan() {
			var r Result
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			all = append(all, r)
		}
	}
	return all, nil
}

// Find returns what was measured under these names; ok is false when it was
// not.
func (s Set) Find(name, way string, params Params) (r Result, ok bool) {
	for _, r := range s {
		if r.Name == name && r.Way == way && maps.Equal(r.Params, params) {
			return r, true
		}
	}
	return Result{}, false
}

// Values are the different values that a parameter has under name, rising.
func (s Set) Values(name, param string) []int {
	found := make(map[int]bool)
	for _, r := range s {
		if v, has := r.Params[param]; has && r.Name == name {
			found[v] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
