#!/usr/bin/env bash
# The straightforward way to a bootstrap control plane of plain processes: one thing after the other, as a shell script does it.
#
#   manual-local.sh BIN MANIFESTS FOLDER
#
# BIN holds the programs, MANIFESTS the CustomResourceDefinitions of Flux and Cluster API (crds.yaml) in one stream, FOLDER is empty.
# Prints milliseconds from nothing to "api" (the API server is ready) and "all" (three Flux and three Cluster API controllers are healthy).
set -euo pipefail
BIN=$1 MANIFESTS=$2 FOLDER=$3
pids=()
finish() {
	# Without etcd the API server would wait for minutes; nothing of this is needed any more.
	((${#pids[@]})) && kill -KILL "${pids[@]}" 2>/dev/null
	wait 2>/dev/null
}
trap finish EXIT
now() { date +%s%3N; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
start() {
	local name=$1
	shift
	"$@" >"$FOLDER/$name.log" 2>&1 &
	pids+=($!)
}
await() { # await NAME COMMAND...: again and again, for a minute at most
	local name=$1 end=$((SECONDS + 60))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < end)) || { echo "$name is not there after a minute" >&2; tail -5 "$FOLDER"/*.log >&2; exit 1; }
		sleep 0.1
	done
}

cd "$FOLDER"
begin=$(now)
etcd_port=$(free_port) peer_port=$(free_port) api_port=$(free_port)
openssl genrsa -out sa.key 2048 2>/dev/null
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 1 2>/dev/null
openssl req -newkey rsa:2048 -nodes -keyout admin.key -out admin.csr -subj /O=system:masters/CN=admin 2>/dev/null
openssl x509 -req -in admin.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out admin.crt -days 1 2>/dev/null
start etcd "$BIN/etcd" --data-dir "$FOLDER/etcd" --listen-client-urls "http://127.0.0.1:$etcd_port" \
	--advertise-client-urls "http://127.0.0.1:$etcd_port" --listen-peer-urls "http://127.0.0.1:$peer_port" \
	--initial-advertise-peer-urls "http://127.0.0.1:$peer_port" --initial-cluster "default=http://127.0.0.1:$peer_port"
start kube-apiserver "$BIN/kube-apiserver" --etcd-servers "http://127.0.0.1:$etcd_port" --secure-port "$api_port" \
	--bind-address 127.0.0.1 --cert-dir "$FOLDER/apiserver" --client-ca-file ca.crt --authorization-mode RBAC \
	--service-account-key-file sa.key --service-account-signing-key-file sa.key \
	--service-account-issuer https://kubernetes.default.svc --service-cluster-ip-range 10.96.0.0/16
cat >kubeconfig <<K
apiVersion: v1
kind: Config
current-context: x
clusters: [{name: x, cluster: {server: "https://127.0.0.1:$api_port", insecure-skip-tls-verify: true}}]
users: [{name: x, user: {client-certificate: "$FOLDER/admin.crt", client-key: "$FOLDER/admin.key"}}]
contexts: [{name: x, context: {cluster: x, user: x}}]
K
export KUBECONFIG=$FOLDER/kubeconfig
await "the API server" "$BIN/kubectl" get --raw /readyz
echo "api $(($(now) - begin))"

"$BIN/kubectl" apply --server-side -f "$MANIFESTS/crds.yaml" >/dev/null
"$BIN/kubectl" wait --for condition=Established crd --all --timeout 60s >/dev/null
unset KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT
export RUNTIME_NAMESPACE=flux-system
health=()
for controller in source kustomize helm; do
	port=$(free_port)
	health+=("http://127.0.0.1:$port/healthz")
	extra=()
	[[ $controller != source ]] || extra=(--storage-path "$FOLDER/storage" --storage-addr "127.0.0.1:$(free_port)" --storage-adv-addr 127.0.0.1)
	mkdir -p storage
	start "$controller-controller" "$BIN/$controller-controller" --health-addr "127.0.0.1:$port" --metrics-addr "127.0.0.1:$(free_port)" \
		--events-addr= --enable-leader-election=false "${extra[@]}"
done
mkdir -p certs
cp apiserver/apiserver.crt certs/tls.crt
cp apiserver/apiserver.key certs/tls.key
for manager in cluster-api-controller kubeadm-bootstrap-controller kubeadm-control-plane-controller; do
	port=$(free_port)
	health+=("http://127.0.0.1:$port/healthz")
	start "$manager" "$BIN/$manager" --kubeconfig "$KUBECONFIG" --health-addr "127.0.0.1:$port" --diagnostics-address "127.0.0.1:$(free_port)" \
		--webhook-port "$(free_port)" --webhook-cert-dir "$FOLDER/certs" --insecure-diagnostics
done
for url in "${health[@]}"; do await "$url" curl -fsS "$url"; done
echo "all $(($(now) - begin))"
