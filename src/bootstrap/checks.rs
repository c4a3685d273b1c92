//! Preflight: everything that can be known to be wrong before anything is made.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use serde::Serialize;

use super::{Story, access, run as runs};
use crate::backend::{Backend, CLUSTER_LABEL, Kind as KindBackend};
use crate::docker::{self, Container, Docker};
use crate::environment::{CHECKS, Machines, Management, PHASES};
use crate::failure::{Failure, Kind, Result};
use crate::fsx;
use crate::node::{self, State};

/// Disk that a whole run may take: unpacked images, three nodes' data, logs.
const DISK: u64 = 3 << 30;
/// Inotify instances that controllers and control planes of two clusters may take.
const INOTIFY: u64 = 64;
/// As many again where every node runs systemd, containerd and a kubelet.
const INOTIFY_NODES: u64 = 512;
/// Disk that images and containers of three nodes take.
const DISK_DOCKER: u64 = 6 << 30;

/// Where the docker provider listens for clusters that exist in memory only, whatever its flags say.
const PROVIDER_PORT: u16 = 19_000;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "found", rename_all = "kebab-case")]
pub enum Outcome {
    /// It is fine: what was found.
    Passed(String),
    /// The user left it out.
    Skipped,
    /// It must not go on like this: what was found.
    Refused(String),
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, for `--skip-check`.
    pub name: &'static str,
    /// What it found.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What to do about a refusal.
    pub remediation: String,
}

/// Runs every check that is not skipped.
pub async fn run(story: &Story) -> Result<Vec<Check>> {
    let skipped = &story.environment.settings().skip_checks;
    let mut checks = Vec::new();
    for name in CHECKS.into_iter().filter(|name| concerns(name, story.applies())) {
        if skipped.iter().any(|skip| skip == name) {
            checks.push(Check { name, outcome: Outcome::Skipped, remediation: String::new() });
            continue;
        }
        let found = match name {
            "bundle" => bundle(story).await,
            "environment" => environment(story).await,
            "source" => story.check_source().await,
            "cluster" => cluster(story).await,
            "disk" => disk(story),
            "inotify" => inotify(if story.docker().is_some() { INOTIFY_NODES } else { INOTIFY }),
            "docker" => docker(story).await,
            "ports" => ports(story).await,
            _ => leftovers(story).await,
        };
        match found {
            Ok(found) => checks.push(Check { name, outcome: Outcome::Passed(found), remediation: String::new() }),
            // A mistake in the call or in the repository is one whatever else is wrong.
            Err(failure) if failure.kind == Kind::Usage => return Err(failure),
            Err(failure) => checks.push(Check {
                name,
                outcome: Outcome::Refused(failure.to_string()),
                remediation: failure.hints.join("; "),
            }),
        }
    }
    Ok(checks)
}

/// Whether a check is one of a bootstrap, or of an existing cluster.
fn concerns(name: &str, existing: bool) -> bool {
    match name {
        "bundle" | "environment" | "source" => true,
        "cluster" => existing,
        _ => !existing,
    }
}

/// The failure that a refused check is.
pub fn verdict(checks: &[Check]) -> Result<()> {
    let refused: Vec<(&Check, &String)> = checks
        .iter()
        .filter_map(|check| match &check.outcome {
            Outcome::Refused(found) => Some((check, found)),
            _ => None,
        })
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    let said: Vec<String> = refused.iter().map(|(check, found)| format!("{}: {found}", check.name)).collect();
    let mut failure = Failure::preflight(said.join("; "));
    for (check, _) in &refused {
        if !check.remediation.is_empty() {
            failure = failure.hint(check.remediation.clone());
        }
    }
    let names: Vec<String> = refused.iter().map(|(check, _)| format!("--skip-check {}", check.name)).collect();
    Err(failure.hint(format!("if you know better: {}", names.join(" "))))
}

/// The bundle is there. Its content is compared with its digests when it is unpacked; `bundle verify` compares all of it.
async fn bundle(story: &Story) -> Result<String> {
    let bundle = story.bundle().await?;
    let entries = bundle.entries()?;
    Ok(format!("{} parts in {}", entries.len(), bundle.folder().display()))
}

/// The environment and the chart can be rendered, and every component exists.
async fn environment(story: &Story) -> Result<String> {
    let publication = story.publication().await?;
    // An existing cluster has no bootstrap phase, and need not define one that would.
    let phases: &[&'static str] = if story.applies() { &PHASES[1..] } else { &PHASES };
    let infrastructure = publication.check(story.tools().await?, phases).await?;
    story.infrastructure.get_or_init(async || infrastructure).await;
    // The digest is that of `cluster-init plan`.
    let (tag, version) = (publication.revision.tag(), publication.chart.version());
    Ok(format!("revision {tag}, chart {version}, {}", publication.digest()))
}

/// The existing cluster answers, and is nobody else's.
async fn cluster(story: &Story) -> Result<String> {
    let environment = story.environment.name();
    let cluster = &story.bootstrap().await?.cluster;
    cluster.api_ready().await.map_err(|state| {
        Failure::preflight(format!("the existing cluster does not answer: {state}"))
            .hint("is it the right kubeconfig? kubectl --kubeconfig FILE get nodes")
    })?;
    Management::may_take(cluster, environment).await?;
    Ok("answers, and nobody else's".into())
}

fn disk(story: &Story) -> Result<String> {
    let root = story.home.root();
    let free = fsx::free_bytes(root)?;
    if free < DISK {
        let text = format!(
            "{} MiB are free on the file system of {}, {} MiB are needed",
            free >> 20,
            root.display(),
            DISK >> 20
        );
        return Err(Failure::preflight(text)
            .hint("free disk space, or set CLUSTER_INIT_HOME to a folder on a larger file system"));
    }
    Ok(format!("{} GiB free", free >> 30))
}

/// The daemon answers, has room, and the bundle has what its containers are started from.
async fn docker(story: &Story) -> Result<String> {
    let Some(docker) = story.docker() else { return Ok("not needed".into()) };
    let info = docker.info().await?;
    if !story.bundle().await?.is_with("docker") {
        return Err(Failure::preflight("the bundle has no parts for machines in containers")
            .hint("cluster-init bundle build --with docker"));
    }
    limits(&info.cgroup_driver)?;
    let is_podman = docker.is_podman().await?;
    let mut found = vec![format!("{} {}", if is_podman { "podman" } else { "docker" }, info.server_version)];
    // The daemon of another host keeps its images there.
    if let Some(host) = docker.elsewhere().await? {
        if is_podman {
            return Err(podman_elsewhere(matches!(story.backend, Backend::Kind(_)), &host));
        }
        elsewhere(story, &host).await?;
        found.push(format!("on host {host}"));
    } else if info.docker_root_dir.is_dir() {
        let free = fsx::free_bytes(&info.docker_root_dir)?;
        room(&info.docker_root_dir, free)?;
        found.push(format!("{} GiB free", free >> 30));
        // A daemon in a machine of its own (Docker Desktop) is asked for it later, by a container.
        if story.environment.settings().machines == Machines::Docker && !Path::new(docker::SOCKET).exists() {
            return Err(no_socket(Kind::Preflight, is_podman));
        }
    }
    if let Backend::Kind(kind) = &story.backend {
        kind.check_name(&access::name(story.environment.name())).await?;
        found.push(kind.version().await?);
    }
    Ok(found.join(", "))
}

/// Cluster API's docker provider has no other way to a daemon than this socket of the daemon's host.
pub fn no_socket(kind: Kind, is_podman: bool) -> Failure {
    let socket = docker::SOCKET;
    let remedy = if is_podman {
        format!("ln -s /run/podman/podman.sock {socket}")
    } else {
        format!("have the daemon listen there, too: dockerd --host unix://{socket}")
    };
    let text = format!("the docker daemon's host has no {socket}, where Cluster API's docker provider looks for it");
    Failure::new(kind, text).hint(remedy)
}

fn podman_elsewhere(kind: bool, host: &str) -> Failure {
    let why = if kind {
        "and kind uses the podman of this host"
    } else {
        "whose containers plain processes of this host do not reach"
    };
    Failure::preflight(format!("podman's service is on host {host}, {why}"))
        .hint("run this there, or name a docker daemon in DOCKER_HOST and use --backend kind")
}

/// This host reaches what containers of another one publish there, and nothing more.
async fn elsewhere(story: &Story, host: &str) -> Result<()> {
    if matches!(story.backend, Backend::Local(_)) {
        let text =
            format!("the docker daemon is on host {host}, whose containers plain processes of this host do not reach");
        return Err(Failure::preflight(text).hint("--backend kind"));
    }
    if let Err(error) = tokio::net::lookup_host((host.trim_matches(['[', ']']), 0)).await {
        let text = format!("the docker daemon is on host {host}, and that name is not known here: {error}");
        return Err(Failure::preflight(text)
            .hint("name it in DOCKER_HOST as this host reaches the ports that its containers publish"));
    }
    Ok(())
}

/// Nodes get control groups of their own, which their kubelet divides.
fn limits(driver: &str) -> Result<()> {
    if driver != "none" {
        return Ok(());
    }
    let text = "docker has no control groups to give its containers (cgroup driver none), and kubelets need them";
    Err(Failure::preflight(text)
        .hint("a daemon without root needs cgroup v2 and delegation: https://kind.sigs.k8s.io/docs/user/rootless"))
}

/// There is room for images and containers where docker keeps them.
fn room(root: &Path, free: u64) -> Result<()> {
    if free >= DISK_DOCKER {
        return Ok(());
    }
    let root = root.display();
    let text = format!("{} MiB are free in docker's {root}, {} MiB are needed", free >> 20, DISK_DOCKER >> 20);
    Err(Failure::preflight(text).hint("free what is not used: docker system prune"))
}

/// The containers that are machines of the management cluster, or its load balancer.
pub async fn containers(docker: &Docker, cluster: &str) -> Result<Vec<Container>> {
    Ok(docker.containers(&format!("{CLUSTER_LABEL}={cluster}")).await?)
}

fn inotify(needed: u64) -> Result<String> {
    let path = Path::new("/proc/sys/fs/inotify/max_user_instances");
    // A kernel without the file has no such limit.
    let Some(text) = fsx::read_text_if_present(path)? else { return Ok("no limit".into()) };
    let limit: u64 = text.trim().parse().unwrap_or(u64::MAX);
    if limit < needed {
        return Err(Failure::preflight(format!(
            "this host allows {limit} inotify instances a user, {needed} are needed"
        ))
        .hint("sysctl fs.inotify.max_user_instances=1024"));
    }
    Ok(format!("{limit} instances"))
}

/// Ports of a bootstrap cluster that was stopped are free: they were chosen when it was made.
async fn ports(story: &Story) -> Result<String> {
    let probe = TcpListener::bind(("127.0.0.1", 0));
    probe.map_err(|error| Failure::preflight("no port can be opened on 127.0.0.1").caused_by(error))?;
    let own = access::name(story.environment.name());
    let Some(node) = node::list(&story.home)?.into_iter().find(|node| node.config().cluster == own) else {
        if matches!(story.backend, Backend::Local(_)) && story.environment.settings().machines == Machines::Docker {
            free_for_provider(PROVIDER_PORT)?;
        }
        let port = story.environment.settings().kind.api_port;
        let is_new = matches!(story.backend, Backend::Kind(_)) && !KindBackend::has_files_of(&story.home, &own);
        if let (true, Some(docker)) = (is_new && port != 0, story.docker())
            && docker.elsewhere().await?.is_none()
        {
            free_for_kind(port)?;
        }
        return Ok("chosen when the bootstrap cluster is made".into());
    };
    if node.status().await?.state != State::Stopped {
        return Ok("in use by the bootstrap cluster".into());
    }
    let taken: Vec<String> = node
        .config()
        .ports
        .all()
        .into_iter()
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_err())
        .map(|port| port.to_string())
        .collect();
    if taken.is_empty() {
        return Ok("free".into());
    }
    let name = &node.config().name;
    Err(Failure::preflight(format!(
        "ports {} of the bootstrap cluster {name} are taken by another program",
        taken.join(", ")
    ))
    .hint(format!("see who listens (ss -ltnp), or begin anew: cluster-init local delete {name}")))
}

/// Cluster API's docker provider, a process of this host where the bootstrap cluster is one, can have its port.
fn free_for_provider(port: u16) -> Result<()> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map(drop).map_err(|error| {
        Failure::preflight(format!(
            "port {port} cannot be had, and Cluster API's docker provider listens there and nowhere else"
        ))
        .caused_by(error)
        .hint("see who listens (ss -ltnp): a bootstrap cluster of plain processes has it as long as it is there (cluster-init local list)")
        .hint("or have the bootstrap cluster made by kind, which has a network of its own: --backend kind")
    })
}

/// kind's API server can have the port that the settings name.
fn free_for_kind(port: u16) -> Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|error| {
        Failure::preflight(format!("port {port} cannot be had, and kind_api_port names it"))
            .caused_by(error)
            .hint("see who listens (ss -ltnp), or leave it to kind: --set kind_api_port=0")
    })
}

/// What an earlier run left is taken up by this one, or is refused.
async fn leftovers(story: &Story) -> Result<String> {
    let environment = story.environment.name();
    let nodes = node::list(&story.home)?;
    let found = |wanted: &dyn Fn(&node::Node) -> bool| nodes.iter().filter(|n| wanted(n)).cloned().collect::<Vec<_>>();
    let own = access::name(environment);
    let bootstrap = found(&|node| node.config().cluster == own);
    if let Some(node) = bootstrap.first().filter(|node| node.config().owner != access::owner(environment)) {
        return Err(Failure::preflight(format!(
            "node {own} was made by {}, not by a bootstrap of {environment}",
            node.config().owner
        ))
        .hint(format!("if nobody needs it: cluster-init local delete {own}")));
    }
    // Machines that are containers have nothing to do with another environment's nodes.
    let is_docker = story.environment.settings().machines == Machines::Docker;
    let management = story.cluster_name().await?;
    let machines = found(&|node| node.config().cluster == management && !is_docker);
    let containers = match story.docker() {
        Some(docker) => containers(docker, &management).await?,
        None => Vec::new(),
    };
    // A run that was refused made none of it.
    if story.run.resumed && runs::began(story.run.journal.past()) {
        return Ok(format!("run {} goes on with {} nodes", story.run.id, bootstrap.len() + machines.len()));
    }
    if let Some(node) = machines.first().or(bootstrap.first()) {
        let cluster = &node.config().cluster;
        return Err(Failure::preflight(format!(
            "an earlier run left cluster {cluster} ({} nodes)",
            bootstrap.len() + machines.len()
        ))
        .hint(format!("see what would go: cluster-init cleanup {environment} --dry-run"))
        .hint(format!(
            "if nobody needs it: cluster-init cleanup {environment}; what it does not know: cluster-init local delete {cluster}"
        )));
    }
    if let Some(first) = containers.first() {
        let failure = Failure::preflight(format!(
            "there are {} containers of a cluster {management} already, {} among them",
            containers.len(),
            first.name()
        ));
        let pasts = runs::all(&story.home, environment)?;
        let made = pasts.iter().any(runs::Past::stands);
        let began = pasts.iter().any(|past| past.began && past.cleaned.is_none());
        let again = format!("if docker or its host was started again: cluster-init resume {environment}");
        let failure = if made { failure.hint(again) } else { failure };
        let remove = if began {
            format!("cluster-init cleanup {environment}")
        } else {
            // No run of this home can have made them.
            format!(
                "docker rm --force --volumes $(docker ps --all --quiet --filter label={CLUSTER_LABEL}={management})"
            )
        };
        return Err(failure.hint(format!("if nobody needs them: {remove}")).hint(
            "if they are another environment's: give this one's cluster a name of its own, cluster.name in its values",
        ));
    }
    if story.docker().is_some()
        && let Some(made) = story.made().await?
    {
        return Err(Failure::preflight(format!("an earlier run left the bootstrap cluster {}", made.name))
            .hint(format!("if nobody needs it: cluster-init cleanup {environment}")));
    }
    Ok("none".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_docker_that_is_nearly_full_is_named() {
        let root = Path::new("/var/lib/docker");
        assert!(room(root, DISK_DOCKER).is_ok());
        let refused = room(root, 900 << 20).unwrap_err();
        assert_eq!(refused.to_string(), "900 MiB are free in docker's /var/lib/docker, 6144 MiB are needed");
        assert_eq!(refused.kind, Kind::Preflight);
        assert_eq!(refused.hints, ["free what is not used: docker system prune"]);
    }

    #[test]
    fn a_daemon_without_control_groups_is_refused() {
        assert!(limits("cgroupfs").is_ok() && limits("systemd").is_ok());
        let refused = limits("none").unwrap_err();
        assert_eq!(refused.kind, Kind::Preflight);
        assert!(refused.hints[0].contains("https://kind.sigs.k8s.io/docs/user/rootless"));
    }

    #[test]
    fn podman_on_another_host_is_refused_for_what_cannot_use_it() {
        let said = |kind| podman_elsewhere(kind, "ci").to_string();
        assert_eq!(said(true), "podman's service is on host ci, and kind uses the podman of this host");
        assert_eq!(
            said(false),
            "podman's service is on host ci, whose containers plain processes of this host do not reach"
        );
    }

    #[test]
    fn a_daemon_without_the_socket_of_the_provider_is_told_how_to_have_it() {
        let refused = no_socket(Kind::Preflight, false);
        let said =
            "the docker daemon's host has no /var/run/docker.sock, where Cluster API's docker provider looks for it";
        assert_eq!(refused.to_string(), said);
        assert_eq!(refused.hints, ["have the daemon listen there, too: dockerd --host unix:///var/run/docker.sock"]);
        let podman = no_socket(Kind::Failed, true);
        assert_eq!(podman.hints, ["ln -s /run/podman/podman.sock /var/run/docker.sock"]);
    }

    #[test]
    fn a_port_that_the_docker_provider_cannot_have_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = free_for_provider(port).unwrap_err();
        let said =
            format!("port {port} cannot be had, and Cluster API's docker provider listens there and nowhere else");
        assert!(refused.to_string().starts_with(&said), "{refused}");
        assert_eq!(refused.kind, Kind::Preflight);
        assert!(
            refused.hints[0].ends_with("(cluster-init local list)") && refused.hints[1].ends_with("--backend kind")
        );
        let of_kind = free_for_kind(port).unwrap_err();
        assert!(of_kind.to_string().starts_with(&format!("port {port} cannot be had, and kind_api_port names it")));
        drop(taken);
        assert!(free_for_provider(port).is_ok() && free_for_kind(port).is_ok());
    }
}
