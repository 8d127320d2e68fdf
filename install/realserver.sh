#!/bin/sh
# Prepares a node as a real server for direct routing or an ipip tunnel, or undoes
# it, where the lvs-controller binary is not installed. It does the same as
# `lvs-controller realserver`: it adds each VIP as a host address on lo, changes the
# ARP settings of the devices towards clients so that only the director answers for the
# VIP, and with TUNNEL=ipip makes a device that unpacks the director's packets.
#
# usage: realserver.sh start|stop|status VIP[,VIP...] [UPLINK]
#
# UPLINK is the only device that gets the ARP settings; default: the device of the
# default route and each other one that is up and may lead to clients. Nothing lasts
# beyond a reboot, and nothing watches the node: call it at every boot and after a device
# was added, from a unit, rc.local or /etc/network/if-up.d. It needs a POSIX shell, ip (of
# iproute2 or, where there is no tunnel, VRF or macvlan, BusyBox) and root.
# Exit code of status: 0 all in place, 1 not.
#
# TUNNEL is ipip or empty; stop removes the tunnel without it.
# STATE is the file with the prepared VIPs and the earlier settings. PROC is for
# containers that have the node's kernel settings in another place.
set -eu

STATE=${STATE:-/run/lvs-realserver/realserver.state}
PROC=${PROC:-/proc/sys}
TUNNEL=${TUNNEL:-}

# The settings of the devices, NAME:VALUE. arp_ignore=1: do not answer for addresses
# of other devices. arp_announce=2: do not use them as the sender of ARP requests.
SETTINGS='arp_ignore:1 arp_announce:2'

die() {
	echo "realserver: $*" >&2
	exit 1
}

usage() {
	echo "usage: $0 start|stop|status VIP[,VIP...] [UPLINK]" >&2
	exit 2
}

is_ipv6() {
	case $1 in
	*:*) return 0 ;;
	*) return 1 ;;
	esac
}

# on DEVICE VIP tells whether the device has the address, of whatever prefix
# length.
on() {
	if is_ipv6 "$2"; then family=-6; else family=-4; fi
	ip -o $family addr show dev "$1" to "$2" 2>/dev/null | grep -q .
}

# add DEVICE VIP adds a host address that is never chosen as a source address: scope host,
# not in ARP either, or deprecated. BusyBox does not know the flags, which only keep a
# route away that the address does not need; lo does no duplicate address detection anyway.
add() {
	if is_ipv6 "$2"; then
		ip -6 addr add "$2/128" dev "$1" preferred_lft 0 nodad noprefixroute 2>/dev/null ||
			ip -6 addr add "$2/128" dev "$1" preferred_lft 0
	else
		ip -4 addr add "$2/32" dev "$1" scope host label "$1:lvs" noprefixroute 2>/dev/null ||
			ip -4 addr add "$2/32" dev "$1" scope host label "$1:lvs"
	fi
	echo "added $2 on $1"
	changed=yes
}

# remove DEVICE VIP removes the address. With another prefix length it is another program's.
remove() {
	if is_ipv6 "$2"; then family=-6 bits=128; else family=-4 bits=32; fi
	ip -o $family addr show dev "$1" to "$2" | grep -q "/$bits " || return 0
	ip $family addr del "$2/$bits" dev "$1"
	echo "removed $2 on $1"
	changed=yes
}

# default_device prints the device of the default route, IPv4's before IPv6's.
# `ip` lists the lowest metric first.
default_device() {
	{
		ip -4 route show default
		ip -6 route show default
	} | awk '{ for (i = 1; i < NF; i++) if ($i == "dev") { print $(i + 1); exit } }'
}

# of_type TYPE prints the devices of a type, with a space around each.
of_type() {
	ip -o link show type "$1" 2>/dev/null | awk '{ sub(/[@:].*/, "", $2); printf " %s ", $2 }'
}

# arp_devices prints the devices on which the node answers ARP for hosts of other
# segments: the default route's, and each one that is up, that no bridge or bond has
# taken (a VRF may have), and that has an address in a subnet or is of a kind that answers
# without one.
# Devices that lead to containers and virtual machines are left out.
arp_devices() {
	first=$(default_device)
	echo "$first"
	vrfs=$(of_type vrf) macvlans=$(of_type macvlan)
	{
		ip -4 -o addr show
		ip -o link show
	} | awk -v vrfs="$vrfs" '
		function taken() {
			for (i = 4; i < NF; i++) if ($i == "master") return !index(vrfs, " " $(i + 1) " ")
			return 0
		}
		$3 == "inet" && !/ scope (host|link) / && $4 ~ "/" && $4 !~ "/32$" { subnet[$2] = 1 }
		$3 ~ /[<,]UP[,>]/ && $3 !~ /LOOPBACK|NOARP|POINTOPOINT/ && !taken() {
			sub(/[@:].*/, "", $2)
			print $2, subnet[$2] ? "subnet" : ""
		}' | while read -r device subnet; do
		case $device in
		"$first" | antrea-gw* | cbr* | cilium* | cni* | docker* | flannel* | incusbr* | kube-bridge* | lxcbr* | lxdbr* | ovn-k8s* | podman* | virbr* | weave*) continue ;;
		esac
		if [ -n "$subnet" ] || [ -e "/sys/class/net/$device/device" ] ||
			grep -qE '^DEVTYPE=(bond|team|vlan|bridge)$' "/sys/class/net/$device/uevent" 2>/dev/null; then
			echo "$device"
			continue
		fi
		case $macvlans in *" $device "*) echo "$device" ;; esac
	done
}

# serves PATH HAVE WANTED tells whether a value is good enough. arp_ignore=2 is
# stricter than 1; without a filter on any device nothing needs to change.
serves() {
	[ "$2" = "$3" ] || case ${1##*/}=$2 in
	arp_ignore=2) ;;
	rp_filter=0) [ "$(cat "$PROC/net/ipv4/conf/all/rp_filter")" = 0 ] ;;
	*) return 1 ;;
	esac
}

# change PATH WANTED gives a setting its value and remembers the one it had.
change() {
	have=$(cat "$1")
	if serves "$1" "$have" "$2"; then return; fi
	grep -qF "setting $1 " "$STATE" 2>/dev/null || remember "setting $1 $have $2"
	echo "$2" >"$1"
	echo "$1: $have -> $2"
	changed=yes
}

# differs PATH WANTED says that a setting has another value, and fails when it
# does not.
differs() {
	have=$(cat "$1" 2>/dev/null) || return 1
	if serves "$1" "$have" "$2"; then return 1; fi
	echo "$1 is $have, want $2"
}

# remember and forget keep lines in the state file, each once.
remember() {
	mkdir -p "${STATE%/*}"
	grep -qxF "$*" "$STATE" 2>/dev/null || echo "$*" >>"$STATE"
}

forget() {
	[ -e "$STATE" ] || return 0
	grep -vxF "$*" "$STATE" >"$STATE.new" || true # no line left is no failure
	mv "$STATE.new" "$STATE"
}

# receiver VIP prints the device that unpacks the tunnel's packets to a VIP: the one
# for every sender (external); else the kernel's default device, if it is in use;
# else ours, which start makes. So a device of another program keeps its packets.
receiver() {
	if is_ipv6 "$1"; then set -- ip6tnl ip6tnl0; else set -- ipip tunl0; fi
	ip -d -o link show type "$1" 2>/dev/null | awk -v ours="lvs-$1" -v own="$2" '
		{ sub(/[@:].*/, "", $2) }
		/ external / { external = $2 }
		$2 == own && $3 ~ /[<,]UP[,>]/ { used = $2 }
		END { print external ? external : used ? used : ours }'
}

is_up() {
	ip -o link show dev "$1" 2>/dev/null | grep -q '[<,]UP[,>]'
}

# wants_address DEVICE tells whether the device needs the VIPs too: a loose
# reverse-path filter drops all on a device without an IPv4 address. Those that a VIP
# brought do not count, because they go with it.
wants_address() {
	case $1 in lvs-*) return 0 ;; esac
	for have in $(ip -4 -o addr show dev "$1" | awk '{ sub("/.*", "", $4); print $4 }'); do
		grep -qxF "tunnel $1 $have" "$STATE" 2>/dev/null || return 1
	done
}

# start_tunnel VIP makes what the VIP needs of a tunnel.
start_tunnel() {
	device=$(receiver "$1")
	remember "tunnel $device $1"
	if ! ip link show dev "$device" >/dev/null 2>&1; then
		ip link add "$device" type "${device#lvs-}" external
		echo "made $device"
		changed=yes
	fi
	if ! is_ipv6 "$1"; then
		change "$PROC/net/ipv4/conf/$device/rp_filter" 2
		if ! on "$device" "$1" && wants_address "$device"; then add "$device" "$1"; fi
	fi
	if ! is_up "$device"; then
		ip link set "$device" up
		echo "brought up $device"
		changed=yes
	fi
}

# stop_tunnel VIP takes away what no other VIP needs of a tunnel.
stop_tunnel() {
	tunnels=$(grep '^tunnel ' "$STATE" 2>/dev/null) || return 0
	while read -r kind device vip_of; do
		[ "$kind $vip_of" = "tunnel $1" ] || continue
		forget "tunnel $device $1"
		if on "$device" "$1"; then remove "$device" "$1"; fi
		case $device in lvs-*) ;; *) continue ;; esac
		if ! grep -qF "tunnel $device " "$STATE" && ip link show dev "$device" >/dev/null 2>&1; then
			ip link del "$device"
			echo "removed $device"
			changed=yes
		fi
	done <<-END
		$tunnels
	END
}

start() {
	changed=
	# The settings come first: without them the node answers ARP for a VIP on lo.
	# They are for IPv4; neighbour discovery does not answer for addresses of other
	# devices.
	for device in $uplinks; do
		for setting in $SETTINGS; do
			change "$PROC/net/ipv4/conf/$device/${setting%:*}" "${setting#*:}"
		done
	done
	for vip in $vips; do
		remember "vip $vip"
		if ! on lo "$vip"; then add lo "$vip"; fi
		if [ -n "$TUNNEL" ]; then start_tunnel "$vip"; fi
	done
	[ -n "$changed" ] || echo "already in place"
}

stop() {
	changed=
	for vip in $vips; do
		if on lo "$vip"; then remove lo "$vip"; fi
		stop_tunnel "$vip"
		forget "vip $vip"
	done
	# A VIP that another program has removed needs nothing any more.
	others=$(awk '$1 == "vip" { print $2 }' "$STATE" 2>/dev/null) || others=
	for vip in $others; do
		if ! on lo "$vip"; then
			stop_tunnel "$vip"
			forget "vip $vip"
		fi
	done
	# The settings go back with the last IPv4 VIP, unless another program has
	# changed them since.
	if [ -e "$STATE" ] && ! grep -q '^vip [0-9.]*$' "$STATE"; then
		while read -r kind path before after; do
			if [ "$kind" != setting ] || [ ! -e "$path" ]; then continue; fi
			have=$(cat "$path")
			if [ "$have" = "$after" ]; then
				echo "$before" >"$path"
				echo "$path: $after -> $before"
				changed=yes
			else
				echo "$path left at $have: another program changed it"
			fi
		done <"$STATE"
		grep -v '^setting ' "$STATE" >"$STATE.new" || true
		mv "$STATE.new" "$STATE"
		[ -s "$STATE" ] || rm -f "$STATE"
	fi
	[ -n "$changed" ] || echo "nothing to undo"
}

status() {
	missing=
	for device in $uplinks; do
		for setting in $SETTINGS; do
			if differs "$PROC/net/ipv4/conf/$device/${setting%:*}" "${setting#*:}"; then missing=yes; fi
		done
	done
	for vip in $vips; do
		if ! on lo "$vip"; then
			echo "$vip is missing on lo"
			missing=yes
		fi
		if [ -z "$TUNNEL" ]; then continue; fi
		device=$(receiver "$vip")
		if ! is_up "$device"; then
			echo "$device is missing or down"
			missing=yes
		elif ! is_ipv6 "$vip"; then
			if differs "$PROC/net/ipv4/conf/$device/rp_filter" 2; then missing=yes; fi
			if ! on "$device" "$vip" && wants_address "$device"; then
				echo "$vip is missing on $device"
				missing=yes
			fi
		fi
	done
	if [ -n "$missing" ]; then return 1; fi
	echo "already in place"
}

case $# in
2 | 3) ;;
*) usage ;;
esac
action=$1
case $TUNNEL in
'' | ipip) ;;
*) die "TUNNEL=$TUNNEL: want ipip; the others need lvs-controller realserver" ;;
esac
vips=$(echo "$2" | tr ',A-F' ' a-f')
[ -n "$vips" ] || usage
ipv4=
for vip in $vips; do
	case $vip in
	*[!0-9a-fA-F.:]*) die "$vip is not an address" ;;
	*:*) ;;
	*) ipv4=yes ;;
	esac
done
# uplinks stays empty where there is nothing to set.
uplinks=
if [ -n "$ipv4" ] && [ "$action" != stop ]; then
	uplinks=${3:-$(arp_devices)}
	[ -n "$uplinks" ] || die "there is no default route: name the uplink"
	for device in $uplinks; do
		[ -d "$PROC/net/ipv4/conf/$device" ] || die "there is no device $device"
	done
fi

case $action in
start | stop | status) "$action" ;;
*) usage ;;
esac
