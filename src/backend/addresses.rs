//! The addresses of containers that are machines: what runs in them, and what leads to them, is bound to the address that docker gave
//! them when they were made. When docker starts again it gives its containers addresses in the order in which they happen to start.
//!
//! ```text
//! HOME/docker/ENVIRONMENT.json   container id ─► name and address, as they were seen first
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CLUSTER_LABEL, LABEL, NETWORK};
use crate::docker::{Container, Docker};
use crate::event::Events;
use crate::failure::{Failure, Result};
use crate::fsx;
use crate::node::Home;

/// One container as it was seen first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its name.
    pub name: String,
    /// The cluster that it is a part of.
    #[serde(default)]
    pub cluster: String,
    /// Its address in the machines' network.
    pub address: String,
}

/// What a restart of docker did to containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Displaced {
    /// All are as they were.
    Nothing,
    /// These ended, and nobody started them again.
    Ended(Vec<String>),
    /// One is at another address, or another one at its own.
    Moved,
}

/// What is known of containers, by their ids.
#[derive(Clone, Debug)]
pub struct Addresses {
    path: PathBuf,
    known: BTreeMap<String, Known>,
}

impl Addresses {
    /// What a home knows of an environment's containers.
    pub fn of(home: &Home, environment: &str) -> Result<Self> {
        let path = home.root().join("docker").join(format!("{environment}.json"));
        let text = fsx::read_text_if_present(&path)?;
        let Some(text) = text else { return Ok(Self { path, known: BTreeMap::new() }) };
        match serde_json::from_str(&text) {
            Ok(known) => Ok(Self { path, known }),
            Err(error) => Err(Failure::failed(format!(
                "the containers' addresses in {} cannot be read: {error}",
                path.display()
            ))
            .hint("remove this file, unless docker was restarted since the run began: the addresses are noted anew")),
        }
    }

    /// The clusters of the containers that are known.
    pub fn clusters(&self) -> Vec<String> {
        let names: BTreeSet<&String> = self.known.values().map(|known| &known.cluster).collect();
        names.into_iter().filter(|name| !name.is_empty()).cloned().collect()
    }

    /// Whether a container was seen as one of the environment's, by its id, which nobody has twice.
    pub fn knows(&self, id: &str) -> bool {
        self.known.contains_key(id)
    }

    /// The file; gone, nothing is known.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Takes down which containers some clusters have by now, and forgets those that are gone. Nothing is known of machines that are
    /// no containers.
    pub async fn follow(&mut self, docker: &Docker, clusters: impl IntoIterator<Item = String>) -> Result<()> {
        if self.known.is_empty() {
            return Ok(());
        }
        let clusters: BTreeSet<String> = self.clusters().into_iter().chain(clusters).collect();
        let all = of_clusters(docker, &clusters.into_iter().collect::<Vec<_>>()).await?;
        let before = self.known.clone();
        self.known.retain(|id, _| all.iter().any(|container| container.id == *id));
        self.see(&all);
        if self.known == before { Ok(()) } else { self.write() }
    }

    /// Takes down the addresses of containers that were not seen before.
    pub fn note(&mut self, containers: &[Container]) -> Result<()> {
        let before = self.known.clone();
        self.see(containers);
        if self.known == before { Ok(()) } else { self.write() }
    }

    fn see(&mut self, containers: &[Container]) {
        for container in containers.iter().filter(|container| container.runs()) {
            let Some(address) = container.address(NETWORK) else { continue };
            let cluster = container.label(CLUSTER_LABEL).unwrap_or_default().to_owned();
            let seen = Known { name: container.name().to_owned(), cluster: String::new(), address: address.to_owned() };
            // An earlier version took down no cluster.
            self.known.entry(container.id.clone()).or_insert(seen).cluster = cluster;
        }
    }

    fn write(&self) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            fsx::create_private_dir(folder)?;
        }
        Ok(fsx::write_private(&self.path, serde_json::to_vec_pretty(&self.known).map_err(Failure::from_error)?)?)
    }

    /// The address that a container had, when it runs and has another one now.
    pub fn moved(&self, container: &Container) -> Option<&Known> {
        let address = container.address(NETWORK)?;
        self.known.get(&container.id).filter(|known| known.address != address)
    }

    /// What a restart of docker did to the containers of some clusters.
    pub async fn displaced(&self, docker: &Docker, clusters: &[String]) -> Result<Displaced> {
        let all = of_clusters(docker, clusters).await?;
        Ok(self.judge(&all))
    }

    fn is_in_the_way(&self, container: &Container, own: &[Container]) -> bool {
        let address = container.address(NETWORK);
        own.iter().all(|one| one.id != container.id)
            && self.known.values().any(|known| Some(known.address.as_str()) == address)
    }

    fn judge(&self, all: &[Container]) -> Displaced {
        // One that ended may have lost its address to another, too.
        let taken = |known: &Known| all.iter().any(|other| other.address(NETWORK) == Some(known.address.as_str()));
        let lost = |one: &Container| !one.runs() && self.known.get(&one.id).is_some_and(taken);
        if all.iter().any(|container| self.moved(container).is_some() || lost(container)) {
            return Displaced::Moved;
        }
        // Docker starts none again that ended well, which a load balancer may have done.
        let left =
            |one: &&Container| self.known.contains_key(&one.id) && all.iter().any(|other| one.ended_before(other));
        let left: Vec<String> = all.iter().filter(left).map(|one| one.name().to_owned()).collect();
        if left.is_empty() { Displaced::Nothing } else { Displaced::Ended(left) }
    }

    /// The containers of some clusters that do not run, and whether any other does.
    pub async fn stopped(&self, docker: &Docker, clusters: &[String]) -> Result<(Vec<String>, bool)> {
        let all = of_clusters(docker, clusters).await?;
        let stopped = all.iter().filter(|container| !container.runs()).map(|container| container.name().to_owned());
        Ok((stopped.collect(), all.iter().any(Container::runs)))
    }

    /// Gives the containers that are known their addresses again, for good, and starts those that do not run. The registry beside them
    /// is known by its name, and only makes room; so do containers of others that were given one of these addresses.
    pub async fn restore(&self, docker: &Docker, clusters: &[String], events: &Events) -> Result<()> {
        let mut all = of_clusters(docker, clusters).await?;
        events.progress("docker", "containers that it stopped or moved get their own addresses again");
        let mut beside = docker.containers(&format!("{LABEL}=mirror")).await?;
        let foreign = docker.containers(CLUSTER_LABEL).await?;
        beside.extend(foreign.into_iter().filter(|one| self.is_in_the_way(one, &all)));
        let running = all.iter().chain(&beside).filter(|container| container.runs());
        docker.stop(&running.map(Container::name).collect::<Vec<_>>()).await?;
        for (container, known) in all.iter().filter_map(|one| Some((one, self.known.get(&one.id)?))) {
            docker.pin(container.name(), NETWORK, &known.address).await.map_err(|error| {
                Failure::from(error)
                    .hint(format!("docker gives addresses back only in a network {NETWORK} that cluster-init made"))
            })?;
        }
        // Whoever has no address of its own takes what is left.
        all.sort_by_key(|container| !self.known.contains_key(&container.id));
        for container in all.iter().chain(&beside) {
            docker.start(container.name()).await?;
        }
        Ok(())
    }
}

async fn of_clusters(docker: &Docker, clusters: &[String]) -> Result<Vec<Container>> {
    let mut all = Vec::new();
    for cluster in clusters {
        all.extend(docker.containers(&format!("{CLUSTER_LABEL}={cluster}")).await?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, address: &str) -> Container {
        at(id, address, "running", "2026-01-01T10:00:00Z", "0001-01-01T00:00:00Z")
    }

    fn at(id: &str, address: &str, status: &str, started: &str, ended: &str) -> Container {
        let state = serde_json::json!({"Status": status, "StartedAt": started, "FinishedAt": ended});
        serde_json::from_value(serde_json::json!({"Id": id, "Name": format!("/{id}"), "State": state, "Config": {},
            "NetworkSettings": {"Networks": {NETWORK: {"IPAddress": address}}}}))
        .unwrap()
    }

    #[test]
    fn a_container_that_docker_did_not_start_again_is_told_from_one_that_was_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::of(&Home::at(folder.path()).unwrap(), "e").unwrap();
        let all = [container("lb", "172.18.0.3"), container("node", "172.18.0.4")];
        addresses.note(&all).unwrap();
        assert_eq!(addresses.judge(&all), Displaced::Nothing);
        let ended = |when: &str| at("lb", "", "exited", "2026-01-01T10:00:00Z", when);
        // Docker ended both, and started one again.
        let node = |address: &str| at("node", address, "running", "2026-01-01T12:00:05Z", "2026-01-01T12:00:00Z");
        let left = addresses.judge(&[ended("2026-01-01T12:00:00Z"), node("172.18.0.4")]);
        assert_eq!(left, Displaced::Ended(vec!["lb".into()]));
        assert_eq!(addresses.judge(&[ended("2026-01-01T12:00:00Z"), node("172.18.0.3")]), Displaced::Moved);
        // Somebody ended it later.
        assert_eq!(addresses.judge(&[ended("2026-01-01T13:00:00Z"), node("172.18.0.4")]), Displaced::Nothing);
        // Nobody knows it.
        let other = at("x", "", "exited", "2026-01-01T10:00:00Z", "2026-01-01T12:00:00Z");
        assert_eq!(addresses.judge(&[other, node("172.18.0.4")]), Displaced::Nothing);
    }

    #[test]
    fn the_address_that_was_seen_first_is_the_right_one() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let mut addresses = Addresses::of(&home, "e").unwrap();
        addresses.note(&[container("a", "172.18.0.3"), container("b", "172.18.0.4"), container("c", "")]).unwrap();
        let mut again = Addresses::of(&home, "e").unwrap();
        again.note(&[container("a", "172.18.0.4")]).unwrap();
        assert_eq!(again.moved(&container("a", "172.18.0.4")).unwrap().address, "172.18.0.3");
        assert_eq!(again.moved(&container("b", "172.18.0.4")), None);
        assert_eq!(again.moved(&container("b", "")), None, "it does not run");
        assert_eq!(again.moved(&container("c", "172.18.0.9")), None, "nobody knows");
    }

    #[test]
    fn whoever_was_given_the_address_of_another_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::of(&Home::at(folder.path()).unwrap(), "e").unwrap();
        let own = [container("a", "172.18.0.3"), container("b", "172.18.0.4")];
        addresses.note(&own).unwrap();
        assert!(addresses.is_in_the_way(&container("other", "172.18.0.3"), &own));
        assert!(!addresses.is_in_the_way(&container("other", "172.18.0.5"), &own));
        assert!(!addresses.is_in_the_way(&container("other", ""), &own));
        assert!(!addresses.is_in_the_way(&container("b", "172.18.0.3"), &own), "it is restored itself");
    }

    #[test]
    fn containers_are_known_by_their_clusters() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let mut addresses = Addresses::of(&home, "e").unwrap();
        assert_eq!(addresses.clusters(), Vec::<String>::new());
        let labels = serde_json::json!({"Labels": {CLUSTER_LABEL: "c"}});
        let networks = serde_json::json!({"Networks": {NETWORK: {"IPAddress": "172.18.0.3"}}});
        let text = serde_json::json!({"Id": "a", "Name": "/a", "State": {"Status": "running"}, "Config": labels, "NetworkSettings": networks});
        let seen: Container = serde_json::from_value(text).unwrap();
        addresses.note(std::slice::from_ref(&seen)).unwrap();
        assert_eq!(Addresses::of(&home, "e").unwrap().clusters(), ["c"]);
        // As an earlier version wrote it.
        let path = home.root().join("docker/e.json");
        fsx::write_private(&path, r#"{"a": {"name": "a", "address": "172.18.0.2"}}"#).unwrap();
        let mut addresses = Addresses::of(&home, "e").unwrap();
        assert_eq!(addresses.clusters(), Vec::<String>::new());
        addresses.note(std::slice::from_ref(&seen)).unwrap();
        let again = Addresses::of(&home, "e").unwrap();
        assert_eq!(again.clusters(), ["c"]);
        assert_eq!(again.moved(&seen).unwrap().address, "172.18.0.2");
    }

    #[test]
    fn a_file_that_was_damaged_is_named_with_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let path = home.root().join("docker/e.json");
        fsx::create_private_dir(path.parent().unwrap()).unwrap();
        fsx::write_private(&path, "{\"a\": ").unwrap();
        let failure = Addresses::of(&home, "e").unwrap_err();
        let said = format!("the containers' addresses in {} cannot be read: EOF while parsing", path.display());
        assert!(failure.to_string().starts_with(&said), "{failure}");
        assert!(failure.hints[0].starts_with("remove this file"), "{:?}", failure.hints);
    }
}
