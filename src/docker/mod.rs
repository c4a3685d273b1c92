//! The Docker daemon, through its command-line client: the client knows contexts, `DOCKER_HOST`, TLS and ssh.

mod error;
mod network;
mod volume;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::exec::Command;

pub use error::{Error, Result};
pub use network::Network;
pub use volume::Volume;

/// Asking the daemon something takes this long at most.
const ASK: Duration = Duration::from_secs(30);
/// Loading and pulling an image, stopping a container.
const WORK: Duration = Duration::from_mins(5);
/// Where the daemon of a host listens, and Cluster API's docker provider looks for it.
pub const SOCKET: &str = "/var/run/docker.sock";
/// The oldest API that Cluster API's docker provider and kind can talk to.
const OLDEST_API: (u32, u32) = (1, 40);

/// A Docker daemon, or podman's service, which answers Docker's client, too.
#[derive(Clone, Debug)]
pub struct Docker {
    program: PathBuf,
    is_podman: Arc<OnceCell<bool>>,
}

impl Default for Docker {
    fn default() -> Self {
        Self { program: PathBuf::from("docker"), is_podman: Arc::default() }
    }
}

/// What the daemon says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    /// Its version.
    pub server_version: String,
    /// Where it keeps images and containers, on its own host.
    pub docker_root_dir: PathBuf,
    /// What makes its containers' control groups; `none` where nobody may.
    #[serde(default)]
    pub cgroup_driver: String,
    /// How many processors it has.
    #[serde(rename = "NCPU", default)]
    pub processors: u64,
}

/// A container, as `docker inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    /// Its id.
    pub id: String,
    /// When it was made.
    #[serde(default)]
    pub created: Option<jiff::Timestamp>,
    name: String,
    state: ContainerState,
    config: ContainerConfig,
    #[serde(default)]
    mounts: Vec<Mount>,
    #[serde(default)]
    network_settings: network::Networks,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerState {
    status: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    started_at: Option<jiff::Timestamp>,
    #[serde(default)]
    finished_at: Option<jiff::Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerConfig {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// A part of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Mount {
    #[serde(default)]
    source: PathBuf,
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        self.name.trim_start_matches('/')
    }

    /// Whether its process runs.
    pub fn runs(&self) -> bool {
        self.state.status == "running"
    }

    /// Whether it ended, and has not run since another one started that runs: a daemon that is restarted ends all before it starts any.
    pub fn ended_before(&self, other: &Self) -> bool {
        let (ended, started) = (self.state.finished_at, other.state.started_at);
        !self.runs() && other.runs() && ended.zip(started).is_some_and(|(ended, started)| ended < started)
    }

    /// Its state as docker names it.
    pub fn state(&self) -> &str {
        &self.state.status
    }

    /// The process id of its first process, on the daemon's host.
    pub fn pid(&self) -> Option<u32> {
        Some(self.state.pid).filter(|pid| *pid != 0)
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.config.labels.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether it mounts something that lies in a folder of the host.
    pub fn mounts_from(&self, folder: &Path) -> bool {
        self.mounts.iter().any(|mount| mount.source.starts_with(folder))
    }
}

impl Docker {
    fn command(&self) -> Command {
        Command::new(&self.program)
    }

    /// Runs the client to its end; `action` says what for.
    async fn call(&self, action: impl Into<String>, command: Command, limit: Duration) -> Result<String> {
        match command.run(limit).await {
            Ok(output) => Ok(output.text()),
            Err(source) => Err(Error::of(action.into(), source)),
        }
    }

    /// Asks the daemon about itself; the first thing to do, because its errors say what is wrong with the daemon.
    pub async fn info(&self) -> Result<Info> {
        let version = self.command().args(["version", "--format", "{{.Server.APIVersion}}"]);
        let api = self.call("reach the docker daemon", version, ASK).await?;
        let api = api.trim();
        let parsed = api.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        if parsed.is_none_or(|parsed: (u32, u32)| parsed < OLDEST_API) {
            // Docker numbers its API; podman's command says its own version.
            if api.matches('.').count() == 2 {
                return Err(Error::Shim);
            }
            let oldest = format!("{}.{}", OLDEST_API.0, OLDEST_API.1);
            return Err(Error::Old { api: api.to_owned(), oldest });
        }
        let info = self.command().args(["info", "--format", "{{json .}}"]);
        parse("docker info", &self.call("ask the docker daemon about itself", info, ASK).await?)
    }

    /// Whether the daemon is podman's service: it does without some of what Docker does.
    pub async fn is_podman(&self) -> Result<bool> {
        let ask = async || {
            let version = self.command().args(["version", "--format", "{{json .Server.Components}}"]);
            let text = self.call("ask the docker daemon what it is", version, ASK).await?;
            let components: Option<Vec<Component>> = parse("docker version", &text)?;
            Ok(components.into_iter().flatten().any(|component| component.name == "Podman Engine"))
        };
        self.is_podman.get_or_try_init(ask).await.copied()
    }

    /// The host that the daemon is on, when it is not this one: the client's context or `DOCKER_HOST` names it.
    pub async fn elsewhere(&self) -> Result<Option<String>> {
        let ask = self.command().args(["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]);
        Ok(host_of(self.call("ask docker where its daemon is", ask, ASK).await?.trim()))
    }

    /// The containers that carry a label (`NAME` or `NAME=VALUE`), those that do not run included.
    pub async fn containers(&self, label: &str) -> Result<Vec<Container>> {
        let list =
            self.command().args(["ps", "--all", "--quiet", "--no-trunc", "--filter"]).arg(format!("label={label}"));
        let ids = self.call(format!("list containers with the label {label}"), list, ASK).await?;
        let mut all = Vec::new();
        for id in ids.split_whitespace() {
            // One may go while the others are looked at.
            all.extend(self.container(id).await?);
        }
        all.sort_by(|a: &Container, b: &Container| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The container with a name or id.
    pub async fn container(&self, name: &str) -> Result<Option<Container>> {
        let inspect = self.command().args(["container", "inspect", name]);
        match self.call(format!("look at container {name}"), inspect, ASK).await {
            Ok(text) => Ok(parse::<Vec<Container>>("docker container inspect", &text)?.pop()),
            Err(error) if error.not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Starts a container that runs in the background; returns its id.
    pub async fn run(&self, name: &str, options: &[String], image: &str) -> Result<String> {
        let run = self.command().args(["run", "--detach", "--name", name]).args(options).arg(image);
        Ok(self.call(format!("start container {name}"), run, WORK).await?.trim().to_owned())
    }

    /// Whether the daemon's host has a file; a container that carries a label and is never started would mount it.
    pub async fn has_file(&self, path: &str, image: &str, label: &str) -> Result<bool> {
        if self.is_podman().await? {
            // It looks when it starts the container, and no sooner; it is on this host.
            return Ok(Path::new(path).exists());
        }
        let mount = format!("type=bind,source={path},target=/file");
        let create = self.command().args(["container", "create", "--label", label, "--mount", &mount, image]);
        match self.call(format!("look for {path} on the daemon's host"), create, ASK).await {
            Ok(id) => self.remove(id.trim()).await.map(|()| true),
            Err(error) if error.lacks_source() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Starts a container that was stopped.
    pub async fn start(&self, name: &str) -> Result<()> {
        self.call(format!("start container {name}"), self.command().args(["start", name]), WORK).await.map(|_| ())
    }

    /// Ends and removes a container with its anonymous volumes; one that is gone is fine.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let remove = self.command().args(["rm", "--force", "--volumes", name]);
        match self.call(format!("remove container {name}"), remove, WORK).await {
            Err(error) if !error.not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// The host's address and port to which a container's port is published.
    pub async fn port(&self, name: &str, port: u16) -> Result<String> {
        let ask = self.command().args(["port", name, &format!("{port}/tcp")]);
        let text = self.call(format!("look for port {port} of container {name}"), ask, ASK).await?;
        let first = text.lines().next().unwrap_or_default().trim();
        if first.is_empty() {
            return Err(Error::Answer { command: format!("docker port {name}"), reason: "it names no port".into() });
        }
        Ok(first.to_owned())
    }

    /// The id of an image; `None` when the daemon does not have it.
    pub async fn image(&self, reference: &str) -> Result<Option<String>> {
        let inspect = self.command().args(["image", "inspect", "--format", "{{.Id}}", reference]);
        match self.call(format!("look for image {reference}"), inspect, ASK).await {
            Ok(id) => Ok(Some(id.trim().to_owned())),
            Err(error) if error.not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Loads the images of an archive.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        let load = self.command().args(["load", "--quiet", "--input"]).arg(archive);
        self.call("load an image into docker", load, WORK).await.map(|_| ())
    }

    /// Pulls an image and gives it another name, under which it is known from then on.
    pub async fn pull_as(&self, from: &str, reference: &str) -> Result<()> {
        let pull = self.command().args(["pull", "--quiet", from]);
        self.call(format!("pull image {from}"), pull, WORK).await?;
        let tag = self.command().args(["tag", from, reference]);
        self.call(format!("name image {reference}"), tag, ASK).await?;
        // The name that it was pulled by has a port that means nothing tomorrow.
        let untag = self.command().args(["rmi", "--no-prune", from]);
        self.call(format!("remove the name {from}"), untag, ASK).await.map(|_| ())
    }
}

/// The host in a daemon's address; none in that of a socket, nor of this host itself.
fn host_of(address: &str) -> Option<String> {
    let (scheme, rest) = address.split_once("://")?;
    if !["tcp", "http", "https", "ssh"].contains(&scheme) {
        return None;
    }
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
        _ => host,
    };
    let here = host == "localhost" || host.starts_with("127.") || host == "[::1]";
    (!here && !host.is_empty()).then(|| host.to_owned())
}

fn parse<T: serde::de::DeserializeOwned>(command: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::Answer { command: command.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_elsewhere_has_a_host() {
        let cases = [
            ("unix:///var/run/docker.sock", None),
            ("npipe:////./pipe/docker_engine", None),
            ("", None),
            ("tcp://docker:2376", Some("docker")),
            ("tcp://10.0.0.7:2375/", Some("10.0.0.7")),
            ("tcp://[fd00::7]:2376", Some("[fd00::7]")),
            ("ssh://me@box", Some("box")),
            ("tcp://localhost:2375", None),
            ("tcp://127.0.0.1:2375", None),
        ];
        for (address, host) in cases {
            assert_eq!(host_of(address).as_deref(), host, "{address}");
        }
    }

    #[test]
    fn containers_are_understood() {
        let text = r#"[{"Id": "abc", "Name": "/c-control-plane", "State": {"Status": "running", "Pid": 7},
            "Config": {"Labels": {"io.x-k8s.kind.cluster": "c"}},
            "Mounts": [{"Type": "bind", "Source": "/home/x/kind/c/certs.d", "Destination": "/etc/containerd/certs.d"}]}]"#;
        let container = parse::<Vec<Container>>("t", text).unwrap().pop().unwrap();
        assert_eq!((container.name(), container.runs(), container.pid()), ("c-control-plane", true, Some(7)));
        assert_eq!(container.label("io.x-k8s.kind.cluster"), Some("c"));
        assert!(container.mounts_from(Path::new("/home/x/kind/c")));
        assert!(!container.mounts_from(Path::new("/home/x/kind/cc")));
        let text = r#"[{"Id": "a", "Name": "/b", "State": {"Status": "exited"}, "Config": {"Labels": null}}]"#;
        let container = parse::<Vec<Container>>("t", text).unwrap().pop().unwrap();
        assert_eq!((container.runs(), container.pid(), container.label("x")), (false, None, None));
    }

    #[tokio::test]
    async fn a_client_that_is_not_there_is_named() {
        let error = Docker { program: "/nonexistent/docker".into(), ..Docker::default() }.info().await.unwrap_err();
        let failure = crate::failure::Failure::from(error);
        assert_eq!(failure.kind, crate::failure::Kind::Preflight);
        assert_eq!(failure.to_string(), "the docker client is not installed or not on PATH");
    }
}
