// image writes the controller as an OCI image into a tar: one image for each platform,
// with nothing in it but the binary.
//
//	image -version V -revision R -date RFC3339 -out FILE amd64=PATH arm64=PATH
//
// Called by packaging/build. It needs no daemon and no registry. The same input gives the
// same bytes: every time in it is the date.
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// program is the path of the controller in the image, without the first slash.
const program = "usr/sbin/lvs-controller"

// facts are what the image says of itself.
type facts struct {
	version, revision string
	date              time.Time
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var f facts
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.StringVar(&f.version, "version", "", "`version` of the controller")
	fs.StringVar(&f.revision, "revision", "", "`commit` of the source")
	date := fs.String("date", "", "`date` of the commit, RFC 3339")
	out := fs.String("out", "", "`file` to write")
	if err := fs.Parse(args); err != nil {
		return err
	}
	var err error
	if f.date, err = time.Parse(time.RFC3339, *date); err != nil {
		return fmt.Errorf("-date: %w", err)
	}
	f.date = f.date.UTC()
	if *out == "" || fs.NArg() == 0 {
		return fmt.Errorf("-out and at least one PLATFORM=PATH are needed")
	}

	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arg := range fs.Args() {
		arch, path, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%s: want PLATFORM=PATH", arg)
		}
		img, err := f.image(arch, path)
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch},
		}})
	}
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	all, err := layout.Write(dir, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	// podman and docker take the name of the image from this annotation.
	if err := all.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": f.version})); err != nil {
		return err
	}
	return f.pack(dir, *out)
}

// image returns the image of one processor.
func (f facts) image(arch, path string) (v1.Image, error) {
	layer, err := f.layer(path)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: f.date}, CreatedBy: "make release", Comment: "the controller alone",
	}})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: f.date}
	config.Config.Entrypoint = []string{"/" + program}
	config.Config.Labels = map[string]string{
		"org.opencontainers.image.title":    "lvs-controller",
		"org.opencontainers.image.version":  f.version,
		"org.opencontainers.image.revision": f.revision,
		"org.opencontainers.image.created":  f.date.Format(time.RFC3339),
	}
	return mutate.ConfigFile(img, config)
}

// layer returns the layer with the program at path and the directories above it.
func (f facts) layer(path string) (v1.Layer, error) {
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for dir := range strings.SplitSeq("usr/ usr/sbin/ etc/ etc/lvs-controller/ run/ run/lvs-controller/ var/ var/lib/ var/lib/lvs-controller/", " ") {
		if err := w.WriteHeader(f.header(dir, tar.TypeDir, 0o755, 0)); err != nil {
			return nil, err
		}
	}
	if err := w.WriteHeader(f.header(program, tar.TypeReg, 0o755, int64(len(binary)))); err != nil {
		return nil, err
	}
	if _, err := w.Write(binary); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// header is that of a file of root with the date.
func (f facts) header(name string, kind byte, mode, size int64) *tar.Header {
	return &tar.Header{Typeflag: kind, Name: name, Mode: mode, Size: size, ModTime: f.date, Format: tar.FormatUSTAR}
}

// pack writes the files of dir, in the order of their names, into the tar at out.
func (f facts) pack(dir, out string) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return w.WriteHeader(f.header(name+"/", tar.TypeDir, 0o755, 0))
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(f.header(name, tar.TypeReg, 0o644, int64(len(content)))); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, b.Bytes(), 0o644)
}
