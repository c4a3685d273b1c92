//! Runs a story: each step once, in order, from wherever an earlier execution stopped.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Journal, Probe, Record, Scope, Step, StepName, Undo};
use crate::clock::{Deadline, Stopwatch, human};
use crate::event::{Events, What};
use crate::failure::{Failure, Kind, Result};

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The step.
    pub step: StepName,
    /// Milliseconds taken.
    pub elapsed_ms: u64,
    /// Whether it had been done before.
    pub already: bool,
}

/// Executes steps against a journal.
#[derive(Clone, Debug)]
pub struct Engine {
    journal: Arc<Journal>,
    events: Events,
    cancel: CancellationToken,
}

impl Engine {
    /// An engine for one run.
    pub fn new(journal: Arc<Journal>, events: Events, cancel: CancellationToken) -> Self {
        Self { journal, events, cancel }
    }

    /// Runs the steps in order; the first failure ends the story.
    pub async fn run<C>(&self, steps: &[Box<dyn Step<C>>], context: &C) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for step in steps {
            if self.cancel.is_cancelled() {
                return Err(Failure::interrupted(format!("interrupted before step {}", step.name())));
            }
            outcomes.push(self.step(step.as_ref(), context).await?);
        }
        self.journal.write(Record::Done)?;
        Ok(outcomes)
    }

    fn scope<C>(&self, step: &dyn Step<C>, context: &C) -> Scope {
        Scope {
            step: StepName(step.name().to_owned()),
            journal: self.journal.clone(),
            events: self.events.clone(),
            deadline: Deadline::after(step.deadline(context)),
            cancel: self.cancel.clone(),
        }
    }

    async fn step<C>(&self, step: &dyn Step<C>, context: &C) -> Result<Outcome> {
        let name = StepName(step.name().to_owned());
        let watch = Stopwatch::start();
        self.events.send(What::StepStarted {
            step: name.to_string(),
            reason: step.reason().to_owned(),
            deadline_s: step.deadline(context).as_secs(),
        });
        let scope = self.scope(step, context);
        let result = self.bounded(step, context, &scope).await;
        let elapsed_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
        match result {
            Ok(already) => {
                self.journal.write(Record::End { step: name.clone(), elapsed_ms })?;
                self.events.send(What::StepDone { step: name.to_string(), elapsed_ms, already });
                Ok(Outcome { step: name, elapsed_ms, already })
            }
            Err(failure) => {
                let error = failure.to_string();
                self.journal.write(Record::Failed { step: name.clone(), error })?;
                // The causes are printed once, at the end.
                let error = failure.message.clone();
                self.events.send(What::StepFailed { step: name.to_string(), elapsed_ms, error });
                Err(failure.context(format!("step {name}")))
            }
        }
    }

    /// Probes and applies within the deadline; returns whether the step had been done before.
    async fn bounded<C>(&self, step: &dyn Step<C>, context: &C, scope: &Scope) -> Result<bool> {
        let limit = scope.deadline.limit();
        let work = async {
            if step.probe(context, scope).await? == Probe::Done {
                return Ok(true);
            }
            self.journal.write(Record::Begin { step: scope.step.clone() })?;
            step.apply(context, scope).await?;
            Ok(false)
        };
        // Waits inside the step end a little earlier and say more; this is the bound for everything else.
        match tokio::time::timeout(limit + std::time::Duration::from_secs(5), work).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(Kind::Timeout, format!("not done after {}", human(limit)))),
        }
    }

    /// Undoes the steps that the journal says were begun, last first; a step that cannot be undone does not stop the others.
    pub async fn undo<C>(&self, steps: &[Box<dyn Step<C>>], context: &C) -> Result<Vec<(StepName, Undo)>> {
        let begun = |name: &str| {
            self.journal.past().iter().any(|entry| matches!(&entry.record, Record::Begin { step } if step.0 == name))
        };
        let mut undone = Vec::new();
        let mut first_failure = None;
        for step in steps.iter().rev().filter(|step| begun(step.name())) {
            let name = StepName(step.name().to_owned());
            self.journal.write(Record::Undoing { step: name.clone() })?;
            match step.undo(context, &self.scope(step.as_ref(), context)).await {
                Ok(undo) => {
                    self.journal.write(Record::Undone { step: name.clone() })?;
                    undone.push((name, undo));
                }
                Err(failure) => {
                    self.events.warn(format!("step {name} could not be undone: {failure}"));
                    first_failure.get_or_insert(failure.context(format!("undoing step {name}")).kind(Kind::Leftovers));
                }
            }
        }
        first_failure.map_or(Ok(undone), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use std::sync::Mutex;
    use std::time::Duration;

    /// The world of the test: which steps' things exist.
    #[derive(Default)]
    struct World(Mutex<Vec<&'static str>>);

    struct Make {
        name: &'static str,
        fails: bool,
    }

    #[async_trait(?Send)]
    impl Step<World> for Make {
        fn name(&self) -> &'static str {
            self.name
        }
        fn reason(&self) -> &'static str {
            "making it"
        }
        fn deadline(&self, _: &World) -> Duration {
            Duration::from_secs(1)
        }
        async fn probe(&self, world: &World, _: &Scope) -> Result<Probe> {
            Ok(if world.0.lock().unwrap().contains(&self.name) { Probe::Done } else { Probe::ToDo })
        }
        async fn apply(&self, world: &World, scope: &Scope) -> Result<()> {
            if self.fails {
                return Err(Failure::failed("it broke"));
            }
            scope
                .effect("make", async {
                    world.0.lock().unwrap().push(self.name);
                    Ok(())
                })
                .await
        }
        async fn undo(&self, world: &World, _: &Scope) -> Result<Undo> {
            world.0.lock().unwrap().retain(|name| *name != self.name);
            Ok(Undo::Undone)
        }
    }

    fn steps(failing: bool) -> Vec<Box<dyn Step<World>>> {
        vec![Box::new(Make { name: "one", fails: false }), Box::new(Make { name: "two", fails: failing })]
    }

    fn engine(folder: &std::path::Path) -> Engine {
        let journal = Arc::new(Journal::open(&folder.join("journal.ndjson")).unwrap());
        Engine::new(journal, Events::silent(), CancellationToken::new())
    }

    #[tokio::test]
    async fn a_failed_story_is_resumed_from_the_live_state() {
        let folder = tempfile::tempdir().unwrap();
        let world = World::default();
        let error = engine(folder.path()).run(&steps(true), &world).await.unwrap_err();
        assert_eq!(error.to_string(), "step two: it broke");
        let outcomes = engine(folder.path()).run(&steps(false), &world).await.unwrap();
        assert_eq!(outcomes.iter().map(|o| o.already).collect::<Vec<_>>(), [true, false]);
        assert!(engine(folder.path()).journal.finished());
    }

    #[tokio::test]
    async fn undo_takes_back_what_was_begun_last_first() {
        let folder = tempfile::tempdir().unwrap();
        let world = World::default();
        engine(folder.path()).run(&steps(true), &world).await.unwrap_err();
        let undone = engine(folder.path()).undo(&steps(false), &world).await.unwrap();
        assert_eq!(undone.iter().map(|(name, _)| name.0.as_str()).collect::<Vec<_>>(), ["two", "one"]);
        assert!(world.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_run_stops_before_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(folder.path());
        engine.cancel.cancel();
        let error = engine.run(&steps(false), &World::default()).await.unwrap_err();
        assert_eq!(error.kind, Kind::Interrupted);
    }
}
