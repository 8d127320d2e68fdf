// The pod of install/realserver-daemonset.yaml on a node of the lab: a container of its
// command, with the files, mounts and capabilities that the manifest gives it, as a runtime
// makes one. What is not made is the filter of system calls (seccompProfile).

package director

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"lvs-controller/test/lab"
)

// daemonSet is what the kubelet and a runtime read of a DaemonSet.
type daemonSet struct {
	Metadata struct{ Namespace, Name string }
	Spec     struct {
		Template struct {
			Spec struct {
				HostNetwork  bool              `json:"hostNetwork"`
				NodeSelector map[string]string `json:"nodeSelector"`
				Containers   []podContainer    `json:"containers"`
				Volumes      []podVolume       `json:"volumes"`
				// GraceSeconds is the time between SIGTERM and SIGKILL.
				GraceSeconds int `json:"terminationGracePeriodSeconds"`
			} `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
}

type podContainer struct {
	Command        []string `json:"command"`
	ReadinessProbe struct {
		Exec struct {
			Command []string `json:"command"`
		} `json:"exec"`
	} `json:"readinessProbe"`
	SecurityContext struct {
		RunAsUser                *int  `json:"runAsUser"`
		AllowPrivilegeEscalation *bool `json:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool  `json:"readOnlyRootFilesystem"`
		Privileged               bool  `json:"privileged"`
		Capabilities             struct{ Add, Drop []string }
	} `json:"securityContext"`
	VolumeMounts []struct {
		Name, MountPath, SubPath string
		ReadOnly                 bool
	} `json:"volumeMounts"`
}

type podVolume struct {
	Name      string                 `json:"name"`
	ConfigMap *struct{ Name string } `json:"configMap"`
	HostPath  *struct{ Path string } `json:"hostPath"`
}

// imageProgram is where the image of a release has the binary.
const imageProgram = "/usr/sbin/lvs-controller"

// daemonSetManifest is the manifests of install/: their texts, the DaemonSet, and the data of
// the ConfigMap.
func daemonSetManifest(t *testing.T) (text, vips string, set daemonSet, data map[string]string) {
	t.Helper()
	for name, text := range map[string]*string{"realserver-daemonset.yaml": &text, "realserver-vips.yaml": &vips} {
		b, err := os.ReadFile(installed(name))
		lab.Must(t, err)
		*text = string(b)
	}
	for doc := range strings.SplitSeq(text+"\n---\n"+vips, "\n---\n") {
		var object struct {
			Kind string
			Data map[string]string
		}
		lab.Must(t, yaml.Unmarshal([]byte(doc), &object))
		switch object.Kind {
		case "DaemonSet":
			lab.Must(t, yaml.Unmarshal([]byte(doc), &set))
		case "ConfigMap":
			data = object.Data
		}
	}
	return text, vips, set, data
}

// nodePod is the DaemonSet's pod on one node.
type nodePod struct {
	*testing.T
	node    *lab.Host
	set     daemonSet
	dir     string
	volumes int // versions of the ConfigMap's volume
	process *lab.Process
}

// newNodePod prepares the folders of the pod, without its process.
func newNodePod(t *testing.T, node *lab.Host, set daemonSet, data map[string]string) *nodePod {
	t.Helper()
	p := &nodePod{T: t, node: node, set: set, dir: t.TempDir()}
	for _, name := range []string{"root", "run", "volume"} {
		lab.Must(t, os.Mkdir(filepath.Join(p.dir, name), 0o755))
	}
	for _, v := range set.Spec.Template.Spec.Volumes {
		if (v.ConfigMap == nil) == (v.HostPath == nil) {
			t.Fatalf("volume %s is neither a ConfigMap nor a folder of the node", v.Name)
		}
	}
	p.mountData(data)
	return p
}

// container is the only one of the pod.
func (p *nodePod) container() *podContainer {
	p.Helper()
	if n := len(p.set.Spec.Template.Spec.Containers); n != 1 {
		p.Fatalf("%d containers, want 1", n)
	}
	return &p.set.Spec.Template.Spec.Containers[0]
}

// mountData brings data of the ConfigMap to the node as the kubelet does: a link to the folder
// of a version is replaced.
func (p *nodePod) mountData(data map[string]string) {
	p.Helper()
	p.volumes++
	volume, version := filepath.Join(p.dir, "volume"), fmt.Sprintf("..%d", p.volumes)
	lab.Must(p.T, os.Mkdir(filepath.Join(volume, version), 0o755))
	for key, value := range data {
		lab.Must(p.T, os.WriteFile(filepath.Join(volume, version, key), []byte(value), 0o644))
		if err := os.Symlink("..data/"+key, filepath.Join(volume, key)); !errors.Is(err, os.ErrExist) {
			lab.Must(p.T, err)
		}
	}
	link := filepath.Join(volume, "..data")
	lab.Must(p.T, os.Symlink(version, link+"_tmp"))
	lab.Must(p.T, os.Rename(link+"_tmp", link))
}

// start starts the pod's process.
func (p *nodePod) start() {
	p.Helper()
	p.process = p.node.StartIn(p.contain, p.container().Command...)
}

// ready runs the readiness probe in a container with the same limits.
func (p *nodePod) ready() error {
	p.Helper()
	probe := p.node.StartIn(p.contain, p.container().ReadinessProbe.Exec.Command...)
	if err := probe.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, probe.Log())
	}
	return nil
}

// stop ends the pod as the kubelet does, which kills what does not end by itself.
func (p *nodePod) stop() {
	p.Helper()
	began := time.Now()
	err := p.process.Signal(syscall.SIGTERM)
	grace := time.Duration(p.set.Spec.Template.Spec.GraceSeconds) * time.Second
	if took := time.Since(began); err != nil || took > grace {
		p.Errorf("the pod ends after %s, in %s of grace: %v\n%s", took, grace, err, p.process.Log())
	}
}

// log is what the process has written.
func (p *nodePod) log() string { return p.process.Log() }

// contain makes the calling thread the container's: what it starts then is inside.
func (p *nodePod) contain() error {
	c := p.container()
	root := filepath.Join(p.dir, "root")
	if s := c.SecurityContext; s.Privileged || s.RunAsUser == nil || *s.RunAsUser != 0 || !p.set.Spec.Template.Spec.HostNetwork {
		return errors.New("not a pod of root on the network of its host, without privileges")
	}
	err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", root, "tmpfs", 0, "mode=0755"))
	if err != nil {
		return err
	}
	bind := func(from, to string, readOnly bool) error {
		err := unix.Mount(from, to, "", unix.MS_BIND, "")
		if err == nil && readOnly {
			err = unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
		return err
	}
	inside := func(path string) string { return filepath.Join(root, path) }
	for _, dir := range []string{"proc", "sys", "dev", filepath.Dir(imageProgram)} {
		err = errors.Join(err, os.MkdirAll(inside(dir), 0o755))
	}
	for _, file := range []string{"/dev/null", imageProgram} {
		err = errors.Join(err, os.WriteFile(inside(file), nil, 0o755))
	}
	// Without privileges, a runtime makes what has the kernel's settings read-only.
	err = errors.Join(err, bind("/dev/null", inside("/dev/null"), false), bind(controller(), inside(imageProgram), true),
		unix.Mount("proc", inside("proc"), "proc", 0, ""), bind(inside("proc/sys"), inside("proc/sys"), true),
		unix.Mount("sysfs", inside("sys"), "sysfs", unix.MS_RDONLY, ""))
	for _, m := range c.VolumeMounts {
		i := slices.IndexFunc(p.set.Spec.Template.Spec.Volumes, func(v podVolume) bool { return v.Name == m.Name })
		if i < 0 || m.SubPath != "" {
			return fmt.Errorf("mount %s: no such volume, or a part of it (%q)", m.Name, m.SubPath)
		}
		from := filepath.Join(p.dir, "volume")
		if p.set.Spec.Template.Spec.Volumes[i].HostPath != nil {
			from = filepath.Join(p.dir, "run")
		}
		err = errors.Join(err, os.MkdirAll(inside(m.MountPath), 0o755), bind(from, inside(m.MountPath), m.ReadOnly))
	}
	if err == nil && c.SecurityContext.ReadOnlyRootFilesystem {
		err = unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, "mode=0755")
	}
	return errors.Join(err, unix.Chroot(root), unix.Chdir("/"), c.limit())
}

// limit takes from the calling thread what the container may not do.
func (c *podContainer) limit() error {
	capabilities := c.SecurityContext.Capabilities
	if !slices.Equal(capabilities.Drop, []string{"ALL"}) || !slices.Equal(capabilities.Add, []string{"NET_ADMIN"}) {
		return fmt.Errorf("capabilities %+v, want NET_ADMIN alone", capabilities)
	}
	const keep = uint32(1 << unix.CAP_NET_ADMIN)
	for number := uintptr(0); number <= unix.CAP_LAST_CAP; number++ {
		if number == unix.CAP_NET_ADMIN {
			continue
		}
		// EINVAL: this kernel does not have it.
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, number, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	if allowed := c.SecurityContext.AllowPrivilegeEscalation; allowed != nil && !*allowed {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: keep, Permitted: keep}}
	return unix.Capset(&header, &data[0])
}
