//! Clusters that kind makes: their nodes are containers of a Docker daemon, on this host or elsewhere.
//!
//! ```text
//! HOME/kind/NAME/owner.json   on whose behalf it was made; the volume says it, too
//! HOME/kind/NAME/certs.d/     sends the nodes' containerd to the mirror
//! volume NAME-certs.d         the same where the daemon is; mounted into the nodes, and bears the home, which proves that they are ours
//! HOME/kind/NAME/kind.yaml    what kind was asked for
//! HOME/kind/NAME/kubeconfig   once kind is done
//! HOME/kind/NAME/kind.log     what it said when it failed
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::kind_config;
use super::mirror::{self, Mirror};
use super::{LocalSpec, Made, MadeNode};
use crate::bundle::Bundle;
use crate::clock::{Deadline, Look, Stopwatch, Wait, human};
use crate::docker::{Container, Docker};
use crate::event::Events;
use crate::exec::{self, Command};
use crate::failure::{Context, Failure, Result};
use crate::fsx;
use crate::k8s::Cluster;
use crate::node::{Home, NodeName, State};
use crate::yaml;

/// The label with a cluster's name on each of its nodes.
pub const CLUSTER_LABEL: &str = "io.x-k8s.kind.cluster";
/// The address of all that its host has.
pub(super) const ANYWHERE: &str = "0.0.0.0";
/// The label with a node's role, which the docker provider's machines have, too.
pub const ROLE_LABEL: &str = "io.x-k8s.kind.role";
/// The label of a cluster's volume: the home that made it.
pub const HOME_LABEL: &str = "cluster-init.dev/home";
/// Another one: on whose behalf.
const OWNER_LABEL: &str = "cluster-init.dev/owner";
/// The variable that makes kind use podman.
const PROVIDER: &str = "KIND_EXPERIMENTAL_PROVIDER";
/// Deleting a cluster takes this long at most.
const DELETE: Duration = Duration::from_mins(2);
/// Asking kind something.
const ASK: Duration = Duration::from_secs(30);

/// The kind backend.
#[derive(Clone, Debug)]
pub struct Kind {
    home: Home,
    bundle: PathBuf,
    docker: Docker,
}

/// What is kept of a cluster's making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    /// On whose behalf.
    owner: String,
}

impl Kind {
    /// Clusters whose files are in a home, made from a bundle.
    pub fn new(home: Home, bundle: impl Into<PathBuf>) -> Self {
        Self { home, bundle: bundle.into(), docker: Docker::default() }
    }

    /// Where a cluster's files are.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.home.root().join("kind").join(name)
    }

    fn open_bundle(&self) -> Result<Bundle> {
        Ok(Bundle::open(&self.bundle, &self.home.unpacked())?)
    }

    /// kind itself: the bundle's, or the one on PATH.
    async fn program(&self) -> Result<PathBuf> {
        let bundle = self.open_bundle()?;
        if bundle.is_with("docker") { Ok(bundle.tool_async("kind").await?) } else { Ok(PathBuf::from("kind")) }
    }

    /// kind itself, with the daemon that the rest of the program uses; by itself it prefers Docker.
    async fn command(&self) -> Result<Command> {
        let command = Command::new(self.program().await?);
        Ok(if self.docker.is_podman().await? { command.env(PROVIDER, "podman") } else { command })
    }

    /// The containers of a cluster, control planes first; whoever made them.
    async fn containers(&self, name: &str) -> Result<Vec<Container>> {
        let mut found = self.docker.containers(&format!("{CLUSTER_LABEL}={name}")).await?;
        found.sort_by_key(|node| (node.label(ROLE_LABEL) != Some("control-plane"), node.name().to_owned()));
        Ok(found)
    }

    /// On whose behalf a cluster was made; `None` when somebody else made it.
    pub async fn owner(&self, name: &str, nodes: &[Container]) -> Result<Option<String>> {
        let Some(volume) = self.docker.volume(&volume(name)).await? else { return Ok(None) };
        let ours = volume.label(HOME_LABEL) == Some(&self.home.root().display().to_string());
        if !ours || !nodes.iter().all(|node| node.mounts_from(&volume.mountpoint)) {
            return Ok(None);
        }
        // The home of a job in a pipeline may be lost, while the daemon is not.
        if let Some(owner) = volume.label(OWNER_LABEL) {
            return Ok(Some(owner.to_owned()));
        }
        let Some(text) = fsx::read_text_if_present(&self.folder(name).join("owner.json"))? else { return Ok(None) };
        let owner: Owner = serde_json::from_str(&text).map_err(Failure::from_error)?;
        Ok(Some(owner.owner))
    }

    /// The failure that somebody else's cluster is.
    fn foreign(name: &str) -> Failure {
        Failure::refused(format!("there is a kind cluster {name} that cluster-init did not make from this home"))
            .hint(format!("if nobody needs it: kind delete cluster --name {name}"))
    }

    /// Makes the cluster, or adopts the one that the same owner made; its API server answers afterwards.
    pub async fn create_or_adopt(
        &self,
        spec: &LocalSpec,
        events: &Events,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<Made> {
        let name = NodeName::new(&spec.name)?.to_string();
        let nodes = self.containers(&name).await?;
        if !nodes.is_empty() {
            match self.owner(&name, &nodes).await? {
                None => return Err(Self::foreign(&name)),
                Some(owner) if owner != spec.owner => {
                    return Err(Failure::refused(format!("cluster {name} was made by {owner}, not by {}", spec.owner)));
                }
                Some(_) => {}
            }
            if self.folder(&name).join("kubeconfig").is_file() {
                return self.adopt(&name, &nodes, events, deadline, cancel).await;
            }
            events.progress(format!("kind cluster {name}"), "was half made: beginning anew");
            self.remove(&name).await?;
        }
        self.create(&name, spec, events, deadline, cancel).await
    }

    /// Starts what was stopped and waits until the API server answers.
    async fn adopt(
        &self,
        name: &str,
        nodes: &[Container],
        events: &Events,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<Made> {
        for node in nodes.iter().filter(|node| !node.runs()) {
            events.progress(format!("kind cluster {name}"), format!("starting node {}", node.name()));
            self.docker.start(node.name()).await?;
        }
        let kubeconfig = self.folder(name).join("kubeconfig");
        let cluster = Cluster::connect(name, &kubeconfig).await?;
        Wait::new(format!("the API server of cluster {name}"), deadline.left())
            .within(deadline, cancel)
            .every(Duration::from_millis(200))
            .until(async || {
                Ok(match cluster.api_ready().await {
                    Ok(()) => Look::Ready(()),
                    Err(state) => Look::Pending(state),
                })
            })
            .await?;
        self.found(name).await
    }

    async fn create(
        &self,
        name: &str,
        spec: &LocalSpec,
        events: &Events,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<Made> {
        let watch = Stopwatch::start();
        let (folder, bundle) = (self.folder(name), self.open_bundle()?);
        fsx::create_private_dir(&folder)?;
        fsx::remove_file(&folder.join("kubeconfig"))?;
        let owner = serde_json::to_vec(&Owner { owner: spec.owner.clone() }).map_err(Failure::from_error)?;
        fsx::write_private(&folder.join("owner.json"), owner)?;
        let hosts = self.make_volume(&bundle, name, &spec.owner).await?;
        let host = self.docker.elsewhere().await?;
        let config = kind_config::write(&bundle, name, spec, &hosts, host.as_deref())?;
        fsx::write_private(&folder.join("kind.yaml"), config)?;
        events.progress(format!("kind cluster {name}"), "being made");
        let unfinished = folder.join("kubeconfig.unfinished");
        let command = self
            .command()
            .await?
            .args(["create", "cluster", "--name", name, "--config"])
            .arg(folder.join("kind.yaml"))
            .arg("--kubeconfig")
            .arg(&unfinished)
            // Nodes that failed stay for the support folder; the next attempt removes them.
            .arg("--retain")
            // An attempt whose cluster-init was killed must not go on beside the next one.
            .tied();
        let made = cancel.run_until_cancelled(command.run(deadline.left())).await;
        let made = made.ok_or_else(|| Failure::interrupted(format!("making cluster {name} was interrupted")))?;
        if let Err(error) = made {
            let log = folder.join("kind.log");
            if let exec::Error::Status { stderr, .. } = &error {
                fsx::write_private(&log, stderr)?;
            }
            return Err(failed(name, error, &log));
        }
        if let Some(host) = host {
            let text = fsx::read_text(&unfinished)?;
            fsx::write_private(
                &unfinished,
                text.replace(&format!("https://{ANYWHERE}:"), &format!("https://{host}:")),
            )?;
        }
        fsx::set_mode(&unfinished, 0o600)?;
        fsx::rename(&unfinished, &folder.join("kubeconfig"))?;
        events.progress(format!("kind cluster {name}"), format!("ready after {}", human(watch.elapsed())));
        self.found(name).await
    }

    /// The files that send nodes to the mirror, where the daemon is; their folder on its host.
    async fn make_volume(&self, bundle: &Bundle, name: &str, owner: &str) -> Result<PathBuf> {
        let folder = Mirror::write_hosts(&self.folder(name).join("certs.d"))?;
        let (volume, home) = (volume(name), self.home.root().display().to_string());
        let labels = [(mirror::LABEL, "certs.d"), (HOME_LABEL, home.as_str()), (OWNER_LABEL, owner)];
        // The mirror runs, so docker has its image.
        self.docker.make_volume(&volume, &labels, &folder, &mirror::reference(bundle, "registry")?).await?;
        let made = self.docker.volume(&volume).await?;
        Ok(made.ok_or_else(|| Failure::failed(format!("volume {volume} is gone again")))?.mountpoint)
    }

    async fn found(&self, name: &str) -> Result<Made> {
        self.find(name).await?.ok_or_else(|| Failure::failed(format!("cluster {name} is gone again")))
    }

    /// The cluster of that name, when it is one of this home; `None` when there is none or it is somebody else's.
    pub async fn find(&self, name: &str) -> Result<Option<Made>> {
        let nodes = self.containers(name).await?;
        if nodes.is_empty() {
            return Ok(None);
        }
        let Some(owner) = self.owner(name, &nodes).await? else { return Ok(None) };
        let kubeconfig = self.folder(name).join("kubeconfig");
        let server = server(&kubeconfig)?;
        let state = match (&server, nodes.iter().all(Container::runs), nodes.iter().any(Container::runs)) {
            (None, ..) => State::Starting,
            (Some(_), true, _) => State::Ready,
            (Some(_), false, true) => State::Degraded,
            (Some(_), false, false) => State::Stopped,
        };
        let nodes = nodes.iter().map(|node| MadeNode {
            name: node.name().to_owned(),
            role: node.label(ROLE_LABEL).unwrap_or_default().to_owned(),
            state: if node.runs() { State::Ready } else { State::Stopped },
            pid: node.pid(),
            pending: (!node.runs()).then(|| format!("its container is {}", node.state())),
        });
        let nodes = nodes.collect();
        Ok(Some(Made { name: name.to_owned(), owner, state, server: server.unwrap_or_default(), nodes, kubeconfig }))
    }

    /// Deletes a cluster of this home; fine when there is none.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let nodes = self.containers(name).await?;
        if !nodes.is_empty() && self.owner(name, &nodes).await?.is_none() {
            return Err(Self::foreign(name));
        }
        self.remove(name).await?;
        self.docker.remove_volume(&volume(name)).await?;
        Ok(fsx::remove_dir(&self.folder(name))?)
    }

    async fn remove(&self, name: &str) -> Result<()> {
        // kind takes the cluster's entry out of a kubeconfig, which must not be the user's.
        let scratch = self.folder(name).join("kubeconfig.unfinished");
        let command = self.command().await?.args(["delete", "cluster", "--name", name, "--kubeconfig"]);
        let deleted = command.arg(scratch).run(DELETE).await;
        deleted.map(|_| ()).map_err(Failure::from).context(format!("failed to delete cluster {name}"))
    }

    /// All clusters of this home.
    pub async fn list(&self) -> Result<Vec<Made>> {
        let mut all = Vec::new();
        for name in fsx::list(&self.home.root().join("kind"))? {
            all.extend(self.find(&name).await?);
        }
        Ok(all)
    }

    /// Whether a home holds the files of a cluster, which go with it; asks nobody.
    pub fn has_files_of(home: &Home, name: &str) -> bool {
        home.root().join("kind").join(name).is_dir()
    }

    /// Whether kind can be run; what it says about itself.
    pub async fn version(&self) -> Result<String> {
        let output = Command::new(self.program().await?).arg("version").run(ASK).await;
        let output = output.map_err(|error| match error {
            exec::Error::Missing { .. } => Failure::preflight("there is no kind in the bundle nor on PATH")
                .hint("cluster-init bundle build --with docker"),
            error => error.into(),
        })?;
        if self.docker.is_podman().await? {
            // It runs podman itself, and does not ask its service.
            let podman = Command::new("podman").arg("--version").run(ASK).await;
            podman.map_err(|error| match error {
                exec::Error::Missing { .. } => Failure::preflight("podman is not on PATH, and kind needs it")
                    .hint("put it there, or have the bootstrap cluster made of plain processes: --backend local"),
                error => error.into(),
            })?;
        }
        Ok(output.text().trim().to_owned())
    }

    /// Refuses when a cluster of that name is not ours.
    pub async fn check_name(&self, name: &str) -> Result<()> {
        let nodes = self.containers(name).await?;
        if !nodes.is_empty() && self.owner(name, &nodes).await?.is_none() {
            return Err(Self::foreign(name));
        }
        Ok(())
    }
}

/// The volume of a cluster.
pub fn volume(name: &str) -> String {
    format!("{name}-certs.d")
}

/// The API server's URL in a kubeconfig that is there.
fn server(kubeconfig: &Path) -> Result<Option<String>> {
    let Some(text) = fsx::read_text_if_present(kubeconfig)? else { return Ok(None) };
    let parsed: serde_json::Value = yaml::from_str(&text, &kubeconfig.display().to_string())?;
    Ok(parsed.pointer("/clusters/0/cluster/server").and_then(|server| server.as_str()).map(str::to_owned))
}

fn failed(name: &str, error: exec::Error, log: &Path) -> Failure {
    let text = error.to_string();
    let what = format!("failed to make kind cluster {name}");
    let mut failure = match &error {
        exec::Error::Status { stderr, .. } if !telling(stderr).is_empty() => {
            Failure::failed(format!("{what}: {}", telling(stderr)))
                .hint(format!("all that kind said: {}", log.display()))
        }
        _ => Failure::from(error).context(what),
    };
    if text.contains("port is already allocated") || text.contains("address already in use") {
        failure = failure.hint("another program was faster with a port: run it again");
    }
    if text.contains("cgroup") {
        failure = failure.hint("kind needs cgroup delegation: https://kind.sigs.k8s.io/docs/user/known-issues");
    }
    failure.hint(format!("look at its node: docker logs {name}-control-plane"))
}

/// What kind and kubeadm say went wrong, out of all that they say: traces of their stacks come last.
fn telling(stderr: &str) -> String {
    let lines = stderr.lines().map(str::trim);
    let said = lines.filter(|line| ["ERROR: ", "error: ", "[ERROR "].iter().any(|begin| line.starts_with(begin)));
    said.take(4).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stderr: &str) -> Failure {
        let (program, status) = ("kind create".into(), "exited with code 1".into());
        let error = exec::Error::Status { program, status, code: Some(1), stdout: Vec::new(), stderr: stderr.into() };
        failed("x-bootstrap", error, Path::new("/home/x/kind.log"))
    }

    #[test]
    fn what_kind_and_kubeadm_say_is_found_above_their_stacks() {
        let failure = said(
            "Creating cluster\nERROR: failed to create cluster: failed to init node with kubeadm\nI1121 x\n\
             error: error execution phase wait-control-plane: timed out\nmain.main\n\tkubeadm.go:25\n",
        );
        assert_eq!(
            failure.to_string(),
            "failed to make kind cluster x-bootstrap: ERROR: failed to create cluster: failed to init node with kubeadm; \
             error: error execution phase wait-control-plane: timed out"
        );
        assert_eq!(failure.hints[0], "all that kind said: /home/x/kind.log");
    }

    #[test]
    fn a_port_that_was_taken_is_named_with_what_to_do() {
        let failure = said("ERROR: driver failed: Bind for 127.0.0.1:40001 failed: port is already allocated");
        assert!(failure.to_string().contains("Bind for 127.0.0.1:40001 failed"), "{failure}");
        assert!(failure.hints.contains(&"another program was faster with a port: run it again".to_owned()));
    }

    #[test]
    fn the_server_is_found_in_a_kubeconfig() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        assert_eq!(server(&path).unwrap(), None);
        fsx::write(&path, "clusters:\n- cluster:\n    server: https://127.0.0.1:4000\n  name: kind-x\n").unwrap();
        assert_eq!(server(&path).unwrap().as_deref(), Some("https://127.0.0.1:4000"));
    }
}
