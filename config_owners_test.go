package main

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Marks that directors of any version must agree on.
func TestAllocateMarksIsStable(t *testing.T) {
	got := allocateMarks(MarkRange{First: 0x1000, Count: 0x1000}, []GroupName{
		{"edge", "80/tcp,443/tcp"}, {"edge", "all"}, {"mail", "all"}, {"", ""}, {"a", "bc"}, {"ab", "c"},
	})
	want := map[GroupName]uint32{
		{"edge", "80/tcp,443/tcp"}: 4681,
		{"edge", "all"}:            4431,
		{"mail", "all"}:            5137,
		{"", ""}:                   6111,
		{"a", "bc"}:                5411,
		{"ab", "c"}:                6247,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("marks (-want +got):\n%s", diff)
	}
}

func TestAllocateMarksProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, groups := drawGroups(t, 0)
		marks := allocateMarks(r, groups)
		if len(marks) != len(groups) {
			t.Fatalf("%d marks for %d groups", len(marks), len(groups))
		}
		used := make(map[uint32]GroupName)
		homes := make(map[uint32]int)
		for g, mark := range marks {
			if mark < r.First || mark-r.First >= r.Count {
				t.Fatalf("mark %d of %v is outside %+v", mark, g, r)
			}
			if other, ok := used[mark]; ok {
				t.Fatalf("%v and %v have the same mark %d", g, other, mark)
			}
			used[mark] = g
			homes[g.home(r)]++
		}
		for g, mark := range marks {
			if home := g.home(r); homes[home] == 1 && mark != home {
				t.Fatalf("%v has mark %d, but no other group has its home %d", g, mark, home)
			}
		}
		shuffled := rapid.Permutation(append(slices.Clone(groups), groups...)).Draw(t, "order")
		if again := allocateMarks(r, shuffled); !maps.Equal(again, marks) {
			t.Fatalf("another order, other marks: %v, %v", marks, again)
		}
	})
}

// A group that comes changes the marks only of those it collides with: the
// ones that want its home, and one that was put there because its own home was
// taken.
func TestAllocateMarksWhenAGroupComes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, groups := drawGroups(t, 1)
		before := allocateMarks(r, groups)
		newcomer := GroupName{"new", "group"}
		after := allocateMarks(r, append(groups, newcomer))
		taken := slices.Collect(maps.Values(before))
		for _, g := range groups {
			home := g.home(r)
			if before[g] == home && home != newcomer.home(r) && after[g] != home {
				t.Fatalf("%v was at home and lost it to a group with another home", g)
			}
			if !slices.Contains(taken, after[newcomer]) && after[newcomer] == newcomer.home(r) && before[g] != after[g] {
				t.Fatalf("the newcomer's mark was free, but %v went from %d to %d", g, before[g], after[g])
			}
		}
	})
}
