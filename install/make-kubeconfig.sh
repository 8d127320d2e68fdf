#!/bin/sh
# Makes the director's kubeconfig: applies rbac.yaml, or with -S rbac-service.yaml, and
# with -g rbac-gateways.yaml, with kubectl's current context, waits for the token, and writes
# the token and the CA into a file that only its owner can read. Run it where you are cluster
# administrator, then copy the file to the director as /etc/lvs-controller/kubeconfig.
set -eu

namespace=ingress-nginx
tcp='tcp-services'
udp='udp-services'
service=
gateway=
server=
output=kubeconfig
force=
install=$(dirname "$0")
# Seconds to wait for the token; the controller manager makes it.
wait=${WAIT_SECONDS:-30}

usage() {
	cat <<TXT
usage: $0 [-n NAMESPACE] [-t TCP] [-u UDP] [-g GATEWAY] [-s URL] [-o FILE] [-f]
       $0 [-n NAMESPACE] -S SERVICE [-g GATEWAY] [-s URL] [-o FILE] [-f]

  -n NAMESPACE  of the ingress controller's pods and ConfigMaps ($namespace)
  -t TCP        name of the TCP services ConfigMap ($tcp)
  -u UDP        name of the UDP services ConfigMap ($udp)
  -S SERVICE    name of the Service that a VIP has as service: no right to read pods
  -g GATEWAY    NAMESPACE/NAME of a Gateway whose ports the director takes (none)
  -s URL        of the API server as the director reaches it (kubectl's own)
  -o FILE       to write ($output)
  -f            overwrite FILE
TXT
}

die() {
	echo "make-kubeconfig: $*" >&2
	exit 1
}

# name refuses what is not a Kubernetes object name.
name() {
	case $2 in
	'' | *[!a-z0-9.-]*) die "-$1: $2 is not a name" ;;
	esac
}

while getopts n:t:u:S:g:s:o:fh option; do
	case $option in
	n) namespace=$OPTARG ;;
	t) tcp=$OPTARG ;;
	u) udp=$OPTARG ;;
	S) service=$OPTARG ;;
	g) gateway=$OPTARG ;;
	s) server=$OPTARG ;;
	o) output=$OPTARG ;;
	f) force=yes ;;
	h)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
done
shift $((OPTIND - 1))
if [ $# -gt 0 ]; then
	usage >&2
	exit 2
fi
name n "$namespace"
name t "$tcp"
name u "$udp"
manifest=$install/rbac.yaml
if [ -n "$service" ]; then
	name S "$service"
	manifest=$install/rbac-service.yaml
fi
if [ -n "$gateway" ]; then
	name g "${gateway%%/*}"
	name g "${gateway#*/}"
fi
if [ -e "$output" ] && [ -z "$force" ]; then
	die "$output is there already; -f overwrites it"
fi

if [ -z "$server" ]; then
	server=$(kubectl config view --minify --output 'jsonpath={.clusters[0].cluster.server}')
	[ -n "$server" ] || die "kubectl has no current cluster; name the API server with -s"
fi

{
	sed -e "s/namespace: ingress-nginx/namespace: $namespace/" \
		-e "s/\[tcp-services, udp-services\]/[$tcp, $udp]/" \
		-e "s/\[ingress-nginx-controller\]/[$service]/" "$manifest"
	if [ -n "$gateway" ]; then
		echo ---
		sed -e "s/namespace: edge/namespace: ${gateway%%/*}/" -e "s/\[edge\]/[${gateway#*/}]/" \
			-e "s/namespace: ingress-nginx/namespace: $namespace/" "$install/rbac-gateways.yaml"
	fi
} | kubectl apply -f -

# field prints one field of the token Secret, still base64.
field() {
	kubectl --namespace "$namespace" get secret lvs-controller --output "jsonpath={.data.$1}"
}

waited=0
until token=$(field token) && [ -n "$token" ]; do
	[ "$waited" -lt "$wait" ] || die "the token did not appear within $wait s: is the controller manager running?"
	sleep 1
	waited=$((waited + 1))
done
token=$(echo "$token" | base64 -d)
ca=$(field 'ca\.crt')

# Written beside the final place first: the file is never half-written or readable
# for others.
umask 077
fresh=$output.new.$$
trap 'rm -f "$fresh"' EXIT
cat >"$fresh" <<TXT
apiVersion: v1
kind: Config
clusters:
  - name: cluster
    cluster:
      server: $server
      certificate-authority-data: $ca
users:
  - name: lvs-controller
    user:
      token: $token
contexts:
  - name: lvs-controller
    context:
      cluster: cluster
      user: lvs-controller
      namespace: $namespace
current-context: lvs-controller
TXT
mv "$fresh" "$output"
echo "wrote $output for the API server $server"
