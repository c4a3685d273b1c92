#!/usr/bin/env bash
# A Docker daemon as that of a GitLab service: it has a network, a /run and a /tmp of its own, and is reached over TCP with TLS.
#
#   elsewhere.sh start FOLDER   FOLDER/certs holds ca.pem, cert.pem and key.pem; images go to FOLDER/data
#   elsewhere.sh stop FOLDER    end it, with its containers and its network
#
# It is host 10.99.77.2, and this host is 10.99.77.1 to it.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
FOLDER=$2
NAME=cluster-init-test
PID=$FOLDER/dockerd.pid

stop() {
	local pid try
	if [[ -f $PID ]]; then
		pid=$(<"$PID")
		if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == dockerd ]]; then
			kill "$pid"
			for ((try = 0; try < 240; try++)); do
				kill -0 "$pid" 2>/dev/null || break
				sleep .25
			done
		fi
		rm -f "$PID"
	fi
	[[ ! -e /run/netns/$NAME ]] || ip netns delete $NAME
	! ip link show ci-elsewhere >/dev/null 2>&1 || ip link delete ci-elsewhere
}

# shellcheck disable=SC2016 # The variables are those of the shell that is started.
start() {
	stop
	ip netns add $NAME
	ip link add ci-elsewhere type veth peer name eth0 netns $NAME
	ip address add 10.99.77.1/24 dev ci-elsewhere
	ip link set ci-elsewhere up
	ip -n $NAME address add 10.99.77.2/24 dev eth0
	ip -n $NAME link set eth0 up
	ip -n $NAME link set lo up
	mkdir -p "$FOLDER/data"
	install -m 755 "$ROOT/tools/parts/node/rootfs/runc" "$FOLDER/runc"
	# Not `ip netns exec`: it would take the control groups away with /sys.
	setsid nsenter --net=/run/netns/$NAME unshare --mount --propagation private bash -c '
		set -e
		mount -t tmpfs tmpfs /run
		mount -t tmpfs tmpfs /tmp
		exec dockerd --host unix:///var/run/docker.sock --host tcp://0.0.0.0:2376 --tlsverify --tlscacert "$1/certs/ca.pem" \
			--tlscert "$1/certs/cert.pem" --tlskey "$1/certs/key.pem" --data-root "$1/data" --pidfile "$1/dockerd.pid" \
			--add-runtime "cluster-init=$1/runc" --default-runtime cluster-init' dockerd "$FOLDER" \
		>"$FOLDER/dockerd.log" 2>&1 </dev/null &
}

"$1"
