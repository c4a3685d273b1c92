//! What there is on this host and on its Docker daemon, as far as it may be an environment's; no IO.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::bootstrap::Makes;
use crate::node::Role;

/// Everything that a plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The environment.
    pub environment: String,
    /// The home's folder.
    pub home: String,
    /// When it was looked.
    pub now: Timestamp,
    /// Its runs that have not been cleaned up, oldest first.
    pub runs: Vec<Run>,
    /// What a cleanup before this one could not look for, and the folder of the run that it is of.
    pub unseen: Option<(String, Vec<String>)>,
    /// The other environments of this home that have made something, or are about to.
    pub others: Vec<Other>,
    /// The nodes of this home.
    pub nodes: Vec<Node>,
    /// Folders of nodes that were made or deleted half.
    pub halves: Vec<String>,
    /// The clusters that a live cluster of ours holds, and which one that is.
    pub live: BTreeMap<String, &'static str>,
    /// Whether there are files of a kind cluster with the bootstrap cluster's name.
    pub kind_files: bool,
    /// The file with the containers that runs have seen, when there is one.
    pub addresses: Option<String>,
    /// The daemon.
    pub daemon: Daemon,
}

/// A run of the environment.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Its folder.
    pub folder: String,
    /// When it began.
    pub from: Timestamp,
    /// Its latest sign of life.
    pub until: Timestamp,
    /// What it makes; nobody knows of runs of an earlier version.
    pub makes: Option<Makes>,
    /// When it was about to hand the clusters what makes machines.
    pub released: Option<Timestamp>,
    /// Whether everything was handed over to the management cluster.
    pub handed_over: bool,
    /// Whether its folder holds the management cluster's kubeconfig.
    pub kubeconfig: bool,
}

/// Another environment of this home.
#[derive(Clone, Debug)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// Whether it needs the registry beside the machines.
    pub docker: bool,
    /// Its runs.
    pub runs: Vec<Run>,
}

/// A node of this home.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: String,
    /// Its cluster.
    pub cluster: String,
    /// Its role.
    pub role: Role,
    /// On whose behalf it was made.
    pub owner: String,
}

/// What is known of the daemon.
#[derive(Clone, Debug, Default)]
pub enum Daemon {
    /// Nothing of the environment can be there.
    #[default]
    Needless,
    /// It does not answer.
    Silent(String),
    /// What it has.
    Answers(Contents),
}

/// What may concern us on the daemon.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Where it is, for people.
    pub place: String,
    /// Containers that are nodes of any cluster, or bear our label.
    pub containers: Vec<Container>,
    /// Volumes that bear our label, and the mirror's.
    pub volumes: Vec<Volume>,
    /// Networks that bear our label, and that of the nodes.
    pub networks: Vec<Network>,
    /// Whether the nodes of the bootstrap cluster mount a volume with our home.
    pub bootstrap_is_ours: bool,
}

/// A container.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The cluster whose node it is.
    pub cluster: Option<String>,
    /// Its role in that.
    pub role: Option<String>,
    /// The value of our label.
    pub label: Option<String>,
    /// The home that its label names.
    pub home: Option<String>,
    /// The environment of this home whose runs have seen it.
    pub known: Option<String>,
    /// Whether it mounts the mirror's volume.
    pub mounts_mirror: bool,
}

/// A volume.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// The value of our label.
    pub label: Option<String>,
    /// The home that its label names.
    pub home: Option<String>,
}

/// A network.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The value of our label.
    pub label: Option<String>,
    /// The containers in it.
    pub containers: BTreeSet<String>,
}

impl Seen {
    /// The clusters that are the environment's, as far as anything says so; the management cluster's first.
    pub fn clusters(&self) -> Vec<String> {
        let mut all: Vec<String> =
            self.runs.iter().filter_map(|run| Some(run.makes.as_ref()?.cluster.clone())).collect();
        all.extend(self.live.keys().cloned());
        if let Daemon::Answers(contents) = &self.daemon {
            let known = contents.containers.iter().filter(|one| one.known.as_deref() == Some(&self.environment));
            all.extend(known.filter_map(|one| one.cluster.clone()));
        }
        let mut seen = BTreeSet::new();
        all.retain(|name| seen.insert(name.clone()));
        all
    }

    /// The latest run that was about to have a cluster made.
    pub fn maker(&self, cluster: &str) -> Option<&Run> {
        self.runs.iter().rev().find(|run| run.makes(cluster))
    }

    /// Another environment whose run may have made a cluster of the same name, and whether it certainly did: a run that begins looks
    /// first whether there is such a cluster, so that what is there is the later one's, unless both had their lives at the same time.
    pub fn rival(&self, run: &Run, cluster: &str) -> Option<(&Other, bool)> {
        self.others.iter().find_map(|other| {
            let meeting = other.runs.iter().rev().find(|theirs| theirs.makes(cluster) && theirs.until >= run.from)?;
            Some((other, meeting.from > run.until))
        })
    }
}

impl Run {
    /// Whether it came to have this cluster made.
    fn makes(&self, cluster: &str) -> bool {
        self.released.is_some() && self.makes.as_ref().is_some_and(|makes| makes.cluster == cluster)
    }

    /// The kind of infrastructure that is a cloud, where this version looks for nothing.
    pub fn cloud(&self) -> Option<&str> {
        let kind = self.makes.as_ref()?.infrastructure.as_deref()?;
        (!["LocalCluster", "DockerCluster", "DevCluster"].contains(&kind)).then_some(kind)
    }
}
