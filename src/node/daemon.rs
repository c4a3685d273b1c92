//! The daemon of one node: starts everything, keeps it running, answers on its socket, and stops in order.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use rustix::process::Signal;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::config::{CLUSTER_DOMAIN, NodeConfig, Paths, Role};
use super::control_plane::{self, ControlPlane};
use super::ledger::{self, Ledger};
use super::network::{Network, NetworkConfig};
use super::pki::{self, NETWORK_GROUP};
use super::pods::{self, PODS};
use super::programs::Programs;
use super::socket::{self, Request, State, Status};
use super::supervisor::{self, Board, Child};
use super::{Home, logs, probe};
use crate::clock::{Deadline, Look, Stopwatch, Wait, human};
use crate::event::Events;
use crate::failure::{Failure, Result};
use crate::{exec, fsx, k8s};

/// Name of the network proxy among the parts.
const NETWORK: &str = "network";
/// Label of the Nodes of control planes.
const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";
/// How often certificates are looked at.
const RENEWAL: Duration = Duration::from_hours(12);
/// How long leftovers of a killed daemon may take to end by themselves.
const LEFTOVERS: Duration = Duration::from_secs(5);
/// How long what only the administrator may do is tried.
const GRANTS: Duration = Duration::from_mins(2);
/// How long the API server may take to answer after a start on a large or damaged data folder.
const ANSWER: Duration = Duration::from_mins(10);

/// Runs the node in `folder` until it is told to stop by signal or socket.
pub async fn run(folder: &Path) -> Result<()> {
    let watch = Stopwatch::start();
    let folder = std::path::absolute(folder)
        .map_err(|error| Failure::failed(format!("failed to find {}", folder.display())).caused_by(error))?;
    let config = NodeConfig::read(&folder)?;
    let paths = Paths::of(&folder);
    let name = config.name.clone();
    let _lock = fsx::Lock::try_take(&paths.lock)?.map_err(|pid| {
        Failure::refused(format!(
            "node {name} is held by pid {pid}: its daemon runs already, or it is being stopped or deleted"
        ))
    })?;
    fsx::write_private(&paths.pid, format!("{}\n", std::process::id()))?;
    fsx::create_private_dir(&config.sockets)?;
    let mut terminate = listen_for(SignalKind::terminate())?;
    let mut interrupt = listen_for(SignalKind::interrupt())?;
    // A daemon has no terminal that could hang up.
    let _hangup = listen_for(SignalKind::hangup())?;
    let stop = CancellationToken::new();
    let daemon = Daemon::new(config, paths, watch, stop.clone())?;
    daemon.listen()?;
    tokio::select! {
        result = daemon.live() => result?,
        () = stop.cancelled() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    daemon.stop().await;
    Ok(())
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal> {
    signal(kind).map_err(|error| Failure::failed("failed to listen for signals").caused_by(error))
}

struct Daemon {
    config: NodeConfig,
    paths: Paths,
    events: Events,
    board: Board,
    watch: Stopwatch,
    ready_after: Arc<AtomicU64>,
    stopping: Arc<AtomicBool>,
    stop: CancellationToken,
    /// Ends the network and the other tasks, when everything else has ended.
    last: CancellationToken,
    /// The supervised children and the pod runner with what stops each, in the order in which they started.
    children: Mutex<Vec<(CancellationToken, JoinHandle<()>)>>,
}

impl Daemon {
    fn new(config: NodeConfig, paths: Paths, watch: Stopwatch, stop: CancellationToken) -> Result<Self> {
        let events = Events::to(vec![Arc::new(logs::EventFile(paths.events.clone()))]);
        let mut parts = Vec::new();
        if config.role == Role::ControlPlane {
            parts.extend(control_plane::PARTS);
        }
        parts.extend([NETWORK, PODS]);
        fsx::create_private_dir(&paths.logs)?;
        Ok(Self {
            config,
            paths,
            events,
            board: Board::new(&parts),
            watch,
            ready_after: Arc::default(),
            stopping: Arc::default(),
            stop,
            last: CancellationToken::new(),
            children: Mutex::default(),
        })
    }

    /// Opens the socket first: who started the daemon waits for it.
    fn listen(&self) -> Result<()> {
        let listener = socket::listen(&self.config.sockets.join(socket::NAME))?;
        let (board, ready_after) = (self.board.clone(), Arc::clone(&self.ready_after));
        let (stop, stopping) = (self.stop.clone(), Arc::clone(&self.stopping));
        tokio::spawn(socket::serve(listener, move |request| {
            if request == Request::Stop {
                stopping.store(true, Ordering::Relaxed);
                stop.cancel();
            }
            status(&board, &ready_after, &stopping)
        }));
        Ok(())
    }

    /// Starts everything and goes on until something that cannot be repaired happens.
    async fn live(&self) -> Result<()> {
        let left = ledger::end_leftovers(&self.paths.ledger, LEFTOVERS).await?;
        if !left.is_empty() {
            let names: Vec<&str> = left.iter().map(|entry| entry.what.as_str()).collect();
            self.events.warn(format!("ended what a killed daemon had left: {}", names.join(", ")));
        }
        let ledger = Ledger::begin(&self.paths.ledger)?;
        self.events.note(format!("node {} starts as {}", self.config.name, self.config.role));
        self.renew()?;
        tokio::spawn(logs::keep_small(self.paths.logs.clone(), self.last.clone()));
        let network = self.network().await?;
        let (client, plane) = match self.config.role {
            Role::ControlPlane => {
                let plane = self.control_plane().await?;
                (probe::client(&self.paths.admin).await?, Some(plane))
            }
            Role::Worker => (probe::client(&self.paths.network).await?, None),
        };
        tokio::spawn(network.run(client.clone(), self.last.clone()));
        self.board.ready(NETWORK, true, "ready");
        if let Some(plane) = &plane {
            self.spawn(plane.etcd(), &ledger);
            self.board.until_ready(control_plane::PARTS[0]).await;
            self.spawn(plane.api_server(client.clone()), &ledger);
        }
        self.answers(&client).await?;
        if let Some(plane) = &plane {
            self.spawn(plane.controller_manager()?, &ledger);
            self.spawn(plane.scheduler()?, &ledger);
        }
        self.run_pods(&ledger).await?;
        tokio::join!(self.board.until_all_ready(), self.grants(client));
        self.ready_after.store(u64::try_from(self.watch.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.events.note(format!("node {} is ready after {}", self.config.name, human(self.watch.elapsed())));
        loop {
            tokio::time::sleep(RENEWAL).await;
            if let Err(failure) = self.renew() {
                self.events.warn(format!("certificates were not renewed: {failure}"));
            }
        }
    }

    /// Makes or renews certificates; their users read them again by themselves.
    fn renew(&self) -> Result<()> {
        if self.config.role == Role::ControlPlane {
            let made = pki::ensure_control_plane(&self.config, &self.paths)?;
            if !made.is_empty() {
                self.events.note(format!("renewed certificates: {}", made.join(", ")));
            }
        }
        Ok(())
    }

    /// Takes the port and the socket of the cluster's network, before anything wants to use them.
    async fn network(&self) -> Result<Network> {
        let control_plane = self.config.role == Role::ControlPlane;
        Network::bind(NetworkConfig {
            api_server_port: self.config.ports.api_server,
            proxy_port: self.config.ports.proxy,
            token: fsx::read_text(&self.paths.proxy_token)?.trim().to_owned(),
            egress_socket: control_plane.then(|| control_plane::egress_socket(&self.config)),
            cluster_domain: CLUSTER_DOMAIN.into(),
            service_cidr: self.config.service_cidr.clone(),
            upstream: self.config.upstream_proxy.clone(),
        })
        .await
    }

    async fn control_plane(&self) -> Result<ControlPlane> {
        let home = Home::at(&self.config.home)?;
        let programs = Programs::find(&self.config.bundle, &home.unpacked()).await?;
        let plane = ControlPlane { config: self.config.clone(), paths: self.paths.clone(), programs };
        plane.prepare()?;
        Ok(plane)
    }

    /// Starts the pod runner, the last to start and the first to end.
    async fn run_pods(&self, ledger: &Ledger) -> Result<()> {
        let cancel = CancellationToken::new();
        let (config, board) = (self.config.clone(), self.board.clone());
        let client = probe::client(&self.paths.kubelet).await?;
        tokio::spawn(pods::follow_node(config.clone(), client, board.clone(), cancel.clone()));
        let run = pods::run(config, self.paths.clone(), ledger.clone(), board, self.events.clone(), cancel.clone());
        let task = tokio::spawn(run);
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push((cancel, task));
        Ok(())
    }

    fn spawn(&self, child: Child, ledger: &Ledger) {
        let cancel = CancellationToken::new();
        let task = tokio::spawn(supervisor::supervise(
            child,
            self.board.clone(),
            ledger.clone(),
            self.events.clone(),
            cancel.clone(),
        ));
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push((cancel, task));
    }

    async fn answers(&self, client: &Client) -> Result<()> {
        Wait::new("the API server to answer", ANSWER)
            .every(Duration::from_millis(10))
            .until(async || {
                Ok(match probe::get(client, "/version").await {
                    Ok(()) => Look::Ready(()),
                    Err(reason) => Look::Pending(reason),
                })
            })
            .await
    }

    /// What only the administrator may do: workers' rights, and the mark of a control plane's Node.
    async fn grants(&self, client: Client) {
        if self.config.role != Role::ControlPlane {
            return;
        }
        let cluster = k8s::Cluster::from_client("local", client);
        if let Err(failure) = grant_network(&cluster).await {
            self.events.warn(format!("workers cannot join: {failure}"));
        }
        self.board.until_ready(PODS).await;
        let mark = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.config.name, "labels": {CONTROL_PLANE_LABEL: ""}}});
        let marked = apply(&cluster, mark).await;
        if let Err(error) = marked {
            self.events.warn(format!("node {} has no label {CONTROL_PLANE_LABEL}: {error}", self.config.name));
        }
    }

    /// Ends the children, the last started first, then the rest.
    async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let watch = Stopwatch::start();
        let children = std::mem::take(&mut *self.children.lock().unwrap_or_else(PoisonError::into_inner));
        for (cancel, task) in children.into_iter().rev() {
            cancel.cancel();
            // The supervisor kills what does not end, so that this comes to its end.
            let _ = task.await;
        }
        self.last.cancel();
        self.events.note(format!("node {} stopped in {}", self.config.name, human(watch.elapsed())));
        // What a child left behind in its process group, should there be such a thing.
        for entry in ledger::leftovers(&self.paths.ledger).unwrap_or_default() {
            exec::signal_group(entry.pid, Signal::KILL);
        }
        for socket in [socket::NAME, pods::DOCKER, "etcd.sock", "peer.sock", "apiserver-egress.sock"] {
            // A socket that stays is removed by the next start.
            let _ = fsx::remove_file(&self.config.sockets.join(socket));
        }
        let _ = fsx::remove_file(&self.paths.pid);
    }
}

fn status(board: &Board, ready_after: &AtomicU64, stopping: &AtomicBool) -> Status {
    let components = board.parts();
    let once = ready_after.load(Ordering::Relaxed);
    let all = components.iter().all(|component| component.ready);
    let state = match (stopping.load(Ordering::Relaxed), all, once) {
        (true, _, _) => State::Stopping,
        (false, true, _) => State::Ready,
        (false, false, 0) => State::Starting,
        (false, false, _) => State::Degraded,
    };
    Status { state, pid: Some(std::process::id()), components, ready_after_ms: Some(once).filter(|once| *once > 0) }
}

/// Lets the network proxies of workers watch what they need.
async fn grant_network(cluster: &k8s::Cluster) -> Result<()> {
    let labels = json!({"cluster-init.dev/part": "network"});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": NETWORK_GROUP, "labels": labels},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "nodes"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": NETWORK_GROUP, "labels": labels},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NETWORK_GROUP},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": NETWORK_GROUP}],
    });
    apply(cluster, role).await?;
    apply(cluster, binding).await
}

async fn apply(cluster: &k8s::Cluster, object: serde_json::Value) -> Result<()> {
    let object = serde_json::from_value(object).map_err(Failure::from_error)?;
    cluster.apply_patiently(&object, Deadline::after(GRANTS), &CancellationToken::new()).await
}
