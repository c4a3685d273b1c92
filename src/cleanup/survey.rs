//! Looks at this host, its Docker daemon and the clusters that answer; changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::execute::Subject;
use super::seen::{Container, Contents, Daemon, Network, Node, Other, Run, Seen, Volume};
use crate::backend::{Addresses, CLUSTER_LABEL, HOME_LABEL, Kind, LABEL, MIRROR, NETWORK, ROLE_LABEL, kind_volume};
use crate::bootstrap::{self, MAKES, Makes, Past};
use crate::docker::{self, Docker};
use crate::environment::{Backend, Machines};
use crate::failure::Result;
use crate::k8s::Cluster;
use crate::node::{self, Home, Role, State};
use crate::saga::{Entry, Journal, Record};
use crate::{capi, clock};

/// A cluster that does not answer by then is not asked: what is gone must not be waited for.
const ASK: Duration = Duration::from_secs(10);

/// Looks.
pub async fn survey(subject: &Subject, docker: &Docker) -> Result<Seen> {
    let (home, environment) = (&subject.home, &subject.environment);
    let pasts = bootstrap::runs(home, environment)?;
    let unseen = pasts.last().and_then(|past| {
        let remains = past.cleaned.clone().filter(|remains| !remains.is_empty())?;
        Some((past.folder.display().to_string(), remains))
    });
    let own = bootstrap::bootstrap_cluster(environment);
    let addresses = Addresses::of(home, environment)?;
    let mut seen = Seen {
        environment: environment.clone(),
        home: home.root().display().to_string(),
        now: clock::now(),
        runs: runs(pasts)?,
        unseen,
        others: others(home, environment)?,
        nodes: node::list(home)?.iter().map(of_node).collect(),
        halves: node::halves(home)?,
        kind_files: Kind::has_files_of(home, &own),
        addresses: addresses.path().exists().then(|| addresses.path().display().to_string()),
        ..Seen::default()
    };
    seen.live = live(home, environment, &seen.runs).await?;
    let makes_containers = |run: &Run| run.makes.as_ref().is_some_and(uses_docker);
    let was_used = seen.kind_files || seen.addresses.is_some() || seen.runs.iter().any(makes_containers);
    if was_used || subject.docker {
        seen.daemon = match docker.info().await {
            Ok(_) => Daemon::Answers(contents(home, environment, &addresses, docker).await?),
            // Where no run was there is no daemon to be missed.
            Err(_) if !was_used => Daemon::Needless,
            Err(error) => Daemon::Silent(error.to_string()),
        };
    }
    Ok(seen)
}

fn uses_docker(makes: &Makes) -> bool {
    makes.machines == Machines::Docker || makes.backend == Backend::Kind
}

/// The runs that have made something and were not cleaned up.
fn runs(pasts: Vec<Past>) -> Result<Vec<Run>> {
    let standing = pasts.into_iter().filter(|past| past.began && past.cleaned.is_none());
    standing.map(|past| Ok(run(&past, &Journal::peek(&past.folder.join("journal.ndjson"))?))).collect()
}

/// What a run's journal says of it.
fn run(past: &Past, entries: &[Entry]) -> Run {
    let times = || entries.iter().map(|entry| entry.time);
    let begins =
        |name: &str| entries.iter().find(|entry| matches!(&entry.record, Record::Begin { step } if step.0 == name));
    let makes = entries.iter().rev().find_map(|entry| match &entry.record {
        Record::Fact { name, value } if name == MAKES => serde_json::from_value(value.clone()).ok(),
        _ => None,
    });
    let pivoted = |entry: &Entry| matches!(&entry.record, Record::End { step, .. } if step.0 == "pivot");
    Run {
        id: past.id().0,
        folder: past.folder.display().to_string(),
        from: times().min().unwrap_or_default(),
        until: times().max().unwrap_or_default(),
        makes,
        released: begins("release").map(|entry| entry.time),
        handed_over: past.finished || entries.iter().any(pivoted),
        kubeconfig: past.kubeconfig().is_some(),
    }
}

/// The other environments of this home that have made something, or are about to.
fn others(home: &Home, environment: &str) -> Result<Vec<Other>> {
    let mut found = Vec::new();
    for name in crate::fsx::list(&home.runs())?.into_iter().filter(|name| name != environment) {
        let runs = runs(bootstrap::runs(home, &name)?)?;
        let works = bootstrap::worker(home, &name)?.is_some();
        if runs.is_empty() && !works {
            continue;
        }
        // One that is only just beginning has not said yet what it makes.
        let unknown = runs.iter().any(|run| run.makes.is_none());
        let docker = unknown || runs.is_empty() || runs.iter().any(|run| run.makes.as_ref().is_some_and(uses_docker));
        found.push(Other { name, docker, runs });
    }
    Ok(found)
}

fn of_node(node: &node::Node) -> Node {
    let config = node.config();
    Node {
        name: config.name.to_string(),
        folder: node.paths().folder.display().to_string(),
        cluster: config.cluster.clone(),
        role: config.role,
        owner: config.owner.clone(),
    }
}

/// The clusters that the bootstrap cluster and a management cluster of ours hold, as far as these answer.
async fn live(home: &Home, environment: &str, runs: &[Run]) -> Result<BTreeMap<String, &'static str>> {
    let (own, owner) = (bootstrap::bootstrap_cluster(environment), bootstrap::owner(environment));
    let mut found = BTreeMap::new();
    let mut holders = Vec::new();
    let ours = |node: &node::Node| node.config().cluster == own && node.config().owner == owner;
    for node in node::list(home)?.into_iter().filter(ours) {
        if node.config().role == Role::ControlPlane && node.status().await?.state != State::Stopped {
            holders.push(("bootstrap", node.paths().admin.clone()));
        }
    }
    holders.push(("bootstrap", home.root().join("kind").join(&own).join("kubeconfig")));
    for run in runs.iter().filter(|run| run.handed_over && run.kubeconfig) {
        holders.push(("management", Path::new(&run.folder).join("management.kubeconfig")));
    }
    for (name, kubeconfig) in holders.into_iter().filter(|(_, path)| path.exists()) {
        let ask = async {
            Ok::<_, crate::failure::Failure>(capi::clusters(&Cluster::connect(name, &kubeconfig).await?).await?)
        };
        match tokio::time::timeout(ASK, ask).await {
            Ok(Ok(clusters)) => found.extend(clusters.into_iter().map(|cluster| (cluster, name))),
            Ok(Err(failure)) => tracing::debug!(cluster = name, %failure, "its Clusters are not known"),
            Err(_) => tracing::debug!(cluster = name, "it does not answer in time"),
        }
    }
    Ok(found)
}

/// What the daemon has.
async fn contents(home: &Home, environment: &str, addresses: &Addresses, docker: &Docker) -> Result<Contents> {
    let own = bootstrap::bootstrap_cluster(environment);
    let mut theirs = Vec::new();
    for name in crate::fsx::list(&home.runs())?.into_iter().filter(|name| name != environment) {
        theirs.push((Addresses::of(home, &name)?, name));
    }
    let known = |id: &str| {
        if addresses.knows(id) {
            return Some(environment.to_owned());
        }
        theirs.iter().find(|(addresses, _)| addresses.knows(id)).map(|(_, name)| name.clone())
    };
    let mirror = docker.volume(MIRROR).await?;
    let mut all = docker.containers(CLUSTER_LABEL).await?;
    all.extend(docker.containers(LABEL).await?);
    all.sort_by(|a, b| (a.name(), &a.id).cmp(&(b.name(), &b.id)));
    all.dedup_by(|a, b| a.id == b.id);
    let text = |value: Option<&str>| value.map(str::to_owned);
    let of_container = |one: &docker::Container| Container {
        id: one.id.clone(),
        name: one.name().to_owned(),
        created: one.created,
        cluster: text(one.label(CLUSTER_LABEL)),
        role: text(one.label(ROLE_LABEL)),
        label: text(one.label(LABEL)),
        home: text(one.label(HOME_LABEL)),
        known: known(&one.id),
        mounts_mirror: mirror.as_ref().is_some_and(|volume| one.mounts_from(&volume.mountpoint)),
    };
    let nodes: Vec<docker::Container> =
        all.iter().filter(|one| one.label(CLUSTER_LABEL) == Some(&own)).cloned().collect();
    let kind = Kind::new(home.clone(), home.bundle());
    let bootstrap_is_ours = kind.owner(&own, &nodes).await? == Some(bootstrap::owner(environment));
    let volumes = [docker.volume(&kind_volume(&own)).await?, mirror.clone()];
    let volumes = volumes.into_iter().flatten().map(|volume| Volume {
        label: text(volume.label(LABEL)),
        home: text(volume.label(HOME_LABEL)),
        name: volume.name,
    });
    let mut networks = docker.networks(&format!("label={LABEL}")).await?;
    networks.extend(docker.networks(&format!("name=^{NETWORK}$")).await?);
    networks.sort_by(|a, b| a.id.cmp(&b.id));
    networks.dedup_by(|a, b| a.id == b.id);
    let networks = networks.into_iter().map(|network| Network {
        label: text(network.label(LABEL)),
        containers: network.containers().map(str::to_owned).collect(),
        created: network.created,
        id: network.id,
        name: network.name,
    });
    Ok(Contents {
        place: docker.elsewhere().await?.map_or_else(|| "docker".into(), |host| format!("docker on {host}")),
        containers: all.iter().map(of_container).collect(),
        volumes: volumes.collect(),
        networks: networks.collect(),
        bootstrap_is_ours,
    })
}
