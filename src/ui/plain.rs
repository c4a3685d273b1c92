//! One line a change: what pipelines keep.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::narrate;
use crate::clock::{Stopwatch, human};
use crate::event::{Event, Sink, What};

/// Prints one line a change, with the time since the start.
#[derive(Debug)]
pub struct Plain {
    start: Stopwatch,
    last: Mutex<HashMap<String, String>>,
}

impl Plain {
    /// Starts the clock.
    #[expect(clippy::new_without_default, reason = "starting a clock is not a default")]
    pub fn new() -> Self {
        Self { start: Stopwatch::start(), last: Mutex::default() }
    }

    /// Whether a subject's state is news.
    fn changed(&self, subject: &str, state: &str) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.insert(subject.to_owned(), state.to_owned()).as_deref() != Some(state)
    }
}

/// An event as one line of text; `None` for events that need no line.
pub fn line(what: &What) -> Option<String> {
    Some(match what {
        What::RunStarted { environment, run, resumed, existing } => {
            let doing = match (resumed, existing) {
                (true, _) => "resuming",
                (false, true) => "applying",
                (false, false) => "bootstrapping",
            };
            format!("{doing} {environment} (run {run})")
        }
        What::StepStarted { step, reason, .. } => format!("{step}: {reason}"),
        What::StepDone { step, already: true, .. } => format!("{step}: already done"),
        What::StepDone { step, elapsed_ms, .. } => {
            format!("{step}: done in {}", human(Duration::from_millis(*elapsed_ms)))
        }
        What::StepFailed { step, elapsed_ms, error } => {
            format!("{step}: FAILED after {}: {error}", human(Duration::from_millis(*elapsed_ms)))
        }
        What::Progress { subject, state, done: Some(done), total: Some(total) } => {
            format!("  {subject}: {state} ({done}/{total})")
        }
        What::Progress { subject, state, .. } => format!("  {subject}: {state}"),
        What::Object { cluster, object, ready, state } => {
            format!("  {cluster} {} {object}: {state}", if *ready { "+" } else { "-" })
        }
        What::Note { message } => message.clone(),
        What::Warning { message } => format!("warning: {message}"),
        What::RunEnded { ok: true, elapsed_ms } => format!("done in {}", human(Duration::from_millis(*elapsed_ms))),
        What::RunEnded { .. } => return None,
    })
}

impl Sink for Plain {
    fn take(&self, event: &Event) {
        let news = match &event.what {
            What::Progress { subject, state, .. } => self.changed(subject, state),
            What::Object { cluster, object, state, .. } => self.changed(&format!("{cluster} {object}"), state),
            _ => true,
        };
        if let Some(line) = line(&event.what).filter(|_| news) {
            narrate(&format!("{:>7.1}s {line}", self.start.elapsed().as_secs_f64()));
        }
    }
}
