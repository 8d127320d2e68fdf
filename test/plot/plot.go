// Package plot draws curves of one measurement each, one below the other, as an SVG, and
// fits straight lines through them.
//
// test/director draws docs/soak.svg with it. It reads nothing and writes no file.
package plot

import (
	"fmt"
	"math"
	"strings"
)

// Point is one sample.
type Point struct{ X, Y float64 }

// Curve is one measurement over the run.
type Curve struct {
	Name   string // with its unit
	Points []Point
}

// Line is the straight line nearest to some points.
type Line struct {
	Slope float64 // Y for each 1 of X
	Error float64 // standard error of Slope; 0 with fewer than three points
	Mean  float64 // of Y
}

// Fit is the line by least squares.
func Fit(points []Point) (l Line) {
	n := float64(len(points))
	if n == 0 {
		return l
	}
	var x, y, xx, xy float64
	for _, p := range points {
		x += p.X / n
		y += p.Y / n
	}
	for _, p := range points {
		xx += (p.X - x) * (p.X - x)
		xy += (p.X - x) * (p.Y - y)
	}
	l.Mean = y
	if xx == 0 {
		return l
	}
	l.Slope = xy / xx
	if n < 3 {
		return l
	}
	rest := 0.0
	for _, p := range points {
		d := p.Y - y - l.Slope*(p.X-x)
		rest += d * d
	}
	l.Error = math.Sqrt(rest / (n - 2) / xx)
	return l
}

// Sizes of a panel, in pixels. Its name is above it, and its numbers are at the left.
const (
	width, height = 640, 90
	left, top     = 90, 30
	pitch         = height + 46
)

// SVG draws curves over the same X from 0 on, each in a panel whose Y begins at 0. marks
// are places on X with a line through all panels.
func SVG(title, xName string, curves []Curve, marks []float64) string {
	most := 1.0
	for _, c := range curves {
		for _, p := range c.Points {
			most = math.Max(most, p.X)
		}
	}
	var b strings.Builder
	all := top + len(curves)*pitch + 24
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", left+width+20, all)
	fmt.Fprintf(&b, "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"%d\" y=\"16\" font-size=\"14\">%s</text>\n", left, escape(title))
	x := func(v float64) float64 { return left + v/most*width }
	for i, c := range curves {
		panel(&b, c, float64(top+i*pitch+22), x)
	}
	for _, m := range marks {
		fmt.Fprintf(&b, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#c33\" stroke-width=\"0.5\"/>\n", x(m), x(m), top+22, all-46)
	}
	for i := range 5 {
		v := most * float64(i) / 4
		fmt.Fprintf(&b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x(v), all-26, short(v))
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n</svg>\n", left+width/2, all-8, escape(xName))
	return b.String()
}

// panel draws one curve with its axis. y is where the panel begins.
func panel(b *strings.Builder, c Curve, y float64, x func(float64) float64) {
	most := 0.0
	for _, p := range c.Points {
		most = math.Max(most, p.Y)
	}
	if most = round(most); most == 0 {
		most = 1
	}
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%.0f\">%s</text>\n", left, y-6, escape(c.Name))
	for _, part := range []float64{0, 0.5, 1} {
		at := y + height*(1-part)
		fmt.Fprintf(b, "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ccc\"/>\n", left, left+width, at, at)
		fmt.Fprintf(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", left-6, at+4, short(most*part))
	}
	b.WriteString("<polyline fill=\"none\" stroke=\"#236\" stroke-width=\"1.5\" points=\"")
	for i, p := range c.Points {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(b, "%.1f,%.1f", x(p.X), y+height*(1-p.Y/most))
	}
	b.WriteString("\"/>\n")
}

// round is the least of 1, 2, 4, 6, 8 and 10 times a power of ten that is not below v.
func round(v float64) float64 {
	if v <= 0 {
		return 0
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, digit := range []float64{1, 2, 4, 6, 8} {
		if v <= digit*power {
			return digit * power
		}
	}
	return 10 * power
}

// short writes a number for an axis.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.3gM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.3gk", v/1e3)
	}
	return fmt.Sprintf("%.4g", v)
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
