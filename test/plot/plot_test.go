package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

func TestFit(t *testing.T) {
	for _, tt := range []struct {
		name   string
		points []Point
		want   Line
	}{
		{"nothing", nil, Line{}},
		{"one point", []Point{{3, 4}}, Line{Mean: 4}},
		{"two points", []Point{{0, 1}, {2, 5}}, Line{Slope: 2, Mean: 3}},
		{"a line", []Point{{0, 1}, {1, 3}, {2, 5}, {3, 7}}, Line{Slope: 2, Mean: 4}},
		// The residuals are -0.2, 0.6, -0.6 and 0.2, and x has a sum of squares of 5.
		{"noise", []Point{{0, 0}, {1, 1}, {2, 0}, {3, 1}}, Line{Slope: 0.2, Error: math.Sqrt(0.8 / 2 / 5), Mean: 0.5}},
		{"no width", []Point{{1, 1}, {1, 3}, {1, 5}}, Line{Mean: 3}},
	} {
		got := Fit(tt.points)
		if near := func(a, b float64) bool { return math.Abs(a-b) < 1e-12 }; !near(got.Slope, tt.want.Slope) || !near(got.Error, tt.want.Error) || !near(got.Mean, tt.want.Mean) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestSVG(t *testing.T) {
	svg := SVG("A & B", "operations", []Curve{
		{"rows <n>", []Point{{0, 0}, {50_000, 15}, {100_000, 10}}},
		{"empty", nil},
	}, []float64{25_000})
	for _, want := range []string{
		"A &amp; B", "rows &lt;n&gt;", ">100k<",
		`points="90.0,142.0 410.0,74.5 730.0,97.0"`, // the axis ends at 20
		`x1="250.0" x2="250.0"`,
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("%q is missing:\n%s", want, svg)
		}
	}
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRound(t *testing.T) {
	for v, want := range map[float64]float64{0: 0, 1: 1, 1.5: 2, 15: 20, 31: 40, 9.5: 10, 4321: 6000} {
		if got := round(v); got != want {
			t.Errorf("%v: %v, want %v", v, got, want)
		}
	}
}
