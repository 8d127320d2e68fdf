// The last-good Cluster, on disk.
//
// Used by main.go. main.go loads it at start and runs saveSnapshots beside the
// reconcile loop. A director that boots while the API server is away serves
// what it served last, and after a start the mass-removal guard knows which
// pods served before. A file that is cut off, of another version or not ours is
// refused with a log line, and never used in part.

package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"
)

const (
	// snapshotVersion is raised when the file's meaning changes.
	snapshotVersion = 1

	// snapshotPause is the shortest time between two writes. Each is synced to
	// disk, and pods come and go in bursts.
	snapshotPause = 5 * time.Second
)

// The file is lines of JSON, so that neither writing nor reading it holds more
// than one pod at a time: a head; for each query a line and, below a pod query,
// its pods; and at the end the checksum of all that stands before it.
type (
	snapshotHead struct {
		Version int       `json:"lvs_controller_cluster"`
		Source  string    `json:"source"` // Config.ClusterSource
		Saved   time.Time `json:"saved"`
	}
	snapshotLine struct {
		Pods      *PodQuery      `json:"pods,omitempty"`
		Pod       *Pod           `json:"pod,omitempty"`
		ConfigMap *ConfigMapName `json:"configmap,omitempty"`
		Content   *ConfigMap     `json:"content,omitempty"` // of ConfigMap
		Sum       string         `json:"sha256,omitempty"`
	}
)

// snapshotFile is where the cluster cache directory keeps it.
func snapshotFile(cacheDir string) string { return filepath.Join(cacheDir, "cluster.json") }

// writeSnapshot writes c, which came from source, to w.
func writeSnapshot(w io.Writer, c *Cluster, source string, now time.Time) error {
	sum := sha256.New()
	buffered := bufio.NewWriter(w)
	enc := json.NewEncoder(io.MultiWriter(buffered, sum))
	errs := []error{enc.Encode(snapshotHead{snapshotVersion, source, now.UTC()})}
	for q, pods := range c.Pods {
		errs = append(errs, enc.Encode(snapshotLine{Pods: &q}))
		for _, p := range pods {
			errs = append(errs, enc.Encode(snapshotLine{Pod: p}))
		}
	}
	for name, cm := range c.ConfigMaps {
		errs = append(errs, enc.Encode(snapshotLine{ConfigMap: &name, Content: &cm}))
	}
	errs = append(errs, json.NewEncoder(buffered).Encode(snapshotLine{Sum: hex.EncodeToString(sum.Sum(nil))}), buffered.Flush())
	return errors.Join(errs...)
}

// errTornSnapshot means that the file does not end as it was written.
var errTornSnapshot = errors.New("the file is torn or not ours")

// readSnapshot is the inverse of writeSnapshot.
func readSnapshot(r io.Reader) (*Cluster, snapshotHead, error) {
	var (
		c     = &Cluster{Pods: make(map[PodQuery][]*Pod), ConfigMaps: make(map[ConfigMapName]ConfigMap)}
		lines = bufio.NewReader(r)
		sum   = sha256.New()
		head  snapshotHead
		query *PodQuery
	)
	if line, err := lines.ReadBytes('\n'); err != nil || json.Unmarshal(line, &head) != nil {
		return nil, head, errTornSnapshot
	} else if head.Version != snapshotVersion {
		return nil, head, fmt.Errorf("version %d, want %d", head.Version, snapshotVersion)
	} else if !savable(head.Saved) {
		return nil, head, errTornSnapshot
	} else {
		sum.Write(line)
	}
	for {
		text, err := lines.ReadBytes('\n')
		var line snapshotLine
		if err != nil || json.Unmarshal(text, &line) != nil {
			return nil, head, errTornSnapshot
		}
		switch {
		case line.Sum != "":
			if !sealed(line.Sum, sum, lines) {
				return nil, head, errTornSnapshot
			}
			return c, head, nil
		case line.Pods != nil:
			query = line.Pods
			c.Pods[*query] = []*Pod{}
		case line.Pod != nil && query != nil:
			if !all(line.Pod.Addresses, plainAddress) {
				return nil, head, errTornSnapshot
			}
			c.Pods[*query] = append(c.Pods[*query], line.Pod)
		case line.ConfigMap != nil && line.Content != nil:
			c.ConfigMaps[*line.ConfigMap] = *line.Content
		default:
			return nil, head, errTornSnapshot
		}
		sum.Write(text)
	}
}

// sealed reports whether want is the checksum so far and the file ends here.
func sealed(want string, sum hash.Hash, rest *bufio.Reader) bool {
	_, err := rest.ReadByte()
	return err == io.EOF && want == hex.EncodeToString(sum.Sum(nil))
}

// loadSnapshot reads the snapshot below cacheDir and says when it was saved. nil
// means that there is none to use; why, if it is a fault, has been logged.
func loadSnapshot(cacheDir, source string, log *slog.Logger) (*Cluster, time.Time) {
	path := snapshotFile(cacheDir)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}
	}
	var (
		c    *Cluster
		head snapshotHead
	)
	if err == nil {
		defer f.Close()
		c, head, err = readSnapshot(f)
	}
	if err == nil && head.Source != source {
		err = fmt.Errorf("it is of %s, not of %s", head.Source, source)
	}
	if err != nil {
		log.Error("the last-good snapshot of the cluster is not used", "file", path, "err", err)
		return nil, time.Time{}
	}
	return c, head.Saved
}

// saveSnapshots writes each new state of the cluster, with a pause in between,
// until ctx ends. What was unheard of in the last one does not wait for the pause:
// a snapshot that lacks it is half of one. earlier is what is on disk for the
// present configuration: after a restart it stands in for what is unheard. A disk that refuses
// is logged once; the data plane does not depend on it.
func saveSnapshots(ctx context.Context, configs *latest[Config], earlier Cluster, clusters *latest[Cluster], wake <-chan struct{}, log *slog.Logger) error {
	var last *Cluster
	var failing failureLog
	cacheDir, source := configs.Get().CacheDir, configs.Get().ClusterSource()
	unheard := 0 // of what was saved last
	closesGap := func() bool {
		_, n := clusters.Get().filled(configs.Get().ClusterQuery(), Cluster{})
		return n < unheard
	}
	save := func() {
		c := clusters.Get()
		if c == nil || c == last {
			return
		}
		last = c
		cfg := configs.Get()
		if now := cfg.ClusterSource(); now != source {
			source, earlier = now, Cluster{}
		}
		var whole *Cluster
		if whole, unheard = c.filled(cfg.ClusterQuery(), earlier); unheard == 0 {
			earlier = Cluster{}
		}
		err := saveSnapshot(cacheDir, source, whole)
		if begins, _ := failing.note(err); begins {
			log.Error("the last-good snapshot of the cluster cannot be saved", "err", err)
		}
	}
	var pause <-chan time.Time // nil: none
	news := false
	for {
		select {
		case <-ctx.Done():
			save()
			return nil
		case <-wake:
			news = true
		case <-pause:
			pause = nil
		}
		if news && (pause == nil || closesGap()) {
			save()
			news, pause = false, time.After(snapshotPause)
		}
	}
}

// filled is c with what from knows of those things that q asks for and c does
// not know yet; unheard is how many those are.
func (c *Cluster) filled(q ClusterQuery, from Cluster) (whole *Cluster, unheard int) {
	whole = &Cluster{Pods: maps.Clone(c.Pods), ConfigMaps: maps.Clone(c.ConfigMaps)}
	for _, p := range q.Pods {
		if _, known := c.Pods[p]; known {
			continue
		}
		unheard++
		if pods, had := from.Pods[p]; had {
			whole.Pods[p] = pods
		}
	}
	for _, n := range q.ConfigMaps {
		if _, known := c.ConfigMaps[n]; known {
			continue
		}
		unheard++
		if m, had := from.ConfigMaps[n]; had {
			whole.ConfigMaps[n] = m
		}
	}
	return whole, unheard
}

// saveSnapshot writes c whole or not at all, and to the disk itself.
func saveSnapshot(cacheDir, source string, c *Cluster) error {
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return err
	}
	return replaceFile(snapshotFile(cacheDir), 0o600, true, func(w io.Writer) error {
		return writeSnapshot(w, c, source, time.Now())
	})
}
