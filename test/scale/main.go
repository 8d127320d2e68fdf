// Command scale computes and measures what docs/scale.md says about many directors.
//
// `make scale` runs the simulation and `make scale-api` the measurement with a real API
// server. Each replaces its part of the document, between two comments, and nothing else.
// The simulation needs no kernel and no network; its seed is printed, and the same seed
// gives the same text. With -sizing it computes the last table with an operator's own
// figures.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var (
		doc    = flag.String("doc", "", "`file` whose part is replaced")
		seed   = flag.Uint64("seed", 1, "`seed` of the simulation")
		short  = flag.Bool("short", false, "few connections and few events")
		api    = flag.Bool("api", false, "measure with a real API server")
		sizing = flag.Bool("sizing", false, "only the table of directors")
		own    = assumed
		o      = apiOptions{pods: 200, events: 400, counts: []int{0, 1, 5, 10, 20}, every: 50 * time.Millisecond, idle: 20 * time.Second}
	)
	flag.StringVar(&o.bin, "bin", ".cache/kube/bin", "`folder` of kube-apiserver and etcd, for -api")
	flag.StringVar(&o.binary, "binary", "lvs-controller", "the `controller`, for -api")
	flag.Float64Var(&own.packet, "packet", own.packet, "`bytes` of a packet from a client, for -sizing")
	flag.Float64Var(&own.cost, "cost", own.cost, "`microseconds` of one core for a packet, for -sizing")
	flag.Float64Var(&own.cores, "cores", own.cores, "`cores` of a director, for -sizing")
	flag.Float64Var(&own.use, "use", own.use, "`share` of the cores and of the line that may be busy, for -sizing")
	flag.Float64Var(&own.line, "line", own.line, "`Gbit/s` of a director's line, for -sizing")
	flag.Float64Var(&own.lifetime, "lifetime", own.lifetime, "mean `seconds` of a connection, for -sizing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *sizing:
		err = own.check()
		if err == nil {
			fmt.Print(own.render())
		}
	case *api:
		if *short {
			o.pods, o.events, o.counts, o.idle = 20, 20, []int{0, 2}, 2*time.Second
		}
		err = writeAPI(ctx, o, *doc)
	default:
		fmt.Printf("scale: seed %d\n", *seed)
		err = publish(*doc, "simulation", simulate(*seed, *short))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func writeAPI(ctx context.Context, o apiOptions, doc string) error {
	runs, err := measureAPI(ctx, o)
	if err != nil {
		return err
	}
	return publish(doc, "api", renderAPI(o, runs))
}

// publish prints a part and, given a document, replaces it there.
func publish(doc, name, text string) error {
	fmt.Print(text)
	if doc == "" {
		return nil
	}
	old, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	fresh, err := replace(old, name, text)
	if err != nil {
		return fmt.Errorf("%s: %w", doc, err)
	}
	return os.WriteFile(doc, fresh, 0o644)
}

// replace puts text between the two comments of a part.
func replace(doc []byte, name, text string) ([]byte, error) {
	begin := fmt.Appendf(nil, "<!-- scale: begin %s -->\n", name)
	end := fmt.Appendf(nil, "<!-- scale: end %s -->\n", name)
	before, rest, ok := bytes.Cut(doc, begin)
	_, after, ok2 := bytes.Cut(rest, end)
	if !ok || !ok2 {
		return nil, fmt.Errorf("the comments of the part %q are missing", name)
	}
	return bytes.Join([][]byte{before, begin, []byte("\n" + text + "\n"), end, after}, nil), nil
}

// check refuses figures that have no answer.
func (s sizing) check() error {
	for _, v := range []float64{s.packet, s.cost, s.cores, s.use, s.line, s.lifetime} {
		if !(v > 0) || math.IsInf(v, 0) {
			return errors.New("every figure must be above 0")
		}
	}
	if s.use > 1 {
		return errors.New("-use is a share, at most 1")
	}
	return nil
}
