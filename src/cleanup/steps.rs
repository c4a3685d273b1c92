//! The steps, in order: each takes away what goes at its stage.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::plan::{Item, Stage, Target};
use super::remove::remove;
use crate::clock::human;
use crate::docker::Docker;
use crate::failure::{Failure, Kind, Result};
use crate::node::Home;
use crate::saga::{Probe, Scope, Step, Undo};

/// One thing may take this long: a daemon gives its pods their grace period, docker its containers.
const EACH: Duration = Duration::from_mins(3);

/// What the steps share.
#[derive(Debug)]
pub struct Work {
    /// The home.
    pub home: Home,
    /// The daemon.
    pub docker: Docker,
    /// What was planned.
    pub items: Vec<Item>,
    /// What could not be taken away, and why.
    pub troubles: Mutex<Vec<(String, String)>>,
}

impl Work {
    fn trouble(&self, object: &str, why: String) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push((object.to_owned(), why));
    }

    fn is_clean(&self) -> bool {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// The story, as far as there is something to do.
pub fn steps(items: &[Item]) -> Vec<Box<dyn Step<Work>>> {
    let all = [
        (Stage::BootstrapCluster, "bootstrap-cluster", "ending the controllers that make the management cluster"),
        (Stage::ControlPlanes, "control-planes", "ending the management cluster's own controllers"),
        (Stage::Machines, "machines", "removing what they made"),
        (Stage::Storage, "storage", "removing volumes and folders"),
        (Stage::Shared, "shared", "removing what no other environment uses"),
        (Stage::Records, "records", "closing the runs"),
    ];
    all.into_iter()
        .filter(|(stage, ..)| items.iter().any(|item| item.goes_at(*stage)))
        .map(|(stage, name, reason)| Box::new(Remove { stage, name, reason }) as Box<dyn Step<Work>>)
        .collect()
}

struct Remove {
    stage: Stage,
    name: &'static str,
    reason: &'static str,
}

impl Remove {
    fn items<'a>(&self, work: &'a Work) -> impl Iterator<Item = &'a Item> {
        let stage = self.stage;
        work.items.iter().filter(move |item| item.goes_at(stage))
    }
}

#[async_trait(?Send)]
impl Step<Work> for Remove {
    fn name(&self) -> &'static str {
        self.name
    }
    fn reason(&self) -> &'static str {
        self.reason
    }
    fn deadline(&self, _: &Work) -> Duration {
        EACH * 2
    }
    async fn probe(&self, work: &Work, _: &Scope) -> Result<Probe> {
        Ok(if self.items(work).next().is_none() { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, work: &Work, scope: &Scope) -> Result<()> {
        // What proves whose something is must not go before it.
        if self.stage >= Stage::Storage && !work.is_clean() {
            return Ok(());
        }
        // A container holds its volume and its network. Beside that, one thing that does not go does not keep the others.
        let (first, then): (Vec<&Item>, Vec<&Item>) =
            self.items(work).partition(|item| matches!(item.target, Some(Target::Container(_))));
        for items in [first, then] {
            futures::future::try_join_all(items.into_iter().map(|item| one(work, scope, item))).await?;
        }
        Ok(())
    }
    async fn undo(&self, _: &Work, _: &Scope) -> Result<Undo> {
        Ok(Undo::Kept("what was taken away does not come back"))
    }
}

/// Takes one thing away, or keeps why not; only an interruption ends the step.
async fn one(work: &Work, scope: &Scope, item: &Item) -> Result<()> {
    let Some(target) = &item.target else { return Ok(()) };
    let (doing, done) =
        if matches!(target, Target::Run { .. }) { ("closing", "closed") } else { ("removing", "removed") };
    scope.events.progress(item.object.clone(), doing);
    let bounded = async {
        match tokio::time::timeout(EACH, remove(&work.home, &work.docker, target)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::timeout(format!("it was not gone after {}", human(EACH)))),
        }
    };
    match scope.effect(&format!("remove {}", item.object), bounded).await {
        Ok(()) => scope.events.progress(item.object.clone(), done),
        Err(failure) if failure.kind == Kind::Interrupted => return Err(failure),
        Err(failure) => {
            scope.events.warn(format!("{} is not removed: {failure}", item.object));
            work.trouble(&item.object, failure.to_string());
        }
    }
    Ok(())
}
