#!/usr/bin/env bash
# podman in place of a Docker daemon, on a machine that may have one: with a network, a /run and images of its own.
#
#   podman.sh start FOLDER          its service answers Docker's client; images go to FOLDER/data
#   podman.sh run FOLDER COMMAND    a command beside it
#   podman.sh stop FOLDER           end it, with its network
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
FOLDER=$2
NAME=cluster-init-podman
PID=$FOLDER/podman.pid

service() {
	local pid
	[[ -f $PID ]] || return 1
	pid=$(<"$PID")
	[[ $(cat "/proc/$pid/comm" 2>/dev/null) == podman ]] && echo "$pid"
}

stop() {
	local pid try
	if pid=$(service); then
		kill "$pid"
		for ((try = 0; try < 120; try++)); do
			kill -0 "$pid" 2>/dev/null || break
			sleep .25
		done
	fi
	rm -f "$PID"
	[[ ! -e /run/netns/$NAME ]] || ip netns delete $NAME
}

# It asks for more than a root without CAP_SYS_RESOURCE may give, as its defaults are.
settings() {
	local files processes most
	files=$(ulimit -H -n) processes=$(ulimit -H -u) most=$(</proc/sys/kernel/pid_max)
	[[ $processes != unlimited ]] && ((processes < most)) || processes=$most
	cat <<-T
		[containers]
		default_ulimits = ["nofile=$files:$files", "nproc=$processes:$processes"]
		[engine]
		runtime = "runc"
		[engine.runtimes]
		runc = ["$FOLDER/runc"]
	T
}

# shellcheck disable=SC2016 # The variables are those of the shell that is started.
start() {
	stop
	ip netns add $NAME
	ip -n $NAME link set lo up
	mkdir -p "$FOLDER/data" /var/lib/containers
	install -m 755 "$ROOT/tools/parts/node/rootfs/runc" "$FOLDER/runc"
	settings >"$FOLDER/containers.conf"
	setsid nsenter --net=/run/netns/$NAME unshare --mount --propagation private bash -c '
		set -e
		mount -t tmpfs tmpfs /run
		mount --bind "$1/data" /var/lib/containers
		mkdir -p /run/podman
		ln -s podman/podman.sock /run/docker.sock
		export CONTAINERS_CONF=$1/containers.conf
		echo $$ >"$1/podman.pid"
		exec podman system service --time=0 unix:///run/podman/podman.sock' podman "$FOLDER" \
		>"$FOLDER/podman.log" 2>&1 </dev/null &
}

run() {
	local pid
	pid=$(service)
	CONTAINERS_CONF=$FOLDER/containers.conf exec nsenter --target "$pid" --net --mount --wd="$PWD" -- "${@:2}"
}

case $1 in
run) run "${@:2}" ;;
start | stop) "$1" ;;
esac
