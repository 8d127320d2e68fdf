// The copy of the configuration that was in force last.
//
// Used by cmd.go and main.go. A director whose file has a mistake, or is gone, goes on with what it
// read before; with the copy that is true after a restart and a reboot too. The copy is
// used for the file that it was made of, while that file cannot be used, and for nothing
// else. It knows nothing of what the configuration says.

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"time"
)

// lastGoodFile is where the cache directory has the copy.
func lastGoodFile(cacheDir string) string { return filepath.Join(cacheDir, "config.last-good.toml") }

// lastGoodHead is the first line of a copy of the file at path.
func lastGoodHead(path string) []byte {
	return fmt.Appendf(nil, "# The last good content of %q. lvs-controller starts with it while that file has a mistake.\n", path)
}

// saveLastGood makes text, the content of the file at path, the copy in cacheDir.
func saveLastGood(cacheDir, path string, text []byte) error {
	file := lastGoodFile(cacheDir)
	whole := append(lastGoodHead(path), text...)
	if old, err := readRegular(file, 2*maxConfigSize); err == nil && bytes.Equal(old, whole) {
		return nil
	}
	if err := makeDirectory(cacheDir); err != nil {
		return err
	}
	return replaceFile(file, 0o600, true, func(w io.Writer) error {
		_, err := w.Write(whole)
		return err
	})
}

// cacheDirLine is a line that sets cache_dir. A file with mistakes may have one.
var cacheDirLine = regexp.MustCompile(`(?m)^[ \t]*cache_dir[ \t]*=[ \t]*["'](/[^"'\n]*)["']`)

// loadLastGood returns the copy of the file at path, whose present content is broken (nil:
// it cannot be read), and when it was made. file is where the copy is or should be: in
// the directory that broken names, or else in the default one. Without a copy the error
// is fs.ErrNotExist.
func loadLastGood(path string, broken []byte) (text []byte, file string, saved time.Time, err error) {
	dir := defaultConfig().CacheDir
	if m := cacheDirLine.FindSubmatch(broken); m != nil {
		dir = string(m[1])
	}
	file = lastGoodFile(dir)
	for _, p := range []string{dir, file} {
		if why := writableByOthers(p); why != "" {
			return nil, file, saved, errors.New(why)
		}
	}
	f, info, err := openRegular(file, 2*maxConfigSize)
	if err != nil {
		return nil, file, saved, err
	}
	defer f.Close()
	whole, err := io.ReadAll(io.LimitReader(f, 2*maxConfigSize))
	if err != nil {
		return nil, file, saved, err
	}
	text, ours := bytes.CutPrefix(whole, lastGoodHead(path))
	if !ours {
		return nil, file, saved, fmt.Errorf("it is not of %s", path)
	}
	return text, file, info.ModTime(), nil
}
