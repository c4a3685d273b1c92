#!/usr/bin/env bash
# The straightforward way to a management cluster of containers that manages itself: one command after the other, as a tutorial has them.
#
#   manual-kind.sh BIN REPOSITORIES NODE-IMAGE FOLDER MANAGER-IMAGE...
#
# BIN holds kind, kubectl and clusterctl, REPOSITORIES what clusterctl reads (clusterctl.yaml, and the manifest of the management cluster,
# cluster.yaml); docker has the node image, with Kubernetes' images in it, and the managers' images. FOLDER is empty.
# Prints milliseconds of each step, and of "all". What it made, it leaves to the caller when it fails.
set -euo pipefail
BIN=$1 REPOSITORIES=$2 NODE=$3 FOLDER=$4
shift 4
IMAGES=("$@")
NAME=manual-bootstrap
export CLUSTERCTL_DISABLE_VERSIONCHECK=true

begin=$(date +%s%3N)
step() { # step NAME COMMAND...
	local name=$1 since
	since=$(date +%s%3N)
	shift
	"$@" >>"$FOLDER/log" 2>&1 || {
		tail -n 20 "$FOLDER/log" >&2
		echo "$name failed" >&2
		exit 1
	}
	echo "$name $(($(date +%s%3N) - since))"
}
until_it_does() { # again and again, for two minutes at most
	local end=$((SECONDS + 120))
	until "$@"; do
		((SECONDS < end)) || return 1
		sleep 0.2
	done
}
kubectl() { "$BIN/kubectl" --kubeconfig "$FOLDER/$1.kubeconfig" "${@:2}"; }

create() {
	# The provider starts machines through docker's socket.
	cat >"$FOLDER/kind.yaml" <<-K
		kind: Cluster
		apiVersion: kind.x-k8s.io/v1alpha4
		nodes:
		- role: control-plane
		  image: $NODE
		  extraMounts:
		  - {hostPath: /var/run/docker.sock, containerPath: /var/run/docker.sock}
		kubeadmConfigPatches:
		- |
		  kind: ClusterConfiguration
		  etcd: {local: {imageTag: $ETCD}}
		  dns: {imageTag: $COREDNS}
	K
	"$BIN/kind" create cluster --name $NAME --config "$FOLDER/kind.yaml" --kubeconfig "$FOLDER/bootstrap.kubeconfig"
}
initialize() {
	"$BIN/clusterctl" init --config "$REPOSITORIES/clusterctl.yaml" --kubeconfig "$FOLDER/$1.kubeconfig" --core cluster-api \
		--bootstrap kubeadm --control-plane kubeadm --infrastructure docker --wait-providers
}
available() {
	kubectl "$1" wait --for condition=Available cluster/management-cluster --timeout 10m
	kubectl "$1" wait --for 'jsonpath={.status.phase}=Running' machine --all --timeout 10m
}
give_kubeconfig() {
	(umask 077 && "$BIN/clusterctl" get kubeconfig management-cluster --kubeconfig "$FOLDER/bootstrap.kubeconfig" >"$FOLDER/management.kubeconfig")
}
move() {
	"$BIN/clusterctl" move --config "$REPOSITORIES/clusterctl.yaml" --kubeconfig "$FOLDER/bootstrap.kubeconfig" \
		--to-kubeconfig "$FOLDER/management.kubeconfig"
}

step create create
step load-bootstrap "$BIN/kind" load docker-image --name $NAME "${IMAGES[@]}"
step init-bootstrap initialize bootstrap
# Webhooks answer some moments after their providers are available.
step apply until_it_does kubectl bootstrap apply -f "$REPOSITORIES/cluster.yaml"
step available available bootstrap
step kubeconfig give_kubeconfig
step load-management "$BIN/kind" load docker-image --name management-cluster "${IMAGES[@]}"
step init-management initialize management
step webhooks until_it_does kubectl management apply --dry-run=server -f "$REPOSITORIES/cluster.yaml"
step move move
step available-there available management
step delete "$BIN/kind" delete cluster --name $NAME --kubeconfig "$FOLDER/bootstrap.kubeconfig"
echo "all $(($(date +%s%3N) - begin))"
