// The last-good Cluster, on disk.
//
// Used by cmd_doctor_table.go and main*.go. A director that boots while the API
// server is away serves what it served last, and after a start the mass-removal
// guard knows which pods served before. A file that is cut off, of another version
// or not ours is refused with a log line, and never used in part.

package main

import (
	"bufio"
	"bytes"
	"cmp"
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
	"path/filepath"
	"time"
)

const (
	// snapshotVersion is raised when the file's meaning changes.
	snapshotVersion = 1

	// maxSnapshot is the size of the largest file that is read, in bytes: 50,000 pods
	// are 20 MB.
	maxSnapshot = 512 << 20

	// snapshotPause is the shortest time between two writes. Each is synced to
	// disk, and pods come and go in bursts.
	snapshotPause = 5 * time.Second
)

// snapshotHead is the first line of the file. The file is lines of JSON, so that
// neither writing nor reading it needs more than one object in memory at a time: a
// head; for each key a line with the kind's name and, for a key of several objects,
// a line for each; and at the end the checksum of all lines before it.
type snapshotHead struct {
	Version int       `json:"lvs_controller_cluster"`
	Source  string    `json:"source"` // Config.ClusterSource
	Saved   time.Time `json:"saved"`
}

// snapshotSum is the name of the checksum in the last line.
const snapshotSum = "sha256"

// snapshotFile is where the cluster cache directory keeps it.
func snapshotFile(cacheDir string) string { return filepath.Join(cacheDir, "cluster.json") }

// writeSnapshot writes c, which came from source, to w.
func writeSnapshot(w io.Writer, c *Cluster, source string, now time.Time) error {
	sum := sha256.New()
	buffered := bufio.NewWriter(w)
	out := io.MultiWriter(buffered, sum)
	enc := json.NewEncoder(out)
	failed := enc.Encode(snapshotHead{snapshotVersion, source, now.UTC()})
	for _, k := range streamKinds {
		k.save(c, func(query, item any) {
			line := map[string]any{} // is written in the order of the names
			if query != nil {
				line[k.stream] = query
			}
			if item != nil {
				line[k.item] = item
			}
			failed = cmp.Or(failed, enc.Encode(line))
		})
	}
	failed = cmp.Or(failed, enc.Encode(map[string]string{snapshotSum: hex.EncodeToString(sum.Sum(nil))}))
	return cmp.Or(failed, buffered.Flush())
}

// errTornSnapshot means that the file does not end as it was written.
var errTornSnapshot = errors.New("the file is torn or not ours")

// readSnapshot is the inverse of writeSnapshot.
func readSnapshot(r io.Reader) (*Cluster, snapshotHead, error) {
	lines, sum := bufio.NewReader(r), sha256.New()
	var head snapshotHead
	if line, err := lines.ReadBytes('\n'); err != nil || json.Unmarshal(line, &head) != nil {
		return nil, head, errTornSnapshot
	} else if head.Version != snapshotVersion {
		return nil, head, fmt.Errorf("version %d, want %d", head.Version, snapshotVersion)
	} else if !savable(head.Saved) {
		return nil, head, errTornSnapshot
	} else {
		sum.Write(line)
	}
	load := snapshotLoader{cluster: newCluster()}
	var in bytes.Buffer
	dec := json.NewDecoder(&in) // it never reads beyond the end of a whole line
	for {
		text, err := lines.ReadBytes('\n')
		in.Write(text)
		if err != nil || walkObject(dec, func(name string) error { return load.value(name, dec) }) != nil {
			return nil, head, errTornSnapshot
		}
		if load.sum != "" {
			if !sealed(load.sum, sum, lines) {
				return nil, head, errTornSnapshot
			}
			return load.cluster, head, nil
		}
		sum.Write(text)
	}
}

// snapshotLoader takes the named values of a snapshot file, in their order.
type snapshotLoader struct {
	cluster *Cluster
	kind    *streamKind               // of the last key
	item    func(*json.Decoder) error // takes an object of the last key
	sum     string
}

// value reads one value.
func (l *snapshotLoader) value(name string, dec *json.Decoder) (err error) {
	if name == snapshotSum {
		return dec.Decode(&l.sum)
	}
	if l.kind != nil && name == l.kind.item {
		return l.item(dec)
	}
	for _, k := range streamKinds {
		if name == k.stream {
			l.kind = k
			l.item, err = k.load(l.cluster, dec)
			return err
		}
	}
	return errTornSnapshot
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
	f, _, err := openRegular(path, maxSnapshot)
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
// until ctx ends. What was unknown in the last one does not wait for the pause: a
// snapshot that lacks it is incomplete. earlier is what is on disk for the present
// configuration: after a restart it replaces what is unknown. A disk that refuses is
// logged once; the data plane does not depend on it.
func saveSnapshots(ctx context.Context, configs *latest[Config], earlier Cluster, clusters *latest[Cluster], wake <-chan struct{}, log *slog.Logger) error {
	var last *Cluster
	var failing failureLog
	cacheDir, source := configs.Get().CacheDir, configs.Get().ClusterSource()
	unknown := 0 // of what was saved last
	closesGap := func() bool {
		_, n := clusters.Get().filled(configs.Get().ClusterQuery(), Cluster{})
		return n < unknown
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
		if whole, unknown = c.filled(cfg.ClusterQuery(), earlier); unknown == 0 {
			earlier = Cluster{}
		}
		err := saveSnapshot(cacheDir, source, whole)
		if begins, _ := failing.note(err); begins {
			log.Error("the last-good snapshot of the cluster cannot be saved", "err", err)
		}
	}
	var pause <-chan time.Time // nil: none
	changed := false
	for {
		select {
		case <-ctx.Done():
			save()
			return nil
		case <-wake:
			changed = true
		case <-pause:
			pause = nil
		}
		if changed && (pause == nil || closesGap()) {
			save()
			changed, pause = false, time.After(snapshotPause)
		}
	}
}

// filled is what c knows of the keys of q, and what from knows of the others;
// unknown is how many those are.
func (c *Cluster) filled(q ClusterQuery, from Cluster) (whole *Cluster, unknown int) {
	whole = newCluster()
	for _, key := range allKeys(&q) {
		if !key.copyKnown(whole, c) {
			unknown++
			key.copyKnown(whole, &from)
		}
	}
	return whole, unknown
}

// saveSnapshot writes c whole or not at all, and to the disk itself.
func saveSnapshot(cacheDir, source string, c *Cluster) error {
	if err := makeDirectory(cacheDir); err != nil {
		return err
	}
	return replaceFile(snapshotFile(cacheDir), 0o600, true, func(w io.Writer) error {
		return writeSnapshot(w, c, source, time.Now())
	})
}
