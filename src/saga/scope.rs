//! What a step has at hand while it works: its deadline, the way to be interrupted, the journal, the events.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::{Journal, Record, StepName};
use crate::clock::{Deadline, Wait};
use crate::event::Events;
use crate::failure::{Failure, Result};

/// A step's surroundings.
#[derive(Clone, Debug)]
pub struct Scope {
    pub(super) step: StepName,
    pub(super) journal: Arc<Journal>,
    /// Where the step reports.
    pub events: Events,
    /// When the step must be over.
    pub deadline: Deadline,
    /// Cancelled when the user wants the run to stop at the next safe point.
    pub cancel: CancellationToken,
}

impl Scope {
    /// A scope for code that runs outside a story (a command that shares a step's code).
    pub fn detached(
        name: &str,
        journal: Arc<Journal>,
        events: Events,
        limit: Duration,
        cancel: CancellationToken,
    ) -> Self {
        Self { step: StepName(name.to_owned()), journal, events, deadline: Deadline::after(limit), cancel }
    }

    /// The step's name.
    pub fn step(&self) -> &StepName {
        &self.step
    }

    /// A wait that ends with the step's deadline or an interruption.
    pub fn wait(&self, what: impl Into<String>) -> Wait {
        Wait::new(what, self.deadline.left()).within(self.deadline, &self.cancel)
    }

    /// Does something to the world: journals that it is about to happen, does it, journals that it has.
    pub async fn effect<T>(&self, effect: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.safe_point()?;
        self.journal.write(Record::Intent { step: self.step.clone(), effect: effect.to_owned() })?;
        let value = work.await?;
        self.journal.write(Record::Outcome { step: self.step.clone(), effect: effect.to_owned() })?;
        Ok(value)
    }

    /// Stops here when the user asked for it: nothing is half done at this point.
    pub fn safe_point(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Failure::interrupted(format!("interrupted in step {}", self.step)));
        }
        Ok(())
    }

    /// Keeps a fact for later steps and resumed runs; never a Secret.
    pub fn remember<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let value = serde_json::to_value(value).map_err(Failure::from_error)?;
        if self.journal.fact(name).as_ref() != Some(&value) {
            self.journal.write(Record::Fact { name: name.to_owned(), value })?;
        }
        Ok(())
    }

    /// A fact from this or an earlier execution; `None` when it is not there or has another shape.
    pub fn recall<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.journal.fact(name)?).ok()
    }

    /// Whether the journal says that an effect of this step was about to happen, and not that it has.
    pub fn broke_off(&self, effect: &str) -> bool {
        let mut latest_first = self.journal.past().iter().rev().map(|entry| &entry.record);
        let latest = latest_first.find(|record| match record {
            Record::Intent { step, effect: e } | Record::Outcome { step, effect: e } => {
                *step == self.step && e == effect
            }
            _ => false,
        });
        matches!(latest, Some(Record::Intent { .. }))
    }

    /// Whether the journal says that an effect of this step has happened.
    pub fn happened(&self, effect: &str) -> bool {
        self.journal.past().iter().any(
            |entry| matches!(&entry.record, Record::Outcome { step, effect: e } if *step == self.step && e == effect),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_effect_that_was_broken_off_is_known_to_the_next_execution() {
        let folder = tempfile::tempdir().unwrap();
        let scope = |name: &str| {
            let journal = Arc::new(Journal::open(&folder.path().join("journal.ndjson")).unwrap());
            Scope::detached(name, journal, Events::silent(), Duration::from_secs(9), CancellationToken::new())
        };
        let fails = async || Err::<(), _>(Failure::failed("it broke"));
        scope("one").effect("move", fails()).await.unwrap_err();
        assert!(!scope("two").broke_off("move"));
        let again = scope("one");
        assert_eq!((again.broke_off("move"), again.happened("move")), (true, false));
        assert!(!again.broke_off("other"));
        again.effect("move", async { Ok(()) }).await.unwrap();
        let again = scope("one");
        assert_eq!((again.broke_off("move"), again.happened("move")), (false, true));
        again.effect("move", fails()).await.unwrap_err();
        assert!(scope("one").broke_off("move"), "the last attempt counts");
    }
}
