package main

import "testing"

func TestParseMicro(t *testing.T) {
	all, err := parseMicro([]byte(`goos: linux
BenchmarkPodEvent/20x50-2   	   77860	     16659 ns/op	   17320 B/op	      26 allocs/op
BenchmarkPodEvent/20x50-2   	   77860	     16661 ns/op	   17320 B/op	      26 allocs/op
BenchmarkSchedule/targets=200-2         	   86798	      44.5 ns/op	         2.000 probes/op	    1460 B/op	       9 allocs/op
PASS
`))
	if err != nil || len(all) != 2 || len(all[0].ns) != 2 || all[1].ns[0] != 44.5 || all[1].bytes[0] != 1460 || all[1].objects[0] != 9 {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := parseMicro([]byte("BenchmarkTorn-2   	   77860	     16659 ns/op\n")); err == nil {
		t.Error("a line without its bytes is taken")
	}
}
