package main

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// Errors that were joined are a line each, at any depth; one that says something
// about several is one.
func TestFlatten(t *testing.T) {
	a, b, c := errors.New("a"), errors.New("b"), errors.New("c")
	about := fmt.Errorf("%w (%w)", a, b)
	got := flatten(errors.Join(errors.Join(a, about), nil, c))
	if want := []error{a, about, c}; !slices.Equal(got, want) {
		t.Errorf("flatten gives %v, want %v", got, want)
	}
	if got := flatten(nil); got != nil {
		t.Errorf("flatten of nothing gives %v", got)
	}
}
