//! Tells the story, or goes on with it, and says what to do when it fails.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::restart::{self, Restart};
use super::run::{self, EventLog, Past, Run, Subject};
use super::{Story, application, status, steps, support};
use crate::clock::Stopwatch;
use crate::environment::{Environment, Overrides};
use crate::event::{Events, Sink, What};
use crate::failure::{Failure, Kind, Result};
use crate::git::Repository;
use crate::node::Home;
use crate::saga::{Engine, Outcome, Step};

/// How a bootstrap is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where clusters and runs live.
    pub home: Home,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// The environment, the repository's folder and how it is done.
    pub subject: Subject,
}

/// How a bootstrap ended well.
#[derive(Clone, Debug, Serialize)]
pub struct Ended {
    /// The environment's name.
    pub environment: String,
    /// What names the environment to `publish`: its name, or the path of its folder.
    #[serde(skip)]
    pub reference: String,
    /// The run.
    pub run: String,
    /// Whether there was nothing to do.
    pub already: bool,
    /// The kubeconfig of the management cluster, or of the one that existed.
    pub kubeconfig: PathBuf,
    /// Milliseconds taken by this execution.
    pub elapsed_ms: u64,
    /// What each step took.
    #[serde(skip)]
    pub steps: Vec<Outcome>,
}

/// Bootstraps an environment, or goes on where its last run stopped. `events` makes the reporters around further sinks.
pub async fn bootstrap(
    options: Options,
    events: &(dyn Fn(Vec<Arc<dyn Sink>>) -> Events + Sync),
    cancel: &CancellationToken,
) -> Result<Ended> {
    let (options, repository, environment) = find(options)?;
    refuse_other(&options.home, environment.name(), &options.subject)?;
    if let Some(done) = already(&options.home, environment.name(), &options.subject).await? {
        return Ok(done);
    }
    tell(options, repository, environment, &steps(), events, cancel).await
}

/// Gives an environment to the cluster of the subject's kubeconfig, without bootstrap cluster and pivot.
pub async fn apply(
    options: Options,
    events: &(dyn Fn(Vec<Arc<dyn Sink>>) -> Events + Sync),
    cancel: &CancellationToken,
) -> Result<Ended> {
    let (options, repository, environment) = find(options)?;
    tell(options, repository, environment, &application(), events, cancel).await
}

/// The repository and the environment of the subject, which from here on is called by what `publish` calls it, too.
fn find(mut options: Options) -> Result<(Options, Repository, Environment)> {
    let subject = &mut options.subject;
    let repository = Repository::discover(&subject.repository)?;
    let environment = Environment::find(repository.root(), &subject.environment)?.overridden(&subject.overrides)?;
    subject.environment = environment.reference();
    Ok((options, repository, environment))
}

/// Runs the steps of a story, and explains a failure.
async fn tell(
    options: Options,
    repository: Repository,
    environment: Environment,
    steps: &[Box<dyn Step<Story>>],
    events: &(dyn Fn(Vec<Arc<dyn Sink>>) -> Events + Sync),
    cancel: &CancellationToken,
) -> Result<Ended> {
    let name = environment.name().to_owned();
    let run = Run::open(&options.home, &name, &options.subject)?;
    let watch = Stopwatch::start();
    let log = Arc::new(EventLog::of(&run.folder)?);
    let events = events(vec![log as Arc<dyn Sink>]);
    let (run_id, existing) = (run.id.0.clone(), options.subject.kubeconfig.is_some());
    events.send(What::RunStarted { environment: name.clone(), run: run_id, resumed: run.resumed, existing });
    let engine = Engine::new(run.journal.clone(), events.clone(), cancel.clone());
    let story = Story::new(options.subject, options.home, run, environment, repository, options.bundle, events.clone());
    let result = engine.run(steps, &story).await;
    let elapsed_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
    events.send(What::RunEnded { ok: result.is_ok(), elapsed_ms });
    match result {
        Ok(steps) => Ok(Ended {
            environment: name,
            reference: story.subject.environment.clone(),
            run: story.run.id.0.clone(),
            already: false,
            kubeconfig: story.subject.kubeconfig.clone().unwrap_or_else(|| story.run.kubeconfig()),
            elapsed_ms,
            steps,
        }),
        Err(failure) => Err(explain(&story, failure).await),
    }
}

/// Goes on with the last run of an environment, or of the only one that has an unfinished run.
pub async fn resume(
    home: Home,
    bundle: PathBuf,
    environment: Option<String>,
    overrides: &Overrides,
    events: &(dyn Fn(Vec<Arc<dyn Sink>>) -> Events + Sync),
    cancel: &CancellationToken,
) -> Result<Ended> {
    let environment = match environment {
        Some(environment) => Environment::name_of(&environment),
        None => match run::unfinished(&home)?.as_slice() {
            [one] => one.clone(),
            [] => {
                return Err(Failure::usage("there is no unfinished run").hint("begin one: cluster-init bootstrap ENV"));
            }
            many => {
                return Err(Failure::usage(format!("there are unfinished runs of {}", many.join(", ")))
                    .hint("name one: cluster-init resume ENV"));
            }
        },
    };
    // A run that was refused before it made anything does not stand before the one that made the cluster.
    let runs = run::all(&home, &environment)?;
    if let Some(past) = runs.iter().rev().find(|past| past.began && past.cleaned.is_none()).filter(|past| past.finished)
        && let Some(kubeconfig) = past.kubeconfig()
        && let Some(restart) = Restart::find(&home, &environment, kubeconfig.clone())?
    {
        return start_again(&home, &environment, past, kubeconfig, &restart, events, cancel).await;
    }
    let Some(past) = runs.last().cloned().filter(Past::is_unfinished) else {
        return Err(Failure::usage(format!("there is no unfinished run of {environment}"))
            .hint(format!("begin one: cluster-init bootstrap {environment}")));
    };
    let subject = Subject { overrides: past.subject.overrides.clone().over(overrides), ..past.subject };
    bootstrap(Options { home, bundle, subject }, events, cancel).await
}

/// Brings a management cluster back whose machines are containers that docker may have stopped.
async fn start_again(
    home: &Home,
    environment: &str,
    past: &Past,
    kubeconfig: PathBuf,
    restart: &Restart,
    events: &(dyn Fn(Vec<Arc<dyn Sink>>) -> Events + Sync),
    cancel: &CancellationToken,
) -> Result<Ended> {
    let run = Run::again(home, environment, past)?;
    let watch = Stopwatch::start();
    let events = events(vec![Arc::new(EventLog::of(&run.folder)?) as Arc<dyn Sink>]);
    events.send(What::RunStarted {
        environment: environment.to_owned(),
        run: run.id.0.clone(),
        resumed: true,
        existing: false,
    });
    let result = Engine::new(run.journal.clone(), events.clone(), cancel.clone()).run(&restart::steps(), restart).await;
    let elapsed_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
    events.send(What::RunEnded { ok: result.is_ok(), elapsed_ms });
    let steps = result.map_err(|failure| failure.hint(format!("go on: {}", past.subject.again())))?;
    let reference = past.subject.environment.clone();
    let (environment, run) = (environment.to_owned(), run.id.0.clone());
    Ok(Ended { environment, reference, run, already: false, kubeconfig, elapsed_ms, steps })
}

/// Refuses to take up the run of another environment that has the same name.
fn refuse_other(home: &Home, name: &str, subject: &Subject) -> Result<()> {
    let last = run::last(home, name)?.filter(|past| past.cleaned.is_none());
    match last.map(|past| past.subject.environment) {
        Some(other) if other != subject.environment => {
            Err(Failure::preflight(format!("the last run of {name} here was that of another environment, {other}"))
                .hint("clusters and runs are told apart by that name: give one of the folders another")
                .hint("if its folder was moved, move it back")
                .hint(format!("if nobody needs what that run made: cluster-init cleanup {name}")))
        }
        _ => Ok(()),
    }
}

/// The last run when it reached its goal and what it made is well.
async fn already(home: &Home, environment: &str, subject: &Subject) -> Result<Option<Ended>> {
    let Some(past) = run::last(home, environment)?.filter(Past::stands) else { return Ok(None) };
    let Some(kubeconfig) = past.kubeconfig() else { return Ok(None) };
    let well = status(home, environment).await.is_ok_and(|status| status.is_well());
    Ok(well.then(|| Ended {
        environment: environment.to_owned(),
        reference: subject.environment.clone(),
        run: past.id().0,
        already: true,
        kubeconfig,
        elapsed_ms: 0,
        steps: Vec::new(),
    }))
}

/// Adds to a failure what was collected and how to go on.
async fn explain(story: &Story, failure: Failure) -> Failure {
    let resume = format!("go on: {}", story.subject.again());
    match failure.kind {
        // Nothing has been made, or the user knows why it stopped.
        Kind::Usage | Kind::Preflight => return failure,
        Kind::Interrupted => return failure.hint(resume),
        _ => {}
    }
    match support::collect(story, &failure).await {
        Ok(folder) => failure.hint(format!("everything about it: {}", folder.display())).hint(resume),
        Err(second) => failure.hint(format!("the support folder could not be made: {second}")).hint(resume),
    }
}
