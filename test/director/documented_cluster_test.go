// The commands of the documentation that a cluster administrator gives: a real kubectl and
// a real API server, on this machine.

package director

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lvs-controller/test/cluster"
	"lvs-controller/test/lab"
)

// clusterStep is one line of a page, and what comes of it.
type clusterStep struct {
	line string
	with []string // pairs: what is another word here
	// before and after are no lines of the page: what the page takes for granted, and what
	// shows that the line did what it says.
	before, after string
	want          string // a regular expression that the output matches
}

const (
	clusterHead = `kubeconfig = "kubeconfig"
interface = "eth0"
[[vip]]
name = "edge"
addresses = ["10.135.22.77"]
`
	// diffCaptured compares captured.json with an empty table.
	diffCaptured = `lvs-controller diff -config %s.toml -cluster-file captured.json -table saved.txt >changes || test $? = 3; cat changes; grep -F '%s' changes`
)

// asAccount asks the API server for a right of the account whose kubeconfig was written.
const asAccount = `kubectl --kubeconfig kubeconfig auth can-i `

// clusterSteps are in the order of a life: rights for the directors, the node end, and
// what `diff` is given.
var clusterSteps = []clusterStep{
	{line: "install/make-kubeconfig.sh -s https://10.135.22.10:6443 -o kubeconfig", with: []string{quickAPI, "$SERVER"}, want: `wrote kubeconfig for the API server https://127\.0\.0\.1:`,
		after: asAccount + "watch pods -n ingress-nginx && " + asAccount + "list configmaps/tcp-services -n ingress-nginx && ! " + asAccount + "list nodes && rm kubeconfig"},
	{line: "sed '/^# ---$/,$s/^# //' install/rbac.yaml | kubectl apply -f -", want: `clusterrole\.rbac\.authorization\.k8s\.io/lvs-controller-nodes created`,
		after: "kubectl auth can-i watch nodes --as system:serviceaccount:ingress-nginx:lvs-controller"},
	{line: "make-kubeconfig.sh -n NAMESPACE -S SERVICE", with: []string{"make-", "install/make-", "NAMESPACE", "shop", "SERVICE", "web"}, want: `^wrote kubeconfig `,
		after: asAccount + "watch endpointslices.discovery.k8s.io -n shop && " + asAccount + "list services/web -n shop && ! " + asAccount + "list pods -n shop && rm kubeconfig"},
	{line: "install/make-kubeconfig.sh -n envoy-gateway-system -g edge/web", want: `^wrote kubeconfig `,
		after: asAccount + "watch pods -n envoy-gateway-system && " + asAccount + "list gateways.gateway.networking.k8s.io/web -n edge && rm kubeconfig"},
	{line: "kubectl apply -f install/realserver-daemonset.yaml", want: `daemonset\.apps/realserver created`, after: "kubectl get daemonset -n lvs-controller realserver"},
	{line: "kubectl apply -f install/realserver-vips.yaml", want: `configmap/realserver created`, after: "kubectl get configmap -n lvs-controller realserver -o yaml | grep -w 10.135.22.77"},
	{line: "kubectl label node node-a lvs-controller/node=true", want: `node/node-a labeled`, after: "kubectl get nodes -l lvs-controller/node=true -o name | grep -x node/node-a"},

	{line: "kubectl get pods,configmaps -A -o json > captured.json", after: fmt.Sprintf(diffCaptured, "pods", "+ 10.135.22.31 ")},
	{line: "kubectl get pods,configmaps,nodes -A -o json", with: []string{"-o json", "-o json > captured.json"}, before: `echo 'follow_nodes = true' >>pods.toml; kubectl cordon node-a`,
		after: fmt.Sprintf(diffCaptured, "pods", "80/tcp") + "; ! grep -F 10.135.22.31 changes"},
	{line: "kubectl get services,endpointslices -A -o json", with: []string{"-o json", "-o json > captured.json"}, after: fmt.Sprintf(diffCaptured, "service", " 8443/tcp")},
	{line: "kubectl get pods,configmaps,gateways,listenersets -A -o json", with: []string{"-o json", "-o json > captured.json"}, after: fmt.Sprintf(diffCaptured, "gateways", " 9000/tcp")},
}

// A cluster administrator's commands do what the pages say, with a real kubectl.
func TestClusterDocumentedCommands(t *testing.T) {
	of(t, "cluster")
	if _, err := exec.LookPath("kubectl"); err != nil {
		t.Fatal("needs kubectl, of Debian's package kubernetes-client: ", err)
	}
	dir := t.TempDir()
	c, err := cluster.Start(t.Context(), cluster.Options{BinDir: os.Getenv("LVS_KUBE_BIN"), DataDir: filepath.Join(dir, "cluster")})
	lab.Must(t, err)
	t.Cleanup(func() { lab.Must(t, c.Stop()) })
	e := &e2e{rig: &rig{T: t, dir: dir}, plane: &plane{admin: c.Admin()}, namespace: "edge"}
	e.fillCluster()
	e.playTokenController(c.CAPEM(), "ingress-nginx", "shop", "envoy-gateway-system")

	e.write("admin", string(c.Kubeconfig("", c.AdminToken())))
	e.write("saved.txt", "")
	e.write("pods.toml", clusterHead+"ports = [80]\nnamespace = \"ingress-nginx\"\n")
	e.write("service.toml", clusterHead+"service = \"shop/web\"\n")
	e.write("gateways.toml", clusterHead+"ports = [80]\nnamespace = \"ingress-nginx\"\n"+gatewayPorts("edge/web")+"\n")
	lab.Must(t, os.Symlink(installed("."), filepath.Join(dir, "install")))
	lab.Must(t, os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	lab.Must(t, os.Symlink(controller(), filepath.Join(dir, "bin", "lvs-controller")))
	for _, s := range clusterSteps {
		e.asAdministrator(c.URL(""), s)
	}
}

// asAdministrator runs a step with the administrator's kubeconfig.
func (e *e2e) asAdministrator(server string, s clusterStep) {
	e.Helper()
	run := func(what, script string) string {
		e.Helper()
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir = e.dir
		cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(e.dir, "admin"), "HOME="+e.dir, "SERVER="+server,
			"PATH="+filepath.Join(e.dir, "bin")+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			e.Errorf("%s%s: %v\n%s", what, script, err, out)
		}
		return string(out)
	}
	run("before: ", s.before)
	began := time.Now()
	out := run("", strings.NewReplacer(s.with...).Replace(s.line))
	if !regexp.MustCompile("(?m)" + s.want).MatchString(out) {
		e.Errorf("%s: want %q\n%s", s.line, s.want, out)
	}
	e.Logf("%s, %.1f s:\n%s", s.line, time.Since(began).Seconds(), out[:min(len(out), 1000)])
	run("after: ", s.after)
}

// fillCluster creates what the pages speak of: a pod on a node, a Service and a Gateway.
func (e *e2e) fillCluster() {
	e.Helper()
	ctx := e.Context()
	for _, name := range []string{"ingress-nginx", "shop", "envoy-gateway-system", "edge"} {
		lab.Must(e.T, e.admin.CreateNamespace(ctx, name))
	}
	lab.Must(e.T, e.admin.Create(ctx, "/api/v1/nodes", map[string]any{"metadata": map[string]any{"name": "node-a"}}, nil))
	address := "10.135.22.31"
	lab.Must(e.T, e.admin.CreatePod(ctx, "ingress-nginx", "ingress-a", "node-a", ingressLabels, true, []string{address}))
	lab.Must(e.T, e.admin.SetPodStatus(ctx, "ingress-nginx", "ingress-a", true, address))
	ports := servicePorts("tls 8443")
	lab.Must(e.T, e.admin.SetService(ctx, "shop", "web", ports))
	lab.Must(e.T, e.admin.SetEndpointSlice(ctx, "shop", "web", "web-1", ports, []cluster.Object{endpoint("ingress-a", "node-a", address, "ready")}))
	e.installGatewayAPI()
	e.setGateway("web", nil, "http:HTTP:9000")
	e.program("web", "http")
}

// playTokenController writes the tokens that the controller manager would, into the
// Secrets of the accounts in the namespaces.
func (e *e2e) playTokenController(ca []byte, namespaces ...string) {
	ctx, stop := context.WithCancel(e.Context())
	done := make(chan struct{})
	e.Cleanup(func() { stop(); <-done })
	go func() {
		defer close(done)
		for left := namespaces; len(left) > 0 && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
			var missing []string
			for _, namespace := range left {
				path := "/api/v1/namespaces/" + namespace + "/secrets/lvs-controller"
				token, err := e.admin.ServiceAccountToken(ctx, namespace, "lvs-controller", time.Hour)
				if err == nil {
					data := map[string]any{"token": base64.StdEncoding.EncodeToString([]byte(token)), "ca.crt": base64.StdEncoding.EncodeToString(ca)}
					err = e.admin.Patch(ctx, path, map[string]any{"data": data}, nil)
				}
				if err != nil { // not created yet
					missing = append(missing, namespace)
				}
			}
			left = missing
		}
	}()
}
