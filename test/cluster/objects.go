// The objects tests are made of: namespaces, pods and their status, ConfigMaps,
// tokens. Called by tests, with the client of an administrator. Each method is
// one or two plain requests; none waits for an effect, and none plays a
// controller's part beyond what its comment says.

package cluster

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Object is any Kubernetes object, or a part of one.
type Object = map[string]any

// Pod is what tests look at of a pod.
type Pod struct {
	Metadata struct {
		Namespace         string            `json:"namespace"`
		Name              string            `json:"name"`
		UID               string            `json:"uid"`
		ResourceVersion   string            `json:"resourceVersion"`
		Labels            map[string]string `json:"labels"`
		DeletionTimestamp *time.Time        `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		NodeName    string `json:"nodeName"`
		HostNetwork bool   `json:"hostNetwork"`
	} `json:"spec"`
	Status struct {
		Phase      string `json:"phase"`
		HostIP     string `json:"hostIP"`
		HostIPs    []IP   `json:"hostIPs"`
		PodIP      string `json:"podIP"`
		PodIPs     []IP   `json:"podIPs"`
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

// IP is one of a pod's addresses.
type IP struct {
	IP string `json:"ip"`
}

// Ready reports whether the pod's Ready condition is True.
func (p *Pod) Ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// PodList is an answer of ListPods.
type PodList struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Items []Pod `json:"items"`
}

// CreateNamespace creates a namespace.
func (c *Client) CreateNamespace(ctx context.Context, name string) error {
	return c.Create(ctx, "/api/v1/namespaces", Object{"metadata": Object{"name": name}}, nil)
}

// CreatePod creates a pod on a node, with one container that has the ports 80
// and 443, on the host too if it uses the host's network. Given hostIPs, a second
// request makes it Running and Ready with these, as SetPodStatus does, but a pod
// with a network of its own gets no podIP. The node needs not exist; without one
// the pod is Pending, and a deletion removes it at once.
func (c *Client) CreatePod(ctx context.Context, ns, name, node string, labels map[string]string, hostNetwork bool, hostIPs []string) error {
	pod := Object{
		"metadata": Object{"name": name, "labels": labels},
		"spec": Object{
			"nodeName":    node,
			"hostNetwork": hostNetwork,
			"containers": []Object{{
				"name":  "ingress",
				"image": "none",
				"ports": []Object{{"containerPort": 80}, {"containerPort": 443}},
			}},
		},
	}
	if err := c.Create(ctx, collection("pods", ns), pod, nil); err != nil {
		return err
	}
	if len(hostIPs) == 0 {
		return nil
	}
	var podIPs []string
	if hostNetwork {
		podIPs = hostIPs
	}
	return c.PatchPodStatus(ctx, ns, name, podStatus(true, hostIPs, podIPs))
}

// SetPodStatus makes a pod Running, and Ready or not, as the kubelet does.
// Given hostIPs become the addresses of host and pod alike, as for a pod on the
// host's network; without any the addresses stay as they are. The same again
// within a second changes nothing, so it makes no watch event.
func (c *Client) SetPodStatus(ctx context.Context, ns, name string, ready bool, hostIPs ...string) error {
	return c.PatchPodStatus(ctx, ns, name, podStatus(ready, hostIPs, hostIPs))
}

// PatchPodStatus merges fields into a pod's status: a phase, or addresses
// SetPodStatus would not set. Lists are replaced.
func (c *Client) PatchPodStatus(ctx context.Context, ns, name string, status Object) error {
	return c.Patch(ctx, item("pods", ns, name)+"/status", Object{"status": status}, nil)
}

// podStatus is the status of a running pod, without addresses if none is given.
func podStatus(ready bool, hostIPs, podIPs []string) Object {
	condition := "False"
	if ready {
		condition = "True"
	}
	status := Object{
		"phase": "Running",
		"conditions": []Object{{
			"type":               "Ready",
			"status":             condition,
			"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
		}},
	}
	// The API wants the first of a list repeated as the single address.
	if len(hostIPs) > 0 {
		status["hostIP"], status["hostIPs"] = hostIPs[0], ipList(hostIPs)
	}
	if len(podIPs) > 0 {
		status["podIP"], status["podIPs"] = podIPs[0], ipList(podIPs)
	}
	return status
}

// ipList is a list of addresses as the API writes it.
func ipList(addrs []string) []IP {
	list := make([]IP, len(addrs))
	for i, addr := range addrs {
		list[i].IP = addr
	}
	return list
}

// GetPod reads a pod.
func (c *Client) GetPod(ctx context.Context, ns, name string) (*Pod, error) {
	pod := new(Pod)
	return pod, c.Get(ctx, item("pods", ns, name), pod)
}

// ListPods reads the pods of a namespace, those a label selector matches if
// that is not empty.
func (c *Client) ListPods(ctx context.Context, ns, selector string) (*PodList, error) {
	query := url.Values{"labelSelector": {selector}}
	list := new(PodList)
	return list, c.Get(ctx, collection("pods", ns)+"?"+query.Encode(), list)
}

// DeletePod deletes a pod. With a nil grace that is the pod's own, 30 s, and
// since no kubelet ends it a pod with a node stays Terminating until it is
// deleted again with grace 0, which removes it at once.
func (c *Client) DeletePod(ctx context.Context, ns, name string, grace *int64) error {
	return c.Delete(ctx, item("pods", ns, name), grace)
}

// SetConfigMap creates a ConfigMap or replaces all of its data.
func (c *Client) SetConfigMap(ctx context.Context, ns, name string, data map[string]string) error {
	configMap := Object{"metadata": Object{"name": name}, "data": data}
	err := c.Put(ctx, item("configmaps", ns, name), configMap, nil)
	if IsStatus(err, http.StatusNotFound) {
		err = c.Create(ctx, collection("configmaps", ns), configMap, nil)
	}
	return err
}

// DeleteConfigMap deletes a ConfigMap.
func (c *Client) DeleteConfigMap(ctx context.Context, ns, name string) error {
	return c.Delete(ctx, item("configmaps", ns, name), nil)
}

// ServiceAccountToken makes a token of an existing service account. The API
// server refuses a lifetime below ten minutes.
func (c *Client) ServiceAccountToken(ctx context.Context, ns, sa string, lifetime time.Duration) (string, error) {
	request := Object{"spec": Object{"expirationSeconds": int64(lifetime.Seconds())}}
	var answer struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	err := c.Create(ctx, item("serviceaccounts", ns, sa)+"/token", request, &answer)
	return answer.Status.Token, err
}

// collection is the path of a core resource in a namespace.
func collection(resource, ns string) string {
	return "/api/v1/namespaces/" + ns + "/" + resource
}

// item is the path of one object of a core resource.
func item(resource, ns, name string) string {
	return collection(resource, ns) + "/" + name
}
