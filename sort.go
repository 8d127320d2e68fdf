// Sorts lists of any type by one compiled algorithm. Each instance of slices.SortFunc
// takes 12 to 21 KB of the binary; with some forty types that is 3 % of it.
//
// Used by lvs.go, rtnl_address.go, table_listing.go, kube*.go, config*.go,
// genl_dump.go, conflict*.go, health*.go, desired*.go, state.go, host*.go,
// reconcile*.go, http*.go and cmd*.go. Pure; no I/O.

package main

import (
	"iter"
	"slices"
	"sort"
)

// sortBy sorts list in the order of compare, which returns a number below 0 when a comes
// before b. Equal elements may change places.
func sortBy[T any](list []T, compare func(a, b T) int) {
	sort.Slice(list, func(i, j int) bool { return compare(list[i], list[j]) < 0 })
}

// stableBy is sortBy that keeps the order of equal elements.
func stableBy[T any](list []T, compare func(a, b T) int) {
	sort.SliceStable(list, func(i, j int) bool { return compare(list[i], list[j]) < 0 })
}

// sortedBy collects all of seq in the order of compare.
func sortedBy[T any](seq iter.Seq[T], compare func(a, b T) int) []T {
	list := slices.Collect(seq)
	sortBy(list, compare)
	return list
}

// including adds those of items to list that it does not have. The lists are short, and a
// copy in each caller would be large.
//
//go:noinline
func including[T comparable](list []T, items ...T) []T {
	for _, item := range items {
		if !slices.Contains(list, item) {
			list = append(list, item)
		}
	}
	return list
}
