//! What is on the Docker daemon.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Fate, Planner, Stage, Target};
use crate::backend::{MIRROR, NETWORK, kind_volume};
use crate::cleanup::seen::{Container, Contents};

/// What is made to look at the daemon is gone again in no time; left for longer, nobody removes it.
const LOOK: Duration = Duration::from_mins(1);
/// What the docker provider calls a control plane.
const CONTROL_PLANE: &str = "control-plane";

impl Planner<'_> {
    /// Nodes of clusters, and what was made beside them.
    pub(super) fn containers(&mut self, contents: &Contents) {
        for container in &contents.containers {
            let object = format!("container {}", container.name);
            let target = Target::Container(container.id.clone());
            let Some(cluster) = &container.cluster else {
                self.beside(container, contents);
                continue;
            };
            if *cluster == self.bootstrap {
                if contents.bootstrap_is_ours {
                    let why = format!("a node of kind cluster {cluster}, which mounts a volume with this home");
                    self.go(object, &contents.place, Stage::BootstrapCluster, target, why);
                } else {
                    let why = format!("of kind cluster {cluster}, which was not made from this home");
                    self.add(object, &contents.place, Fate::Stays, why);
                }
                continue;
            }
            match self.machine(container, cluster, contents) {
                Ok(why) => {
                    let stage = self.stage(cluster, container.role.as_deref() == Some(CONTROL_PLANE));
                    self.go(object, &contents.place, stage, target, why);
                }
                // Others' clusters are none of our business, unless they have the name of one of ours.
                Err((Fate::Stays, _)) if !self.seen.clusters().contains(cluster) => {}
                Err((Fate::Remains, why)) => {
                    let remedy = format!("if nobody needs it: docker rm --force --volumes {}", container.name);
                    self.remain(object, &contents.place, why, remedy);
                }
                Err((fate, why)) => self.add(object, &contents.place, fate, why),
            }
        }
    }

    /// Why a machine's container is the environment's, or what becomes of it otherwise.
    fn machine(&self, container: &Container, cluster: &str, contents: &Contents) -> Result<String, (Fate, String)> {
        let environment = &self.seen.environment;
        match &container.known {
            Some(known) if known == environment => {
                return Ok(format!("a machine of cluster {cluster}, seen by a run of {environment}"));
            }
            Some(known) => return Err((Fate::Stays, format!("a machine of cluster {cluster} of environment {known}"))),
            None => {}
        }
        if let Some(holder) = self.seen.live.get(cluster) {
            return Ok(format!("a machine of cluster {cluster}, which is on the {holder} cluster"));
        }
        let siblings = || contents.containers.iter().filter(|one| one.cluster.as_deref() == Some(cluster));
        if let Some(other) = siblings().filter_map(|one| one.known.as_ref()).find(|known| *known != environment) {
            return Err((Fate::Stays, format!("a machine of cluster {cluster} of environment {other}")));
        }
        if let Some(sibling) = siblings().find(|one| one.known.as_ref() == Some(environment)) {
            return Ok(format!(
                "a machine of cluster {cluster}, as {}, which a run of {environment} has seen",
                sibling.name
            ));
        }
        let why = self.claim(cluster)?;
        // What was there before the run could make machines is somebody else's.
        let since = self.seen.maker(cluster).and_then(|run| run.released);
        match (since, container.created) {
            (Some(since), Some(created)) if created >= since => Ok(format!("a machine {why}")),
            _ => Err((
                Fate::Remains,
                format!(
                    "a machine of cluster {cluster}, but made before {environment} made that, and seen by none of its runs"
                ),
            )),
        }
    }

    /// What is no node, but bears our label.
    fn beside(&mut self, container: &Container, contents: &Contents) {
        let object = format!("container {}", container.name);
        let target = Target::Container(container.id.clone());
        match container.label.as_deref() {
            Some("look") => self.look(object, container.created, target, &contents.place),
            Some("certs.d") if container.name == kind_volume(&self.bootstrap) => {
                if container.home.as_deref() == Some(&self.seen.home) {
                    self.go(object, &contents.place, Stage::Storage, target, "its label names this home");
                } else {
                    self.add(object, &contents.place, Fate::Stays, "its label names another home");
                }
            }
            // The mirror is told of with what else is shared; what is another cluster's is not told of.
            _ => {}
        }
    }

    /// What a process makes to look at the daemon.
    fn look(&mut self, object: String, created: Option<jiff::Timestamp>, target: Target, place: &str) {
        let old = created.is_some_and(|created| {
            self.seen.now.duration_since(created).as_secs() >= i64::try_from(LOOK.as_secs()).unwrap_or(i64::MAX)
        });
        if old {
            let why = "its label says that cluster-init made it to look at the daemon, and nobody removed it";
            self.go(object, place, Stage::Shared, target, why);
        } else {
            self.add(object, place, Fate::Stays, "somebody may be looking at the daemon with it just now");
        }
    }

    /// The volume of the bootstrap cluster.
    pub(super) fn volumes(&mut self, contents: &Contents) {
        let own = kind_volume(&self.bootstrap);
        for volume in contents.volumes.iter().filter(|volume| volume.name == own) {
            let object = format!("volume {own}");
            if volume.home.as_deref() == Some(&self.seen.home) {
                let target = Target::Volume(own.clone());
                self.go(object, &contents.place, Stage::Storage, target, "its label names this home");
            } else {
                self.add(object, &contents.place, Fate::Stays, "no label of it names this home");
            }
        }
    }

    /// The registry beside the machines, its volume and their network; last, because they belong to all.
    pub(super) fn shared(&mut self, contents: &Contents) {
        let going: BTreeSet<String> = self
            .items
            .iter()
            .filter_map(|item| match &item.target {
                Some(Target::Container(id)) => Some(id.clone()),
                _ => None,
            })
            .collect();
        let machine = |one: &&Container| one.cluster.is_some() && !going.contains(&one.id);
        let user = self
            .seen
            .others
            .iter()
            .find(|other| other.docker)
            .map(|other| format!("environment {} uses it", other.name))
            .or_else(|| {
                let one = contents.containers.iter().find(machine)?;
                Some(format!(
                    "container {} of cluster {} may use it",
                    one.name,
                    one.cluster.clone().unwrap_or_default()
                ))
            });
        let is_mirror = |one: &&Container| one.name == MIRROR;
        let mirror = contents.containers.iter().find(is_mirror).filter(|one| one.label.as_deref() == Some("mirror"));
        let place = contents.place.clone();
        let mut gone = going.clone();
        if let Some(mirror) = mirror {
            let object = format!("container {MIRROR}");
            gone.insert(mirror.id.clone());
            if let Some(user) = &user {
                self.add(object, &place, Fate::Stays, user.clone());
            } else {
                let why = "its label says that it is the registry beside the machines, and no machine is left";
                self.go(object, &place, Stage::Shared, Target::Container(mirror.id.clone()), why);
            }
        }
        for volume in contents.volumes.iter().filter(|volume| volume.name == MIRROR) {
            let ours = volume.label.as_deref() == Some("mirror") || mirror.is_some_and(|mirror| mirror.mounts_mirror);
            let object = format!("volume {MIRROR}");
            match (&user, ours) {
                (None, true) => {
                    let why = "the registry's images";
                    self.go(object, &place, Stage::Shared, Target::Volume(MIRROR.into()), why);
                }
                (Some(user), true) => self.add(object, &place, Fate::Stays, user.clone()),
                (_, false) => self.add(object, &place, Fate::Stays, "it has no label of ours"),
            }
        }
        for network in &contents.networks {
            let object = format!("network {}", network.name);
            let target = Target::Network(network.id.clone());
            match network.label.as_deref() {
                Some("look") => self.look(object, network.created, target, &place),
                Some("network") if network.name == NETWORK => {
                    let other = network.containers.iter().find(|id| !gone.contains(*id));
                    match (&user, other) {
                        (Some(user), _) => self.add(object, &place, Fate::Stays, user.clone()),
                        (None, Some(other)) => {
                            let named = contents.containers.iter().find(|one| one.id == *other);
                            let named = named.map_or(other.as_str(), |one| one.name.as_str());
                            self.add(object, &place, Fate::Stays, format!("container {named} is in it"));
                        }
                        (None, None) => {
                            let why = "its label says that cluster-init made it for machines, and none is left";
                            self.go(object, &place, Stage::Shared, target, why);
                        }
                    }
                }
                _ if network.name == NETWORK => {
                    self.add(object, &place, Fate::Stays, "it has no label of ours: kind makes one of this name, too");
                }
                _ => {}
            }
        }
    }
}
