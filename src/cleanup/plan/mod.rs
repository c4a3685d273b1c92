//! What goes, what stays, and why; pure.

mod daemon;
mod host;

use std::path::PathBuf;

use serde::Serialize;

use super::seen::{Daemon, Run, Seen};
use crate::bootstrap;

/// When something goes: those who make things before what they make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The bootstrap cluster, whose controllers make the management cluster.
    BootstrapCluster,
    /// Where the management cluster's controllers are kept alive.
    ControlPlanes,
    /// Workers, load balancers, and the machines of clusters that it made.
    Machines,
    /// Volumes and folders.
    Storage,
    /// What several environments may use.
    Shared,
    /// What tells of all this.
    Records,
}

/// What becomes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "fate")]
pub enum Fate {
    /// It is the environment's, and goes.
    Goes {
        /// When.
        stage: Stage,
    },
    /// It may be the environment's, and is left alone: somebody must look.
    Remains,
    /// It is not the environment's, or others need it.
    Stays,
}

/// What is taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A node of this home.
    Node(String),
    /// The folder of a node that is none.
    Half(String),
    /// A container, by its id.
    Container(String),
    /// A volume.
    Volume(String),
    /// A network, by its id.
    Network(String),
    /// A folder of this home.
    Folder(PathBuf),
    /// A file of this home.
    File(PathBuf),
    /// The life of a run: its folder stays to be read.
    Run {
        /// The folder.
        folder: PathBuf,
        /// What nobody looked for.
        remains: Vec<String>,
    },
}

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is.
    pub object: String,
    /// Where it is.
    #[serde(rename = "where")]
    pub place: String,
    /// What becomes of it.
    #[serde(flatten)]
    pub fate: Fate,
    /// Why.
    pub why: String,
    /// What somebody can do about what remains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// How it is taken away; `None` for what is not.
    #[serde(skip)]
    pub target: Option<Target>,
}

impl Item {
    /// Whether it is taken away at a stage.
    pub fn goes_at(&self, when: Stage) -> bool {
        matches!(self.fate, Fate::Goes { stage } if stage == when)
    }

    /// Whether it is taken away.
    pub fn goes(&self) -> bool {
        matches!(self.fate, Fate::Goes { .. })
    }
}

/// What would become of everything that is seen: what goes, in its order, then what somebody must look at, then what stays.
pub fn plan(seen: &Seen) -> Vec<Item> {
    let mut planner = Planner { seen, bootstrap: bootstrap::bootstrap_cluster(&seen.environment), items: Vec::new() };
    planner.nodes();
    match &seen.daemon {
        Daemon::Needless => planner.kind_files(true),
        Daemon::Silent(said) => {
            let (object, remedy) =
                ("what its runs left there".to_owned(), "have the daemon answer, and clean up again");
            planner.remain(object, "docker", format!("not looked for: {said}"), remedy.into());
            planner.kind_files(false);
        }
        Daemon::Answers(contents) => {
            planner.containers(contents);
            planner.volumes(contents);
            planner.kind_files(true);
            planner.shared(contents);
        }
    }
    let looked = !planner.items.iter().any(|item| item.fate == Fate::Remains);
    planner.clouds();
    planner.records(looked);
    let mut items = planner.items;
    items.sort_by_key(|item| match item.fate {
        Fate::Goes { stage } => (0, Some(stage)),
        Fate::Remains => (1, None),
        Fate::Stays => (2, None),
    });
    items
}

/// The run whose management cluster manages itself, when something of that cluster would go.
pub fn self_managed<'a>(seen: &'a Seen, items: &[Item]) -> Option<&'a Run> {
    let machines = items.iter().any(|item| item.goes_at(Stage::ControlPlanes) || item.goes_at(Stage::Machines));
    seen.runs.iter().rev().find(|run| run.handed_over && (machines || run.cloud().is_some()))
}

struct Planner<'a> {
    seen: &'a Seen,
    bootstrap: String,
    items: Vec<Item>,
}

impl Planner<'_> {
    fn add(&mut self, object: String, place: &str, fate: Fate, why: impl Into<String>) {
        self.items.push(Item { object, place: place.to_owned(), fate, why: why.into(), remedy: None, target: None });
    }

    fn go(&mut self, object: String, place: &str, stage: Stage, target: Target, why: impl Into<String>) {
        let (place, fate, target) = (place.to_owned(), Fate::Goes { stage }, Some(target));
        self.items.push(Item { object, place, fate, why: why.into(), remedy: None, target });
    }

    /// What somebody must look at, and what can be done then.
    fn remain(&mut self, object: String, place: &str, why: String, remedy: String) {
        let (place, fate) = (place.to_owned(), Fate::Remains);
        self.items.push(Item { object, place, fate, why, remedy: Some(remedy), target: None });
    }

    /// The stage at which a machine goes.
    fn stage(&self, cluster: &str, control_plane: bool) -> Stage {
        let makes = |run: &Run| run.makes.as_ref().is_some_and(|makes| makes.cluster == cluster);
        if control_plane && self.seen.runs.iter().any(makes) { Stage::ControlPlanes } else { Stage::Machines }
    }

    /// Why the cluster of a name is the environment's, or whose it may be.
    fn claim(&self, cluster: &str) -> Result<String, (Fate, String)> {
        if let Some(holder) = self.seen.live.get(cluster) {
            return Ok(format!("of cluster {cluster}, which is on the {holder} cluster"));
        }
        let environment = &self.seen.environment;
        let Some(run) = self.seen.maker(cluster) else {
            return Err((Fate::Stays, format!("of cluster {cluster}: nothing says that {environment} made that")));
        };
        match self.seen.rival(run, cluster) {
            None => Ok(format!("of cluster {cluster}, which run {} was making", run.id)),
            Some((other, true)) => {
                Err((Fate::Stays, format!("of cluster {cluster}, which environment {} made later", other.name)))
            }
            Some((other, false)) => Err((
                Fate::Remains,
                format!("of cluster {cluster}, which environment {} was making at the same time", other.name),
            )),
        }
    }

    /// What is in a cloud.
    fn clouds(&mut self) {
        let last = self.seen.runs.iter().rev().find(|run| run.released.is_some() && run.cloud().is_some());
        if let Some(run) = last {
            let (place, why) = cloud(run);
            // It is told as long as nobody says that it is gone.
            let remedy = format!("when it is gone there: rm -r {}", run.folder);
            self.remain(format!("what run {} made there", run.id), &place, why, remedy);
        }
        if let Some((folder, remains)) = &self.seen.unseen {
            for why in remains {
                let remedy = format!("when it is gone there: rm -r {folder}");
                self.remain("what an earlier run made elsewhere".into(), folder, why.clone(), remedy);
            }
        }
    }

    /// What tells of the runs; as long as something is not clear, they are needed to tell whose it is.
    fn records(&mut self, looked: bool) {
        if let Some(path) = &self.seen.addresses {
            let (object, why) = ("addresses of its containers".to_owned(), "a file of this home");
            if looked {
                self.go(object, path, Stage::Records, Target::File(path.into()), why);
            } else {
                self.add(object, path, Fate::Stays, "it tells whose the containers are");
            }
        }
        for run in &self.seen.runs {
            let object = format!("run {}", run.id);
            if looked {
                let remains =
                    if run.released.is_some() && run.cloud().is_some() { vec![cloud(run).1] } else { Vec::new() };
                let target = Target::Run { folder: PathBuf::from(&run.folder), remains };
                let why = "not gone on with any more; its logs stay to be read";
                self.go(object, &run.folder, Stage::Records, target, why);
            } else {
                self.add(object, &run.folder, Fate::Stays, "it tells what is its own, as long as something remains");
            }
        }
    }
}

fn cluster_of(run: &Run) -> Option<String> {
    Some(run.makes.as_ref()?.cluster.clone())
}

/// Where a run's machines are, and how they are found there.
fn cloud(run: &Run) -> (String, String) {
    let kind = run.cloud().unwrap_or_default();
    let place = kind.strip_suffix("Cluster").unwrap_or(kind).to_owned();
    let cluster = cluster_of(run).unwrap_or_default();
    let namespace = bootstrap::NAMESPACE;
    let why = if place == "OpenStack" {
        format!(
            "this version does not look into the cloud: networks, routers and load balancers there are called \
             k8s-clusterapi-cluster-{namespace}-{cluster}, security groups k8s-cluster-{namespace}-{cluster}-secgroup-*, servers and ports \
             {cluster}-*"
        )
    } else {
        format!("this version does not look there: it is what {kind} {namespace}/{cluster} stands for")
    };
    (place, why)
}

#[cfg(test)]
mod tests;
