//! Plans, refuses, takes away, looks again.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::plan::{Fate, Item, plan, self_managed};
use super::seen::Seen;
use super::steps::{Work, steps};
use super::survey::survey;
use crate::bootstrap::{self, EventLog};
use crate::clock::Stopwatch;
use crate::docker::Docker;
use crate::environment::{Backend, Environment, Machines, Overrides};
use crate::event::{Events, Sink, What};
use crate::failure::{Failure, Kind, Result};
use crate::fsx;
use crate::git::Repository;
use crate::node::Home;
use crate::saga::{Engine, Journal, RunId};

/// How often it is looked again whether something came back: controllers may have been at work when their cluster went.
const ROUNDS: usize = 3;

/// How a cleanup is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where clusters and runs live.
    pub home: Home,
    /// The repository's folder.
    pub repository: PathBuf,
    /// The environment's name, or the path of its folder.
    pub environment: String,
    /// Settings that are given otherwise than in bootstrap.toml.
    pub overrides: Overrides,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
    /// Whether a management cluster that manages itself goes, too.
    pub even_self_managed: bool,
}

/// Whose things are looked for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The home.
    pub home: Home,
    /// The environment's name.
    pub environment: String,
    /// Whether its settings say that it uses the Docker daemon.
    pub docker: bool,
}

/// How a cleanup ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The environment's name.
    pub environment: String,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// What was taken away.
    pub removed: Vec<Item>,
    /// What there is now, and what would become of it.
    pub items: Vec<Item>,
    /// What is wrong: something remains, or nothing was done for safety.
    #[serde(skip)]
    pub failure: Option<Failure>,
}

/// Takes away what runs of an environment left. `events` makes the reporters around further sinks.
pub async fn cleanup(
    options: &Options,
    events: &(dyn Fn(Vec<Arc<dyn Sink>>) -> Events + Sync),
    cancel: &CancellationToken,
) -> Result<Report> {
    let subject = find(options)?;
    let (home, environment) = (&subject.home, subject.environment.clone());
    if let Some(pid) = bootstrap::worker(home, &environment)? {
        return Err(at_work(&environment, &pid));
    }
    let docker = Docker::default();
    let mut seen = survey(&subject, &docker).await?;
    let items = plan(&seen);
    let refusal = refuse(&seen, &items, options);
    if options.dry_run || !items.iter().any(Item::goes) {
        let failure = if options.dry_run { refusal } else { remains(&environment, &items) };
        return Ok(Report { environment, dry_run: options.dry_run, removed: Vec::new(), items, failure });
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let _lock = bootstrap::hold(home, &environment)?.map_err(|pid| at_work(&environment, &pid))?;
    let watch = Stopwatch::start();
    let folder = home.cleanups().join(&environment).join(RunId::fresh().0);
    fsx::create_private_dir(&folder)?;
    let events = events(vec![Arc::new(EventLog::of(&folder)?) as Arc<dyn Sink>]);
    events.note(format!("cleaning up {environment}"));
    let engine = Engine::new(Arc::new(Journal::open(&folder.join("journal.ndjson"))?), events.clone(), cancel.clone());
    let mut taken: Vec<Item> = Vec::new();
    let mut troubles = Vec::new();
    for _ in 0..ROUNDS {
        let live = std::mem::take(&mut seen.live);
        seen = survey(&subject, &docker).await?;
        // What a cluster said that is gone by now still holds.
        seen.live.extend(live);
        let items = plan(&seen);
        if !items.iter().any(Item::goes) {
            break;
        }
        // A run may have come to its end between the first look and the lock.
        if let Some(refusal) = refuse(&seen, &items, options).filter(|_| taken.is_empty()) {
            return Err(refusal);
        }
        let work = Work { home: home.clone(), docker: docker.clone(), items, troubles: Mutex::default() };
        let done = engine.run(&steps(&work.items), &work).await;
        done.map_err(|failure| failure.hint(format!("go on: cluster-init cleanup {environment}")))?;
        troubles = work.troubles.into_inner().unwrap_or_default();
        taken.extend(work.items.into_iter().filter(Item::goes));
    }
    let live = std::mem::take(&mut seen.live);
    seen = survey(&subject, &docker).await?;
    seen.live.extend(live);
    let items = what_is_left(plan(&seen), &troubles);
    taken.retain(|item| items.iter().all(|left| left.object != item.object));
    taken.dedup_by(|a, b| a.object == b.object);
    let failure = remains(&environment, &items);
    let elapsed_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
    events.send(What::RunEnded { ok: failure.is_none(), elapsed_ms });
    Ok(Report { environment, dry_run: false, removed: taken, items, failure })
}

/// The environment, which the repository knows or which has runs here: one that was renamed or removed there can be cleaned up, too.
fn find(options: &Options) -> Result<Subject> {
    let home = options.home.clone();
    let named = Environment::name_of(&options.environment);
    let found = Repository::discover(&options.repository)
        .map_err(Failure::from)
        .and_then(|repository| Ok(Environment::find(repository.root(), &options.environment)?))
        .and_then(|environment| Ok(environment.overridden(&options.overrides)?));
    match found {
        Ok(environment) => {
            let settings = environment.settings();
            let docker = settings.machines == Machines::Docker || settings.backend == Backend::Kind;
            Ok(Subject { home, environment: environment.name().to_owned(), docker })
        }
        Err(failure) if bootstrap::runs(&home, &named)?.is_empty() => Err(failure),
        Err(failure) => {
            tracing::debug!(%failure, "the runs say what there may be");
            Ok(Subject { home, environment: named, docker: false })
        }
    }
}

fn at_work(environment: &str, pid: &str) -> Failure {
    Failure::refused(format!("process {pid} is at work on {environment}: what it makes would come back"))
        .hint(format!("wait for it, or stop it first: kill -INT {pid}"))
}

/// Refuses to take a management cluster away that manages itself, unless that is asked for.
fn refuse(seen: &Seen, items: &[Item], options: &Options) -> Option<Failure> {
    let run = self_managed(seen, items).filter(|_| !options.even_self_managed)?;
    let environment = &seen.environment;
    Some(
        Failure::refused(format!(
            "the management cluster of {environment} manages itself since run {}: with it, all that it manages would be left to nobody",
            run.id
        ))
        .hint(format!("see how it is: cluster-init status {environment}"))
        .hint(format!("if nobody needs it: cluster-init cleanup {} --even-self-managed", options.environment)),
    )
}

/// What should have gone and did not is something that remains.
fn what_is_left(items: Vec<Item>, troubles: &[(String, String)]) -> Vec<Item> {
    let left = |mut item: Item| {
        if item.goes() {
            let trouble = troubles.iter().rev().find(|(object, _)| *object == item.object);
            item.why = trouble.map_or_else(|| "it is there again each time".to_owned(), |(_, why)| why.clone());
            item.fate = Fate::Remains;
        }
        item
    };
    items.into_iter().map(left).collect()
}

/// The failure that something remains, which names each.
fn remains(environment: &str, items: &[Item]) -> Option<Failure> {
    let left: Vec<String> = items
        .iter()
        .filter(|item| item.fate == Fate::Remains)
        .map(|item| format!("{} ({}): {}", item.object, item.place, item.why))
        .collect();
    if left.is_empty() {
        return None;
    }
    let mut failure = Failure::new(Kind::Leftovers, format!("something of {environment} remains: {}", left.join("; ")));
    for item in items.iter().filter(|item| item.fate == Fate::Remains) {
        if let Some(remedy) = &item.remedy {
            failure = failure.hint(remedy.clone());
        }
    }
    Some(failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup::plan::{Stage, Target};

    fn item(object: &str, fate: Fate) -> Item {
        let target = Some(Target::Container(object.into()));
        Item { object: object.into(), place: "docker".into(), fate, why: "why".into(), remedy: None, target }
    }

    #[test]
    fn what_did_not_go_remains_with_its_reason() {
        let goes = Fate::Goes { stage: Stage::Machines };
        let items = vec![item("a", goes), item("b", goes), item("c", Fate::Stays)];
        let left = what_is_left(items, &[("a".into(), "docker is gone".into())]);
        let failure = remains("x", &left).unwrap();
        assert_eq!(failure.kind, Kind::Leftovers);
        assert_eq!(
            failure.to_string(),
            "something of x remains: a (docker): docker is gone; b (docker): it is there again each time"
        );
        assert!(remains("x", &left[2..]).is_none(), "what stays for good is no leftover");
    }
}
