#!/bin/sh
# Prepares a node as a real server for direct routing, or undoes it, where the
# lvs-controller binary is not installed. It does what `lvs-controller
# realserver` does: each VIP as a host address on lo, and ARP settings on the
# uplink so that only the director answers for the VIP.
#
# usage: realserver.sh start|stop|status VIP[,VIP...] [UPLINK]
#
# UPLINK is the device that answers ARP for the node; default: the device of
# the default route. Nothing lasts beyond a reboot: call it at every boot, from
# a unit, rc.local or /etc/network/if-up.d. It needs a POSIX shell, ip (of
# iproute2 or BusyBox) and root. Exit code of status: 0 all in place, 1 not.
#
# STATE remembers the prepared VIPs and the settings as they were; PROC is for
# containers that see the node's kernel settings in another place.
set -eu

STATE=${STATE:-/run/lvs-controller/realserver.state}
PROC=${PROC:-/proc/sys}

# The settings of the uplink, NAME:VALUE. arp_ignore=1: do not answer for
# addresses of other devices. arp_announce=2: do not ask in their name.
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

# on_lo VIP tells whether lo has the address, of whatever prefix length.
on_lo() {
	if is_ipv6 "$1"; then family=-6; else family=-4; fi
	ip -o $family addr show dev lo to "$1" | grep -q .
}

add() {
	if is_ipv6 "$1"; then
		# Deprecated: never chosen as a source address. BusyBox knows no nodad;
		# lo does no duplicate address detection anyway.
		ip -6 addr add "$1/128" dev lo preferred_lft 0
	else
		# Scope host: never chosen as a source address, in ARP neither.
		ip -4 addr add "$1/32" dev lo scope host label lo:lvs
	fi
}

remove() {
	if is_ipv6 "$1"; then
		ip -6 addr del "$1/128" dev lo
	else
		ip -4 addr del "$1/32" dev lo
	fi
}

# default_device prints the device of the default route, IPv4's before IPv6's.
# `ip` lists the lowest metric first.
default_device() {
	{
		ip -4 route show default
		ip -6 route show default
	} | awk '{ for (i = 1; i < NF; i++) if ($i == "dev") { print $(i + 1); exit } }'
}

# serves NAME HAVE WANTED tells whether a value will do. arp_ignore=2 is
# stricter than 1.
serves() {
	[ "$2" = "$3" ] || [ "$1=$2" = arp_ignore=2 ]
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

start() {
	changed=
	# The settings come first: a VIP that is on lo for a moment without them
	# is answered for. They are for IPv4; neighbour discovery does not answer
	# for addresses of other devices.
	for setting in ${uplink:+$SETTINGS}; do
		path=$PROC/net/ipv4/conf/$uplink/${setting%:*}
		want=${setting#*:}
		have=$(cat "$path")
		if serves "${setting%:*}" "$have" "$want"; then continue; fi
		grep -qF "setting $path " "$STATE" 2>/dev/null || remember "setting $path $have $want"
		echo "$want" >"$path"
		echo "$path: $have -> $want"
		changed=yes
	done
	for vip in $vips; do
		remember "vip $vip"
		if on_lo "$vip"; then continue; fi
		add "$vip"
		echo "added $vip on lo"
		changed=yes
	done
	[ -n "$changed" ] || echo "already in place"
}

stop() {
	changed=
	for vip in $vips; do
		if on_lo "$vip"; then
			remove "$vip"
			echo "removed $vip on lo"
			changed=yes
		fi
		forget "vip $vip"
	done
	# The settings go back with the last IPv4 VIP, unless another hand has
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
				echo "$path left at $have: it was changed by another hand"
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
	for setting in ${uplink:+$SETTINGS}; do
		path=$PROC/net/ipv4/conf/$uplink/${setting%:*}
		have=$(cat "$path")
		if serves "${setting%:*}" "$have" "${setting#*:}"; then continue; fi
		echo "$path is $have, want ${setting#*:}"
		missing=yes
	done
	for vip in $vips; do
		if on_lo "$vip"; then continue; fi
		echo "$vip is missing on lo"
		missing=yes
	done
	if [ -n "$missing" ]; then return 1; fi
	echo "already in place"
}

case $# in
2 | 3) ;;
*) usage ;;
esac
action=$1
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
# uplink stays empty where there is nothing to set on it.
uplink=
if [ -n "$ipv4" ] && [ "$action" != stop ]; then
	uplink=${3:-$(default_device)}
	[ -n "$uplink" ] || die "there is no default route: name the uplink"
	[ -d "$PROC/net/ipv4/conf/$uplink" ] || die "there is no device $uplink"
fi

case $action in
start | stop | status) "$action" ;;
*) usage ;;
esac
