//! Stories that survive crashes.
//!
//! ```text
//!            probe ── done ──────────────► already
//!   step ──►   │
//!              └─ not done ─► journal "begin" ─► apply ─► journal "end" ─► next step
//!                                                  │ failure: journal "failed"
//!                                                  └ effects: journal "intent", act, journal "outcome"
//! ```
//!
//! A story is data: a list of [`Step`]s. The [`journal`] records what was about to be done before it is done, so that a
//! run that was killed anywhere is resumed from the live state (each step's `probe`) and the journal (notes that later
//! steps need). The engine also injects crashes, so that tests kill a real process at every record.

mod engine;
mod journal;
mod scope;
mod step;

pub use engine::{Engine, Outcome};
pub use journal::{Entry, Error, Journal, Record, RunId};
pub use scope::Scope;
pub use step::{Probe, Step, StepName, Undo};
