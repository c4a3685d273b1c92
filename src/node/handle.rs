//! A node as its callers see it: made, started, looked at, stopped, deleted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::config::{NodeConfig, NodeName, NodeSpec, Paths, Role, RoleSpec, SERVICE_CIDR, UpstreamProxy};
use super::home::Home;
use super::pki::{self, ClusterKeys, Pki};
use super::programs::Programs;
use super::socket::{self, Request, State, Status};
use super::{KUBERNETES_VERSION, ledger, ports, runtime_dir};
use crate::clock::{Deadline, Look, Wait, human};
use crate::failure::{Failure, Kind, Result};
use crate::{exec, fsx};

/// Disk that a new node must find free: etcd's data, logs and unpacked images.
const DISK: u64 = 1 << 30;

/// How long a daemon may take to stop: pods get their grace period first.
const STOP: Duration = Duration::from_mins(1);

/// How long the kernel may take to end a daemon that is killed.
const KILLED: Duration = Duration::from_secs(10);

/// A node of this home.
#[derive(Clone, Debug)]
pub struct Node {
    config: NodeConfig,
    paths: Paths,
}

/// Makes a node, or adopts the one of that name when it was made for the same cluster by the same owner.
///
/// Nothing runs yet after this; the same call again changes nothing.
pub async fn create(home: &Home, spec: NodeSpec) -> Result<Node> {
    fsx::create_private_dir(&home.nodes())?;
    let _lock = lock_home(home).await?;
    let folder = home.node(&spec.name);
    let paths = Paths::of(&folder);
    if fsx::read_text_if_present(&paths.config)?.is_some() {
        return adopt(home, &spec);
    }
    let role = match spec.role {
        RoleSpec::ControlPlane { .. } => Role::ControlPlane,
        RoleSpec::Worker(_) => Role::Worker,
    };
    let bundle = absolute(&spec.bundle)?;
    Programs::find(&bundle, &home.unpacked()).await?;
    let free = fsx::free_bytes(home.root())?;
    if free < DISK {
        return Err(Failure::preflight(format!(
            "{} MiB are free on the file system of {}, {} MiB are needed for node {}",
            free >> 20,
            home.root().display(),
            DISK >> 20,
            spec.name
        ))
        .hint("free disk space, or set CLUSTER_INIT_HOME to a folder on a larger file system"));
    }
    let others = list(home)?;
    let taken: BTreeSet<u16> = others.iter().flat_map(|node| node.config.ports.all()).collect();
    let indices: BTreeSet<u8> = others.iter().map(|node| node.config.index).collect();
    let index = (1..=254)
        .find(|index| !indices.contains(index))
        .ok_or_else(|| Failure::preflight(format!("{} already holds 254 nodes", home.nodes().display())))?;
    let api_server = match &spec.role {
        RoleSpec::ControlPlane { api_server_port, .. } => *api_server_port,
        RoleSpec::Worker(join) => Some(join.api_server_port),
    };
    let config = NodeConfig {
        ports: ports::choose(role, api_server, &taken)?,
        sockets: runtime_dir::choose(&folder),
        name: spec.name,
        cluster: spec.cluster,
        owner: spec.owner,
        role,
        index,
        kubernetes_version: KUBERNETES_VERSION.into(),
        home: home.root().to_path_buf(),
        bundle,
        provider_id: spec.provider_id,
        labels: spec.labels,
        service_cidr: SERVICE_CIDR.into(),
        throw_away: spec.throw_away,
        allowed_host_paths: spec.allowed_host_paths,
        profiles: spec.profiles,
        upstream_proxy: UpstreamProxy::from_env(),
    };
    // Without node.yaml a folder is the rest of a creation that did not get to its end.
    fsx::remove_dir(&folder)?;
    for folder in [&paths.folder, &paths.pki, &paths.logs, &paths.pods, &paths.etcd] {
        fsx::create_private_dir(folder)?;
    }
    match spec.role {
        RoleSpec::ControlPlane { keys, .. } => {
            let keys = match keys {
                Some(keys) => keys,
                None => ClusterKeys::generate(&config.cluster)?,
            };
            Pki::of(&paths).install(&keys)?;
            pki::ensure_control_plane(&config, &paths)?;
        }
        RoleSpec::Worker(join) => {
            fsx::write_private(&Pki::of(&paths).ca.cert, &join.ca.cert)?;
            pki::ensure_node(&config, &paths, &join.ca)?;
        }
    }
    fsx::write_private(&paths.proxy_token, token())?;
    config.write(&folder)?;
    Ok(Node { config, paths })
}

fn adopt(home: &Home, spec: &NodeSpec) -> Result<Node> {
    let node = open(home, &spec.name)?;
    if node.config.owner == spec.owner && node.config.cluster == spec.cluster {
        return Ok(node);
    }
    Err(Failure::refused(format!(
        "node {} exists already: it is part of cluster {} and was made by {}, not by {}",
        spec.name, node.config.cluster, node.config.owner, spec.owner
    ))
    .hint("choose another name")
    .hint(format!("if nobody needs it: cluster-init local delete {}", node.config.cluster)))
}

/// Serialises creations, which choose ports and addresses.
async fn lock_home(home: &Home) -> Result<fsx::Lock> {
    let path = home.nodes().join(".lock");
    Wait::new("another creation of a node to end", Duration::from_secs(30))
        .every(Duration::from_millis(20))
        .until(async || {
            Ok(match fsx::Lock::try_take(&path)? {
                Ok(lock) => Look::Ready(lock),
                Err(holder) => Look::Pending(format!("pid {holder} holds the lock")),
            })
        })
        .await
}

/// A password of 192 bits.
fn token() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>())
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Failure::failed(format!("failed to find {}", path.display())).caused_by(error))
}

/// Opens a node that exists.
pub fn open(home: &Home, name: &NodeName) -> Result<Node> {
    let folder = home.node(name);
    if fsx::read_text_if_present(&folder.join("node.yaml"))?.is_none() {
        let known: Vec<String> = list(home)?.iter().map(|node| node.config.name.to_string()).collect();
        let failure = Failure::usage(format!("there is no node {name} in {}", home.nodes().display()));
        return Err(if known.is_empty() {
            failure
        } else {
            failure.hint(format!("known nodes: {}", known.join(", ")))
        });
    }
    Node::at(&folder)
}

/// All nodes of this home, by name.
pub fn list(home: &Home) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for name in fsx::list(&home.nodes())? {
        let folder = home.nodes().join(&name);
        if fsx::read_text_if_present(&folder.join("node.yaml")).is_ok_and(|text| text.is_some()) {
            nodes.push(Node::at(&folder)?);
        }
    }
    Ok(nodes)
}

/// The folders of nodes that were made or deleted half: nothing runs in them.
pub fn halves(home: &Home) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in fsx::list(&home.nodes())? {
        let folder = home.nodes().join(&name);
        if folder.is_dir() && fsx::read_text_if_present(&folder.join("node.yaml"))?.is_none() {
            found.push(name);
        }
    }
    Ok(found)
}

/// Removes such a folder, unless it has become a node meanwhile.
pub async fn remove_half(home: &Home, name: &str) -> Result<()> {
    let _lock = lock_home(home).await?;
    let folder = home.nodes().join(name);
    if fsx::read_text_if_present(&folder.join("node.yaml"))?.is_some() {
        return Ok(());
    }
    let sockets = runtime_dir::choose(&folder);
    if sockets != folder {
        fsx::remove_dir(&sockets)?;
    }
    Ok(fsx::remove_dir(&folder)?)
}

impl Node {
    /// The node in a folder.
    pub fn at(folder: &Path) -> Result<Self> {
        Ok(Self { config: NodeConfig::read(folder)?, paths: Paths::of(folder) })
    }

    /// Its configuration.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Where its files are.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    fn socket(&self) -> PathBuf {
        self.config.sockets.join(socket::NAME)
    }

    /// How it is.
    pub async fn status(&self) -> Result<Status> {
        Ok(socket::ask(&self.socket(), Request::Status).await?.unwrap_or(Status::stopped()))
    }

    /// Starts its daemon when none runs, and returns as soon as the daemon listens; it becomes ready later.
    pub async fn launch(&self) -> Result<()> {
        let name = &self.config.name;
        if self.status().await?.state == State::Stopping {
            self.await_end(false).await?;
        }
        if self.status().await?.state != State::Stopped {
            return Ok(());
        }
        // What a killed daemon left would still hold the node's ports.
        ledger::end_leftovers(&self.paths.ledger, Duration::from_secs(5)).await?;
        if let Err(taken) = self.ports_free().await {
            // Perhaps by the node itself: another starter may have been quicker.
            return if self.status().await?.state == State::Stopped { Err(taken) } else { Ok(()) };
        }
        let log = self.paths.logs.join("daemon.log");
        let before = fsx::read_text_if_present(&log)?.unwrap_or_default().len();
        let mut command =
            exec::Command::new(executable()?).arg("node").arg("--dir").arg(&self.paths.folder).env_clear();
        // A daemon outlives its starter: it must not inherit a proxy, token or kubeconfig that goes away.
        for variable in ["PATH", "HOME", "TMPDIR", "TZ", "XDG_RUNTIME_DIR", "CLUSTER_INIT_LOG", "SSL_CERT_FILE"] {
            if let Some(value) = std::env::var_os(variable) {
                command = command.env(variable, value);
            }
        }
        let pid = command.folder("/").detach(&log)?;
        Wait::new(format!("the daemon of node {name} to listen"), Duration::from_secs(20))
            .every(Duration::from_millis(5))
            .until(async || {
                if socket::ask(&self.socket(), Request::Status).await?.is_some() {
                    return Ok(Look::Ready(()));
                }
                if exec::start_time(pid).is_none() {
                    // Another starter may have been quicker.
                    if socket::ask(&self.socket(), Request::Status).await?.is_some() {
                        return Ok(Look::Ready(()));
                    }
                    let text = fsx::read_text_if_present(&log)?.unwrap_or_default();
                    let said = text.get(before..).unwrap_or(&text).trim().to_owned();
                    let said = said.strip_prefix("error: ").unwrap_or(&said);
                    return Err(Failure::failed(format!("the daemon of node {name} ended: {said}"))
                        .hint(format!("its log is {}", log.display())));
                }
                Ok(Look::Pending("it does not listen yet".into()))
            })
            .await
    }

    /// Looks whether nobody else has the node's ports. A process that was just killed may hold its own for a moment more.
    async fn ports_free(&self) -> Result<()> {
        let name = self.config.name.to_string();
        let check = || ports::still_free(&name, self.config.role, &self.config.ports);
        let freed = Wait::new("the node's ports", Duration::from_secs(2))
            .every(Duration::from_millis(20))
            .until(async || Ok(check().map_or_else(|taken| Look::Pending(taken.message), Look::Ready)));
        if freed.await.is_ok() { Ok(()) } else { check() }
    }

    /// Starts it and waits until everything in it is ready.
    pub async fn start(&self, deadline: Deadline, cancel: &CancellationToken) -> Result<Status> {
        self.launch().await?;
        Wait::new(format!("node {} to be ready", self.config.name), deadline.left())
            .within(deadline, cancel)
            .every(Duration::from_millis(10))
            .until(async || {
                let status = self.status().await?;
                match status.state {
                    State::Ready => Ok(Look::Ready(status)),
                    State::Stopped | State::Stopping => {
                        Err(Failure::failed(format!("node {} stopped before it was ready", self.config.name)))
                    }
                    _ => Ok(Look::Pending(status.pending())),
                }
            })
            .await
            .map_err(|failure| match failure.kind {
                Kind::Interrupted => failure,
                _ => failure.hint(format!("logs are in {}", self.paths.logs.display())),
            })
    }

    /// Stops its pods, its control plane and its daemon; fine when none runs. Whatever a killed daemon left is ended.
    ///
    /// It stays stopped for as long as the lock is held: without, the provider in its own cluster, which may live a moment longer
    /// than this node, would find it stopped and start it again.
    pub async fn stop(&self) -> Result<fsx::Lock> {
        let lock = self.await_end(true).await?;
        ledger::end_leftovers(&self.paths.ledger, Duration::from_secs(5)).await?;
        Ok(lock)
    }

    /// Waits until no daemon runs, and keeps it so. `ask`: every daemon that runs meanwhile is told to stop.
    async fn await_end(&self, ask: bool) -> Result<fsx::Lock> {
        let mut asked = None;
        let wait =
            |limit| Wait::new(format!("node {} to stop", self.config.name), limit).every(Duration::from_millis(2));
        let mut look = async || {
            let holder = match fsx::Lock::try_take(&self.paths.lock)? {
                Ok(lock) => return Ok(Look::Ready(lock)),
                Err(holder) => holder,
            };
            // One that does not listen yet is asked again, and so is another one, which was started meanwhile.
            if ask && asked.as_ref() != Some(&holder) && socket::ask(&self.socket(), Request::Stop).await?.is_some() {
                asked = Some(holder.clone());
            }
            Ok(Look::Pending(format!("pid {holder} holds {}", self.paths.lock.display())))
        };
        match (wait(STOP).until(&mut look).await, self.daemon_pid()?) {
            (Err(_), Some(pid)) => {
                // It had its time; its children are ended by the ledger.
                tracing::warn!(node = %self.config.name, pid, after = %human(STOP), "daemon killed");
                exec::signal(pid, Signal::KILL);
                wait(KILLED).until(look).await
            }
            (ended, _) => ended,
        }
    }

    /// Ends everything of it at once: nobody will miss what a throw-away cluster would still write down.
    async fn kill(&self) -> Result<()> {
        let Some(pid) = self.daemon_pid()? else { return Ok(()) };
        exec::signal(pid, Signal::KILL);
        ledger::end_leftovers(&self.paths.ledger, Duration::ZERO).await?;
        Ok(())
    }

    /// The pid of the daemon that runs; whoever keeps the node stopped is none.
    fn daemon_pid(&self) -> Result<Option<u32>> {
        let Err(holder) = fsx::Lock::try_take(&self.paths.lock)? else { return Ok(None) };
        let daemon = fsx::read_text_if_present(&self.paths.pid)?.unwrap_or_default();
        Ok(holder.parse().ok().filter(|_| daemon.trim() == holder))
    }

    /// Stops it and removes every file of it.
    pub async fn delete(self) -> Result<()> {
        if self.config.throw_away {
            self.kill().await?;
        }
        let _stopped = self.stop().await?;
        // First what makes it a node: a removal that is interrupted is finished by the next creation or deletion.
        fsx::remove_dir(&self.paths.pods)?;
        fsx::remove_file(&self.paths.config)?;
        if self.config.sockets != self.paths.folder {
            fsx::remove_dir(&self.config.sockets)?;
        }
        fsx::remove_dir(&self.paths.folder)?;
        Ok(())
    }

    /// The cluster administrator's kubeconfig; only control planes have one.
    pub fn kubeconfig(&self) -> Result<String> {
        match self.config.role {
            Role::ControlPlane => Ok(fsx::read_text(&self.paths.admin)?),
            Role::Worker => Err(Failure::usage(format!(
                "node {} is a worker of cluster {}: only control planes hold the administrator's kubeconfig",
                self.config.name, self.config.cluster
            ))),
        }
    }

    /// The HTTP proxy into the cluster's network, with its password: for clients on this host.
    pub fn proxy_url(&self, user: &str) -> Result<String> {
        let token = fsx::read_text(&self.paths.proxy_token)?;
        Ok(format!("http://{user}:{}@127.0.0.1:{}", token.trim(), self.config.ports.proxy))
    }

    /// What a worker needs to join this control plane's cluster.
    pub fn join(&self) -> Result<super::config::Join> {
        let ca = Pki::of(&self.paths).ca.read()?;
        Ok(super::config::Join { api_server_port: self.config.ports.api_server, ca })
    }
}

/// This very program, also when its file was replaced or removed since it started.
fn executable() -> Result<PathBuf> {
    let path = std::env::current_exe()
        .map_err(|error| Failure::failed("failed to find this program's own file").caused_by(error))?;
    Ok(if path.exists() { path } else { PathBuf::from("/proc/self/exe") })
}
