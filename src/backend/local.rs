//! Clusters of plain processes on this host.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{KindOptions, Made, MadeNode};
use crate::clock::{Deadline, Stopwatch, human};
use crate::event::Events;
use crate::failure::{Failure, Result};
use crate::fsx;
use crate::node::{self, Home, Node, NodeName, NodeSpec, Role, State};

/// What a caller asks of the local backend.
#[derive(Clone, Debug)]
pub struct LocalSpec {
    /// Name of the cluster, and of its first node.
    pub name: String,
    /// On whose behalf ("bootstrap local", "local create").
    pub owner: String,
    /// How many workers join the control plane.
    pub workers: u32,
    /// Whether it need not survive a crash of the host.
    pub throw_away: bool,
    /// Folders of the host that pods may mount.
    pub allowed_host_paths: Vec<PathBuf>,
    /// Files with further profiles.
    pub profiles: Vec<PathBuf>,
    /// What kind is told besides.
    pub kind: KindOptions,
}

impl LocalSpec {
    /// A cluster of one node.
    pub fn new(name: impl Into<String>, owner: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            owner: owner.into(),
            workers: 0,
            throw_away: false,
            allowed_host_paths: Vec::new(),
            profiles: Vec::new(),
            kind: KindOptions::default(),
        }
    }
}

/// The local backend.
#[derive(Clone, Debug)]
pub struct Local {
    home: Home,
    bundle: PathBuf,
}

impl Local {
    /// Clusters in a home, made from a bundle.
    pub fn new(home: Home, bundle: impl Into<PathBuf>) -> Self {
        Self { home, bundle: bundle.into() }
    }

    /// Nodes of a cluster, control planes first.
    pub fn nodes(&self, cluster: &str) -> Result<Vec<Node>> {
        let mut nodes: Vec<Node> =
            node::list(&self.home)?.into_iter().filter(|node| node.config().cluster == cluster).collect();
        nodes.sort_by_key(|node| (node.config().role == Role::Worker, node.config().name.clone()));
        Ok(nodes)
    }

    /// The control plane of a cluster, or an error that names the clusters there are.
    pub fn control_plane(&self, cluster: &str) -> Result<Node> {
        let found = self.nodes(cluster)?.into_iter().find(|node| node.config().role == Role::ControlPlane);
        found.ok_or_else(|| {
            let mut known: Vec<String> =
                node::list(&self.home).unwrap_or_default().iter().map(|node| node.config().cluster.clone()).collect();
            known.dedup();
            let failure = Failure::usage(format!("there is no local cluster {cluster}"));
            if known.is_empty() {
                failure.hint(format!("make it: cluster-init local create {cluster}"))
            } else {
                failure.hint(format!("local clusters are: {}", known.join(", ")))
            }
        })
    }

    /// Makes the cluster, or adopts it; every node is ready afterwards.
    pub async fn create_or_adopt(
        &self,
        spec: &LocalSpec,
        events: &Events,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<Made> {
        let watch = Stopwatch::start();
        let name = NodeName::new(&spec.name)?;
        let mut asked = NodeSpec::control_plane(name, &spec.owner, &self.bundle);
        asked.throw_away = spec.throw_away;
        asked.allowed_host_paths.clone_from(&spec.allowed_host_paths);
        asked.profiles.clone_from(&spec.profiles);
        let control_plane = node::create(&self.home, asked).await?;
        events.progress(format!("node {}", spec.name), "starting the control plane");
        control_plane.start(deadline, cancel).await?;
        events.progress(format!("node {}", spec.name), format!("ready after {}", human(watch.elapsed())));
        let mut workers = Vec::new();
        for number in 1..=spec.workers {
            let name = NodeName::new(format!("{}-worker-{number}", spec.name))?;
            let mut asked =
                NodeSpec::worker(name.clone(), &spec.name, &spec.owner, &self.bundle, control_plane.join()?);
            asked.allowed_host_paths.clone_from(&spec.allowed_host_paths);
            asked.profiles.clone_from(&spec.profiles);
            workers.push((name, node::create(&self.home, asked).await?));
        }
        futures::future::try_join_all(workers.iter().map(async |(name, worker)| {
            events.progress(format!("node {name}"), "joining");
            worker.start(deadline, cancel).await?;
            events.progress(format!("node {name}"), format!("ready after {}", human(watch.elapsed())));
            Ok::<_, Failure>(())
        }))
        .await?;
        self.find(&spec.name).await?.ok_or_else(|| Failure::failed(format!("cluster {} is gone again", spec.name)))
    }

    /// Starts the nodes of a cluster that was stopped.
    pub async fn start(&self, cluster: &str, deadline: Deadline, cancel: &CancellationToken) -> Result<()> {
        self.control_plane(cluster)?.start(deadline, cancel).await?;
        let nodes = self.nodes(cluster)?;
        futures::future::try_join_all(nodes.iter().map(|node| node.start(deadline, cancel))).await?;
        Ok(())
    }

    /// Stops the nodes of a cluster, workers first; data stays.
    pub async fn stop(&self, cluster: &str) -> Result<()> {
        let (planes, workers): (Vec<Node>, Vec<Node>) =
            self.nodes(cluster)?.into_iter().partition(|node| node.config().role == Role::ControlPlane);
        // Until the last has stopped, somebody in the cluster could start the others again.
        let _stopped = futures::future::try_join_all(workers.iter().map(Node::stop)).await?;
        futures::future::try_join_all(planes.iter().map(Node::stop)).await?;
        Ok(())
    }

    /// The cluster of that name; `None` when there is none.
    pub async fn find(&self, name: &str) -> Result<Option<Made>> {
        let nodes = self.nodes(name)?;
        let Some(first) = nodes.first() else { return Ok(None) };
        let mut made = Made {
            name: name.to_owned(),
            owner: first.config().owner.clone(),
            state: State::Ready,
            server: first.config().server(),
            kubeconfig: first.paths().admin.clone(),
            nodes: Vec::new(),
        };
        for node in &nodes {
            let status = node.status().await?;
            let ready = status.state == State::Ready;
            if node.config().role == Role::ControlPlane {
                made.state = status.state;
            } else if !ready && made.state == State::Ready {
                made.state = State::Degraded;
            }
            made.nodes.push(MadeNode {
                name: node.config().name.to_string(),
                role: node.config().role.to_string(),
                state: status.state,
                pid: status.pid,
                pending: Some(status.pending()).filter(|_| !ready && status.state != State::Stopped),
            });
        }
        Ok(Some(made))
    }

    /// The HTTP proxy into a cluster's network, with its password.
    pub fn proxy_url(&self, cluster: &str) -> Result<String> {
        self.control_plane(cluster)?.proxy_url("pod")
    }

    /// Deletes the nodes of a cluster, workers first; no process and no file is left.
    pub async fn delete(&self, cluster: &str) -> Result<()> {
        let (planes, workers): (Vec<Node>, Vec<Node>) =
            self.nodes(cluster)?.into_iter().partition(|node| node.config().role == Role::ControlPlane);
        futures::future::try_join_all(workers.into_iter().map(Node::delete)).await?;
        futures::future::try_join_all(planes.into_iter().map(Node::delete)).await?;
        Ok(())
    }

    /// All clusters of this home.
    pub async fn list(&self) -> Result<Vec<Made>> {
        let mut names: Vec<String> = node::list(&self.home)?.iter().map(|node| node.config().cluster.clone()).collect();
        names.sort();
        names.dedup();
        let mut all = Vec::new();
        for name in names {
            all.extend(self.find(&name).await?);
        }
        Ok(all)
    }

    /// Whether a stopped cluster's data folder may hold objects whose key contains `key`.
    ///
    /// It errs on the safe side: what was deleted lately is still found, what is there is always found.
    pub fn data_mentions(&self, cluster: &str, key: &str) -> Result<bool> {
        let member = self.control_plane(cluster)?.paths().etcd.join("member");
        let mut files = vec![member.join("snap/db")];
        files.extend(fsx::list(&member.join("wal"))?.into_iter().map(|name| member.join("wal").join(name)));
        for file in files.iter().filter(|file| file.is_file()) {
            if mentions(file, key.as_bytes())? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a file holds some bytes; read in pieces, because data files may be large.
fn mentions(path: &Path, needle: &[u8]) -> Result<bool> {
    use std::io::Read;
    let mut file = fsx::open(path)?;
    let mut window = Vec::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let count = file
            .read(&mut piece)
            .map_err(|error| Failure::failed(format!("failed to read {}", path.display())).caused_by(error))?;
        if count == 0 {
            return Ok(false);
        }
        window.extend_from_slice(&piece[..count]);
        if window.windows(needle.len()).any(|bytes| bytes == needle) {
            return Ok(true);
        }
        // A match may begin at the end of one piece and end in the next.
        window.drain(..window.len().saturating_sub(needle.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_across_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let mut content = vec![b'.'; (1 << 20) - 3];
        content.extend_from_slice(b"needle");
        fsx::write(&path, &content).unwrap();
        assert!(mentions(&path, b"needle").unwrap());
        assert!(!mentions(&path, b"haystack").unwrap());
    }
}
