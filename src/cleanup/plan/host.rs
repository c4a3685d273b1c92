//! What is on this host.

use std::path::PathBuf;

use super::{Fate, Planner, Stage, Target, cluster_of};
use crate::bootstrap;
use crate::node::Role;
use crate::provider::MACHINE_OWNER;

impl Planner<'_> {
    /// Nodes, and what is left of some.
    pub(super) fn nodes(&mut self) {
        let environment = &self.seen.environment;
        let mut own = Vec::new();
        for node in &self.seen.nodes {
            let object = format!("node {}", node.name);
            let target = Target::Node(node.name.clone());
            if node.cluster == self.bootstrap {
                if node.owner == bootstrap::owner(environment) {
                    self.go(object, &node.folder, Stage::BootstrapCluster, target, format!("made by {}", node.owner));
                } else {
                    let why = format!("made by {}, not by a bootstrap of {environment}", node.owner);
                    self.add(object, &node.folder, Fate::Stays, why);
                }
                continue;
            }
            let known = self.seen.clusters().contains(&node.cluster);
            if !node.owner.starts_with(MACHINE_OWNER) {
                if known {
                    let why = format!("made by {}, and no machine of Cluster API's", node.owner);
                    self.add(object, &node.folder, Fate::Stays, why);
                }
                continue;
            }
            match self.claim(&node.cluster) {
                Ok(why) => {
                    let stage = self.stage(&node.cluster, node.role == Role::ControlPlane);
                    own.push(node.cluster.clone());
                    self.go(object, &node.folder, stage, target, why);
                }
                // Whoever made it, it was a management cluster of this home; when there was no other one, it is not clear what it is.
                Err((Fate::Stays, why)) if !known && self.made_machines() && self.seen.others.is_empty() => {
                    self.remain(object, &node.folder, why, format!("cluster-init local delete {}", node.cluster));
                }
                Err((Fate::Remains, why)) => {
                    self.remain(object, &node.folder, why, format!("cluster-init local delete {}", node.cluster));
                }
                Err((fate, why)) => self.add(object, &node.folder, fate, why),
            }
        }
        own.extend(self.seen.runs.iter().filter(|run| run.released.is_some()).filter_map(cluster_of));
        for half in &self.seen.halves {
            let ours = *half == self.bootstrap
                || own.iter().any(|cluster| {
                    half.strip_prefix(cluster).is_some_and(|rest| rest.starts_with('-')) && self.claim(cluster).is_ok()
                });
            if ours {
                let place = format!("{}/nodes/{half}", self.seen.home);
                let why = "a node of this name was made or deleted half, and nothing runs in it";
                self.go(format!("folder of node {half}"), &place, Stage::Storage, Target::Half(half.clone()), why);
            }
        }
    }

    /// Whether a run of the environment came to make machines that are nodes of this home.
    fn made_machines(&self) -> bool {
        self.seen.runs.iter().any(|run| run.released.is_some())
    }

    /// The folder of the bootstrap cluster that kind made; its files prove whose that is.
    pub(super) fn kind_files(&mut self, looked: bool) {
        if !self.seen.kind_files {
            return;
        }
        let path = PathBuf::from(&self.seen.home).join("kind").join(&self.bootstrap);
        let (object, place) = (format!("files of kind cluster {}", self.bootstrap), path.display().to_string());
        if looked {
            self.go(object, &place, Stage::Storage, Target::Folder(path), "files of this home");
        } else {
            self.add(object, &place, Fate::Stays, "they tell whose the cluster is, as long as docker does not answer");
        }
    }
}
