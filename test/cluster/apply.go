// Applying manifests, so that tests run under the very RBAC rules that are
// shipped. Called by tests. It reads only as much of a manifest as it needs to
// find the object's path; the API server parses the rest, strictly, and refuses
// an object that does not match its path.

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// manifestHead is what names an object.
type manifestHead struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
}

// Apply creates or updates the objects of a manifest: JSON or block-style YAML,
// documents separated by "---" lines. ns is the namespace of objects that belong
// into one and do not say which.
func (c *Client) Apply(ctx context.Context, ns, manifest string) error {
	for _, doc := range splitManifest(manifest) {
		head, err := parseHead(doc)
		if err != nil {
			return fmt.Errorf("apply: %w", err)
		}
		if err := c.applyOne(ctx, ns, head, doc); err != nil {
			return fmt.Errorf("apply %s %s: %w", head.Kind, head.Metadata.Name, err)
		}
	}
	return nil
}

// applyOne applies one document.
func (c *Client) applyOne(ctx context.Context, ns string, head manifestHead, doc string) error {
	if head.Metadata.Namespace != "" {
		ns = head.Metadata.Namespace
	}
	path, err := c.objectPath(ctx, ns, head)
	if err != nil {
		return err
	}
	query := url.Values{
		"fieldManager":    {"test"},
		"force":           {"true"},
		"fieldValidation": {"Strict"},
	}
	ctx, cancel := context.WithTimeout(ctx, requestPatience)
	defer cancel()
	return c.send(ctx, http.MethodPatch, path+"?"+query.Encode(), typeApply, []byte(doc), nil)
}

// objectPath asks the API server which resource a kind is, and returns the
// object's path.
func (c *Client) objectPath(ctx context.Context, ns string, head manifestHead) (string, error) {
	group := "/apis/" + head.APIVersion
	if head.APIVersion == "v1" {
		group = "/api/v1"
	}
	var resources struct {
		Resources []struct {
			Name       string `json:"name"`
			Kind       string `json:"kind"`
			Namespaced bool   `json:"namespaced"`
		} `json:"resources"`
	}
	if err := c.Get(ctx, group, &resources); err != nil {
		return "", err
	}
	for _, r := range resources.Resources {
		if r.Kind != head.Kind || strings.Contains(r.Name, "/") {
			continue // another kind, or a subresource
		}
		if r.Namespaced {
			group += "/namespaces/" + ns
		}
		return group + "/" + r.Name + "/" + head.Metadata.Name, nil
	}
	return "", fmt.Errorf("%s has no such kind", head.APIVersion)
}

// splitManifest returns the documents of a manifest that are more than comments.
func splitManifest(manifest string) []string {
	var docs []string
	var doc strings.Builder
	content := false
	flush := func() {
		if content {
			docs = append(docs, doc.String())
		}
		doc.Reset()
		content = false
	}
	for line := range strings.Lines(manifest) {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(line, "---") {
			flush()
			continue
		}
		content = content || text != "" && !strings.HasPrefix(text, "#")
		doc.WriteString(line)
	}
	flush()
	return docs
}

// parseHead finds what names the object of a document.
func parseHead(doc string) (manifestHead, error) {
	var head manifestHead
	if strings.HasPrefix(strings.TrimSpace(doc), "{") {
		if err := json.Unmarshal([]byte(doc), &head); err != nil {
			return head, fmt.Errorf("manifest: %w", err)
		}
	} else {
		parseYAMLHead(doc, &head)
	}
	if head.APIVersion == "" || head.Kind == "" || head.Metadata.Name == "" {
		return head, errors.New("manifest without apiVersion, kind and metadata.name")
	}
	return head, nil
}

// parseYAMLHead reads the top-level keys, and those right below metadata, of
// block-style YAML. What it gets wrong the API server refuses.
func parseYAMLHead(doc string, head *manifestHead) {
	section, indent := "", ""
	for line := range strings.Lines(doc) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		value, _, _ = strings.Cut(value, " #")
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		space := line[:len(line)-len(strings.TrimLeft(line, " "))]
		if space == "" {
			section, indent = key, ""
			switch key {
			case "apiVersion":
				head.APIVersion = value
			case "kind":
				head.Kind = value
			}
			continue
		}
		if indent == "" {
			indent = space // the depth of the section's own keys
		}
		if section != "metadata" || space != indent {
			continue
		}
		switch key {
		case "name":
			head.Metadata.Name = value
		case "namespace":
			head.Metadata.Namespace = value
		}
	}
}
