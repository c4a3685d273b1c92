//! The pod runner as a part of the daemon: what it is told, that it is started again, and when it counts as ready.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::Home;
use super::config::{CLUSTER_DOMAIN, NodeConfig, Paths};
use super::ledger::Ledger;
use super::pki::Pki;
use super::runner::{ApiServer, KubeletTls, Runner, RunnerConfig};
use super::supervisor::Board;
use crate::event::Events;
use crate::failure::Result;
use crate::fsx;

/// Name of the socket that a pod offers the docker provider: in the pod's own folder its path would be too long.
pub const DOCKER: &str = "docker.sock";
/// Name of the pod runner among the parts.
pub const PODS: &str = "pods";
/// Time before a runner that failed is started again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long one look at the Node object may take, and the time between two looks while it is not ready and when it is.
const LIMIT: Duration = Duration::from_secs(3);
const EAGER: Duration = Duration::from_millis(20);
const CALM: Duration = Duration::from_secs(5);

/// What the runner of a node is told.
fn told(config: &NodeConfig, paths: &Paths, ledger: &Ledger) -> Result<RunnerConfig> {
    let home = Home::at(&config.home)?;
    let pki = Pki::of(paths);
    let token = fsx::read_text(&paths.proxy_token)?;
    Ok(RunnerConfig {
        node_name: config.name.to_string(),
        provider_id: config.provider_id.clone(),
        labels: config.labels.clone(),
        node_ip: config.node_ip(),
        pod_subnet: config.pod_subnet(),
        kubernetes_version: config.kubernetes_version.clone(),
        folder: paths.folder.clone(),
        bundle: config.bundle.clone(),
        image_cache: home.unpacked(),
        home: home.root().to_path_buf(),
        kubeconfig: paths.kubelet.clone(),
        pod_proxy_url: Some(format!("http://pod:{}@127.0.0.1:{}", token.trim(), config.ports.proxy)),
        api_server: ApiServer { host: "127.0.0.1".into(), port: config.ports.api_server, ca_file: pki.ca.cert },
        kubelet_port: config.ports.kubelet,
        tls: KubeletTls {
            server_cert: pki.kubelet_server.cert,
            server_key: pki.kubelet_server.key,
            client_ca: Pki::of(paths).ca.cert,
        },
        allowed_host_paths: config.allowed_host_paths.clone(),
        extra_profiles: config.profiles.clone(),
        ledger: ledger.clone(),
        docker: config.sockets.join(DOCKER),
        cluster_domain: CLUSTER_DOMAIN.into(),
        throw_away: config.throw_away,
    })
}

/// Runs the node's pods until cancelled; a runner that fails is started again.
pub async fn run(
    config: NodeConfig,
    paths: Paths,
    ledger: Ledger,
    board: Board,
    events: Events,
    cancel: CancellationToken,
) {
    while !cancel.is_cancelled() {
        let result = match told(&config, &paths, &ledger) {
            Ok(told) => Runner::new(told).run(cancel.clone()).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = result {
            events.warn(format!("the pod runner failed and is started again: {failure}"));
            board.set(PODS, |part| {
                part.ready = false;
                part.restarts += 1;
                part.state = failure.to_string();
            });
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = cancel.cancelled() => {}
            }
        }
    }
}

/// Keeps the runner's line on the board as its Node object says, until cancelled.
pub async fn follow_node(config: NodeConfig, client: Client, board: Board, cancel: CancellationToken) {
    let nodes = Api::<Node>::all(client);
    loop {
        let ready = match tokio::time::timeout(LIMIT, nodes.get_opt(config.name.as_str())).await {
            Ok(Ok(node)) => node.is_some_and(|node| is_ready(&node)),
            // That the API server does not answer is told on its own line.
            Ok(Err(_)) | Err(_) => board.parts().iter().any(|part| part.name == PODS && part.ready),
        };
        if cancel.is_cancelled() {
            board.ready(PODS, false, "stopping");
            return;
        }
        board.ready(PODS, ready, if ready { "ready" } else { "wait for their Node to be ready" });
        tokio::select! {
            () = tokio::time::sleep(if ready { CALM } else { EAGER }) => {}
            () = cancel.cancelled() => {}
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}
