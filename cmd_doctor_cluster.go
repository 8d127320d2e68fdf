// The checks of doctor that are about the cluster: can the controller read what it needs?
//
// Used by cmd*.go. The questions are asked once for all checks, each with a time
// limit. docs/doctor.md has the reason of each check.

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// certificateNotice is how long before its end a certificate, or a token that no
	// program replaces, is worth a warning, and tokenNotice the same for one in a file
	// that a program replaces.
	certificateNotice = 14 * 24 * time.Hour
	tokenNotice       = 2 * time.Minute

	// clockSlack is how far the API server's clock may be from this host's.
	clockSlack = 5 * time.Second

	// objectsPatience is how long the reading of the objects may take.
	objectsPatience = 4 * time.Second
)

// askAPI asks for the checks of the cluster.
func askAPI(ctx context.Context, cfg *Config) *apiAnswers {
	q := cfg.ClusterQuery()
	answers := &apiAnswers{file: q.ClusterFile}
	switch {
	case len(allKeys(&q)) == 0:
		return answers
	case q.ClusterFile != "":
		if answers.fileErr = readableSource(&q); answers.fileErr == nil {
			answers.cluster = savedCluster(cfg)
		}
		return answers
	}
	answers.apiFacts = examineAPI(ctx, &q, time.Now)
	if answers.err != nil || answers.unreached != nil || answers.refused || slices.ContainsFunc(answers.may, func(p apiPermission) bool { return p.err == nil && !p.allowed }) {
		return answers // the reading would fail too
	}
	ctx, cancel := context.WithTimeout(ctx, objectsPatience)
	defer cancel()
	answers.cluster, answers.unread = askCluster(ctx, q)
	return answers
}

// asked is what the checks of the API server judge; nil where there is none.
func (h *doctorHost) asked() *apiFacts {
	if a := h.ask.api().apiFacts; a != nil && a.err == nil {
		return a
	}
	return nil
}

// checkCredentials looks at the kubeconfig, and until when it is valid.
func checkCredentials(h *doctorHost) []finding {
	answers := h.ask.api()
	renew := []string{"install/make-kubeconfig.sh -f -o kubeconfig    # where you are cluster administrator", "# then copy it to " + h.cfg.Kubeconfig + " on this host, mode 0600"}
	if h.cfg.Kubeconfig == "" {
		renew[1] = "# then copy it to this host, mode 0600, and name it in config.toml: kubeconfig"
	}
	switch a := answers.apiFacts; {
	case a == nil && answers.file == "":
		return allWell("no VIP asks the cluster")
	case a == nil && answers.fileErr != nil:
		return []finding{{levelFail, answers.fileErr.Error(), []string{"# write " + answers.file + ", as kubectl get -o json does"}}}
	case a == nil:
		return allWell("the cluster is the file %s", answers.file)
	case a.err != nil:
		return []finding{{levelFail, report(a.err), renew}}
	}
	a := answers.apiFacts
	var found []finding
	if a.refused {
		found = append(found, finding{levelFail, "the API server does not accept those of " + a.credentials, renew})
	}
	now := h.ask.now()
	notice := certificateNotice
	if a.rotated {
		notice = tokenNotice
	}
	found = append(found, judgeEnd("the client certificate of "+a.credentials, a.certificate, now, certificateNotice, renew)...)
	found = append(found, judgeEnd("the token of "+a.credentials, a.token, now, notice, renew)...)
	for _, w := range a.warnings {
		mend := renew // its server or its certificate authority has to be another
		if strings.Contains(w, a.credentials) {
			mend = []string{"chown root:root " + a.credentials + " && chmod 600 " + a.credentials}
		}
		found = append(found, finding{levelWarn, w, mend})
	}
	if found != nil {
		return found
	}
	return allWell("%s%s", a.credentials, validity(a, now))
}

// validity says until when credentials are valid.
func validity(a *apiFacts, now time.Time) string {
	switch {
	case a.program:
		return ", with credentials of a program"
	case !a.certificate.IsZero():
		return fmt.Sprintf(", its certificate is valid for %s", days(a.certificate.Sub(now)))
	case !a.token.IsZero():
		return fmt.Sprintf(", its token is valid for %s", days(a.token.Sub(now)))
	}
	return ", its token has no end"
}

// days is d for people.
func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Truncate(time.Minute).String()
	}
	return numberOf(int(d.Hours()/24), "day")
}

// judgeEnd judges the end of what; nil when it is far away, or there is none.
func judgeEnd(what string, end, now time.Time, notice time.Duration, mend []string) []finding {
	switch left := end.Sub(now); {
	case end.IsZero() || left > notice:
		return nil
	case left > 0:
		return []finding{{levelWarn, fmt.Sprintf("%s ends in %s", what, days(left)), mend}}
	}
	return []finding{{levelFail, fmt.Sprintf("%s ended on %s", what, end.UTC().Format(time.DateTime)), mend}}
}

// checkAPIServer looks whether the API server answers, and at its certificate.
func checkAPIServer(h *doctorHost) []finding {
	a := h.asked()
	if a == nil {
		return nil // the credentials say why
	}
	if a.unreached != nil {
		return []finding{{levelFail, fmt.Sprintf("%s: %s", a.host, report(a.unreached)), []string{
			"curl -k -m 5 https://" + a.host + "/version", "# the kernel's table stays as it is; is the server of the kubeconfig right?"}}}
	}
	if f := judgeEnd("the certificate of "+a.host, a.serverEnds, h.ask.now(), certificateNotice, []string{
		"openssl s_client -connect " + a.host + " </dev/null | openssl x509 -noout -dates", "kubeadm certs renew apiserver    # on each control plane node, then restart its kube-apiserver"}); f != nil {
		return f
	}
	return allWell("%s answers, %s", a.host, a.version)
}

// checkAPIClock compares the API server's clock with this host's.
func checkAPIClock(h *doctorHost) []finding {
	a := h.asked()
	switch {
	case a == nil || !a.clockKnown:
		return nil
	case a.ahead.Abs() <= clockSlack:
		return allWell("less than %s from the API server's", clockSlack)
	}
	side := "behind"
	if a.ahead < 0 {
		side = "ahead of"
	}
	return []finding{{levelWarn, fmt.Sprintf("this host's clock is %s %s the API server's: certificates and tokens are judged by both", a.ahead.Abs().Round(time.Second), side),
		[]string{"timedatectl set-ntp true    # on the host that is wrong", "date -u"}}}
}

// checkPermissions looks for a right that the controller needs and does not have.
func checkPermissions(h *doctorHost) []finding {
	a := h.asked()
	if a == nil || a.may == nil {
		return nil
	}
	denied := make(map[apiPermission][]string) // verbs, by the rest
	var order []apiPermission
	var found []finding
	for _, p := range a.may {
		switch {
		case p.err != nil && len(found) == 0:
			found = append(found, finding{levelWarn, "not known: " + report(p.err), []string{"kubectl auth can-i --list --as USER"}})
		case p.err == nil && !p.allowed:
			rest := apiPermission{resource: p.resource, group: p.group, scope: p.scope}
			if denied[rest] == nil {
				order = append(order, rest)
			}
			denied[rest] = append(denied[rest], p.verb)
		}
	}
	for _, p := range order {
		found = append(found, p.finding(denied[p], a.user))
	}
	if found == nil {
		return allWell("%s, all granted", numberOf(len(a.may), "right"))
	}
	return found
}

// finding is about verbs that p does not have. user is whose credentials they are.
func (p apiPermission) finding(verbs []string, user string) finding {
	what, where, kind := p.resource, " -n "+p.scope.namespace, "role"
	name := "lvs-controller-" + p.resource
	if p.scope.namespace == "" {
		where, kind = "", "clusterrole"
	}
	resource := strings.TrimRight(p.resource+"."+p.group, ".")
	create := fmt.Sprintf("kubectl create%s %s %s --verb=list,watch --resource=%s", where, kind, name, resource)
	if p.scope.name != "" {
		what += " " + p.scope.name
		name += "-" + p.scope.name
		create = fmt.Sprintf("kubectl create%s %s %s --verb=list,watch --resource=%s --resource-name=%s", where, kind, name, resource, p.scope.name)
	}
	if p.scope.namespace != "" {
		what += " in " + p.scope.namespace
	}
	subject := "--user=" + user
	if user == "" {
		subject = "--user=USER"
	}
	if account, is := strings.CutPrefix(user, "system:serviceaccount:"); is {
		subject = "--serviceaccount=" + account
	}
	return finding{levelFail, fmt.Sprintf("%s may not %s %s", orText(user, "the account"), strings.Join(verbs, " and "), what), []string{
		create, fmt.Sprintf("kubectl create%s %sbinding %s --%s=%s %s", where, kind, name, kind, name, subject)}}
}

func orText(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// checkObjects looks for what the configuration names and the cluster does not have, and
// for pods that cannot be real servers.
func checkObjects(h *doctorHost) []finding {
	answers := h.ask.api()
	if answers.unread != nil {
		return []finding{{levelWarn, "not read: " + report(answers.unread), []string{h.call("status")}}}
	}
	if answers.cluster == nil {
		return nil
	}
	w := desired(nil, h.cfg, answers.cluster, nil, newMemory(), h.ask.now())
	var found []finding
	for _, warning := range w.Warnings {
		_, subject, _ := strings.Cut(warning.Subject, "/")
		kind, _, _ := strings.Cut(subject, "/")
		f := finding{levelWarn, warning.Text, []string{h.call("check") + "    # then compare it with the cluster"}}
		if commands, level := objectRemedy(h.cfg, warning.Subject, warningKind(kind)); commands != nil {
			f.level, f.commands = level, commands
		}
		found = append(found, f)
	}
	if found == nil {
		pods := 0
		for _, list := range answers.cluster.Pods {
			pods += len(list)
		}
		return allWell("%s selected, each can be a real server; all ConfigMaps and Services are there", numberOf(pods, "pod"))
	}
	return found
}

// objectRemedy is what mends a warning of one kind.
func objectRemedy(cfg *Config, subject string, kind warningKind) (commands []string, l level) {
	name, _, _ := strings.Cut(subject, "/")
	i := slices.IndexFunc(cfg.VIPs, func(v VIP) bool { return v.Name == name })
	if i < 0 {
		return nil, levelOK
	}
	q := cfg.VIPs[i].PodQuery()
	where := "-n " + q.Namespace
	if q.Namespace == "" || cfg.VIPs[i].Namespaces != nil {
		where = "-A"
	}
	if q.Service != "" {
		switch kind {
		case warnService, warnServicePort, warnSelector, warnHostNetwork, warnNothingServes:
			return []string{fmt.Sprintf("kubectl get services %s %s -o yaml", where, q.Service),
				fmt.Sprintf("kubectl get endpointslices %s -l %s -o wide", where, q.Selector)}, serviceLevel(kind)
		}
	}
	switch kind {
	case warnSelector:
		return []string{fmt.Sprintf("kubectl get pods %s --show-labels", where), "# then in config.toml, in this [[vip]]: selector and namespace"}, levelFail
	case warnHostNetwork, warnHostPort:
		return []string{fmt.Sprintf("kubectl get pods %s -l %s -o wide", where, shellWord(q.Selector)),
			"# in the ingress controller's manifest: hostNetwork: true; or in config.toml: host_ports = true"}, levelWarn
	case warnConfigMap:
		return []string{fmt.Sprintf("kubectl get configmaps %s", where), "# then in config.toml, in this [[vip]]: tcp_services and udp_services"}, levelWarn
	case warnGateway, warnListener:
		return []string{"kubectl get gateways.gateway.networking.k8s.io -A -o yaml    # status.listeners has the reasons", "# then in config.toml, in this [[vip]]: gateways, gateway_selector or gateway_class"}, levelWarn
	case warnNothingServes:
		return []string{fmt.Sprintf("kubectl get pods %s -l %s -o wide", where, shellWord(q.Selector))}, levelFail
	}
	return nil, levelOK
}

// serviceLevel is how much a warning about a Service matters.
func serviceLevel(kind warningKind) level {
	if kind == warnServicePort || kind == warnHostNetwork {
		return levelWarn
	}
	return levelFail
}

// shellWord quotes a text for a shell, where it has to be.
func shellWord(text string) string {
	if plainWord.MatchString(text) && !strings.ContainsAny(text, "[]") {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}
