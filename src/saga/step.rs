//! One node of a story.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Scope;
use crate::failure::Result;

/// A step's name, as the user reads it and as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepName(pub String);

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the live state says of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Its goal is reached; nothing is to be done.
    Done,
    /// It is to be done, from the beginning or from wherever it stopped.
    ToDo,
}

/// What undoing a step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    /// What it made is gone.
    Undone,
    /// What it made stays, for this reason.
    Kept(&'static str),
}

/// One step of a story over a context `C`.
/// A story is told by one task, so steps need not be `Send`: async closures that borrow could not prove that they are.
#[async_trait(?Send)]
pub trait Step<C> {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Why it is done, in a few words that follow its name.
    fn reason(&self) -> &'static str;

    /// How long it may take.
    fn deadline(&self, context: &C) -> Duration;

    /// Derives from the live state whether it is done; must have no effect.
    async fn probe(&self, context: &C, scope: &Scope) -> Result<Probe>;

    /// Does it; must be fine to do again after having been killed anywhere.
    async fn apply(&self, context: &C, scope: &Scope) -> Result<()>;

    /// Takes back what it made, or says why that stays.
    async fn undo(&self, context: &C, scope: &Scope) -> Result<Undo>;
}
