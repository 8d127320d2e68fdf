// The status while config.toml is wrong and the API is away.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lvs-controller/test/lab"
)

// statusArguments has the child process of TestStatusOfABrokenFile run the program.
const statusArguments = "LVS_TEST_STATUS_ARGUMENTS"

// While config.toml holds a mistake and the API is away, status says both at once. The
// controller and the command are processes of their own.
func TestStatusOfABrokenFile(t *testing.T) {
	if args := os.Getenv(statusArguments); args != "" {
		os.Exit(run(context.Background(), strings.Split(args, "\n"), os.Stdout, os.Stderr))
	}
	skipShort(t)
	ns, dir := newNetns(t), t.TempDir()
	program := func(args ...string) *exec.Cmd {
		cmd := exec.Command("ip", "netns", "exec", string(ns), os.Args[0], "-test.run=^TestStatusOfABrokenFile$")
		cmd.Env = append(os.Environ(), statusArguments+"="+strings.Join(args, "\n"))
		return cmd
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, kubeconfigFor("https://127.0.0.1:1", nil, "t"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("listen = \"\"\nmanage_sysctls = false\nstate_dir = %q\ncache_dir = %q\nkubeconfig = %q\n[[vip]]\nname = \"edge\"\naddresses = [\"10.0.0.1\"]\nports = [80]\n", dir, dir, kubeconfig)
	write := func(more string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text+more), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	controller := program("run", "-config", file)
	if err := controller.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = controller.Process.Signal(syscall.SIGTERM); _ = controller.Wait() })
	socket := socketPath(dir)
	var st status
	ask := func() string {
		out, err := program("status", "-socket", socket, "-o", "json").Output()
		if err == nil {
			err = json.Unmarshal(out, &st)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	}
	lab.Within(t, 30*time.Second, func() string {
		if why := ask(); why != "" {
			return why
		}
		if !slices.ContainsFunc(st.Cluster, func(s StreamState) bool { return s.LastError != "" }) {
			return "the API is not noticed to be away"
		}
		return ""
	})
	write("drain = 7\n")
	lab.Within(t, 30*time.Second, func() string {
		if why := ask(); why != "" || st.Config.Wrong == "" {
			return "the mistake is not noticed: " + why
		}
		return ""
	})
	// The start of the test binary is taken off, and the least of five is what the command
	// needs itself: a busy machine adds to each.
	least := func(args ...string) (processor, wall time.Duration, out []byte, err error) {
		processor, wall = time.Hour, time.Hour
		for range 5 {
			begun, cmd := time.Now(), program(args...)
			out, err = cmd.Output()
			processor, wall = min(processor, processorTime(cmd)), min(wall, time.Since(begun))
		}
		return processor, wall, out, err
	}
	start, _, _, _ := least("version")
	for _, args := range [][]string{{"-socket", socket}, {"-config", file}} {
		used, took, out, err := least(append([]string{"status"}, args...)...)
		used -= start
		t.Logf("status %s took %s, with %s of the processor", args[0], took.Round(time.Millisecond), used.Round(time.Millisecond))
		screen, _, _ := strings.Cut(string(out), "REAL SERVER")
		words := strings.Join(strings.Fields(screen), " ") // long lines are wrapped
		if err != nil || !strings.HasPrefix(words, "config file on disk is wrong: "+file+":10: vip[0].drain: ") {
			t.Errorf("%v, %q", err, words)
		}
		if strings.Count(screen, "\n") > 20 || !strings.Contains(words, "cluster: pods ingress-nginx ") || !strings.Contains(words, "connection refused") {
			t.Errorf("the API is not on the first screen:\n%s", screen)
		}
		// The wall clock counts other programs too, and the race detector, whose tests are
		// short, makes the processor's time another.
		if took > 5*time.Second || used > 100*time.Millisecond && !testing.Short() {
			t.Errorf("took %s, with %s of the processor, want 100ms", took, used)
		}
	}
	// Without a controller the file's own mistake comes first all the same.
	_ = controller.Process.Signal(syscall.SIGTERM)
	_ = controller.Wait()
	cmd := program("status", "-config", file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, _ := cmd.Output()
	if !strings.HasPrefix(stderr.String()+string(out), "config file on disk is wrong: "+file+":10: ") {
		t.Errorf("without a controller: %q, stderr %q", out, stderr.String())
	}
}

func processorTime(c *exec.Cmd) time.Duration {
	return c.ProcessState.UserTime() + c.ProcessState.SystemTime()
}
