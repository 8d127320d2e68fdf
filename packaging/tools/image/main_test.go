package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// unpack writes the files of a tar below dir.
func unpack(t *testing.T, r io.Reader, dir string) (names []string) {
	t.Helper()
	for files := tar.NewReader(r); ; {
		h, err := files.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			content, readErr := io.ReadAll(files)
			if readErr != nil {
				t.Fatal(readErr)
			}
			err = os.WriteFile(path, content, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The image is whole by its own digests, has each platform's binary and nothing else, and
// is the same again.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	args := []string{"-version", "v1.2.3", "-revision", "0123", "-date", "2026-11-28T19:00:00Z"}
	for _, arch := range []string{"amd64", "arm64"} {
		path := filepath.Join(dir, arch)
		if err := os.WriteFile(path, []byte("program for "+arch), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var first []byte
	for _, name := range []string{"one.tar", "two.tar"} {
		out := filepath.Join(dir, name)
		if err := run(append(args, "-out", out, "amd64="+filepath.Join(dir, "amd64"), "arm64="+filepath.Join(dir, "arm64"))); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(first, content) {
			t.Error("the second image has other bytes")
		}
		first = content
	}

	unpack(t, bytes.NewReader(first), filepath.Join(dir, "layout"))
	outer, err := layout.ImageIndexFromPath(filepath.Join(dir, "layout"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := outer.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1.2.3" {
		t.Fatalf("%v, %+v", err, manifest)
	}
	index, err := outer.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	if manifest, err = index.IndexManifest(); err != nil || len(manifest.Manifests) != 2 {
		t.Fatalf("%v, %+v", err, manifest)
	}
	for i, arch := range []string{"amd64", "arm64"} {
		d := manifest.Manifests[i]
		if d.Platform == nil || d.Platform.String() != "linux/"+arch {
			t.Errorf("platform %v, want linux/%s", d.Platform, arch)
		}
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != arch || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/usr/sbin/lvs-controller" ||
			config.Config.Labels["org.opencontainers.image.revision"] != "0123" {
			t.Errorf("config %+v", config)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%v, %d layers", err, len(layers))
		}
		r, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(dir, "root-"+arch)
		names := unpack(t, r, root)
		if content, err := os.ReadFile(filepath.Join(root, program)); err != nil || string(content) != "program for "+arch {
			t.Errorf("%s: %v, %q, files %q", arch, err, content, names)
		}
	}
}

// A wrong call says what is wrong and writes nothing.
func TestImageRefuses(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.tar")
	for _, args := range [][]string{
		{"-date", "yesterday", "-out", out, "amd64=x"},
		{"-date", "2026-11-28T19:00:00Z", "-out", out},
		{"-date", "2026-11-28T19:00:00Z", "-out", out, "amd64"},
		{"-date", "2026-11-28T19:00:00Z", "-out", out, "amd64=/no/such/file"},
	} {
		if err := run(args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a file is written")
	}
}
