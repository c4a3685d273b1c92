//! The live view: finished steps above, the step in work with its moving parts below.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::plain;
use crate::clock::human;
use crate::event::{Event, Sink, What};

/// How many objects are shown below the step in work.
const MOST: usize = 12;

/// Draws steps and objects as they change.
pub struct Terminal {
    area: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    step: Option<ProgressBar>,
    parts: BTreeMap<String, ProgressBar>,
}

impl Terminal {
    /// An empty view.
    #[expect(clippy::new_without_default, reason = "it takes hold of the terminal")]
    pub fn new() -> Self {
        Self { area: MultiProgress::new(), state: Mutex::default() }
    }

    fn above(&self, mark: &str, text: &str) {
        // The terminal may be gone; the run goes on.
        let _ = self.area.println(format!("{mark} {text}"));
    }

    fn begin(&self, state: &mut State, step: &str, reason: &str) {
        Self::clear(state);
        let bar = self.area.add(ProgressBar::new_spinner());
        bar.set_style(spinner("{spinner:.cyan} {msg} {elapsed:.dim}"));
        bar.set_message(format!("{step}: {reason}"));
        bar.enable_steady_tick(Duration::from_millis(100));
        state.step = Some(bar);
    }

    fn clear(state: &mut State) {
        for (_, bar) in std::mem::take(&mut state.parts) {
            bar.finish_and_clear();
        }
        if let Some(bar) = state.step.take() {
            bar.finish_and_clear();
        }
    }

    fn part(&self, state: &mut State, subject: &str, text: &str, finished: bool) {
        if finished {
            if let Some(bar) = state.parts.remove(subject) {
                bar.finish_and_clear();
            }
            return;
        }
        if !state.parts.contains_key(subject) {
            if state.parts.len() >= MOST {
                return;
            }
            let bar = self.area.add(ProgressBar::new_spinner());
            bar.set_style(spinner("    {wide_msg}"));
            state.parts.insert(subject.to_owned(), bar);
        }
        if let Some(bar) = state.parts.get(subject) {
            bar.set_message(format!("{subject}: {text}"));
        }
    }
}

fn spinner(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Sink for Terminal {
    fn take(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &event.what {
            What::StepStarted { step, reason, .. } => self.begin(&mut state, step, reason),
            What::StepDone { step, elapsed_ms, already } => {
                Self::clear(&mut state);
                let took = if *already { "already done".into() } else { human(Duration::from_millis(*elapsed_ms)) };
                self.above("✓", &format!("{step} ({took})"));
            }
            What::StepFailed { step, elapsed_ms, .. } => {
                Self::clear(&mut state);
                self.above("✗", &format!("{step} failed after {}", human(Duration::from_millis(*elapsed_ms))));
            }
            What::Object { cluster, object, ready, state: text } => {
                self.part(&mut state, &format!("{cluster} {object}"), text, *ready);
            }
            What::Progress { subject, state: text, done, total } => {
                let finished = done.is_some() && done == total;
                let count = match (done, total) {
                    (Some(done), Some(total)) => format!(" ({done}/{total})"),
                    (Some(done), None) => format!(" ({done})"),
                    _ => String::new(),
                };
                self.part(&mut state, subject, &format!("{text}{count}"), finished);
            }
            What::RunEnded { .. } => {
                Self::clear(&mut state);
                if let Some(text) = plain::line(&event.what) {
                    self.above("✓", &text);
                }
            }
            what => {
                if let Some(text) = plain::line(what) {
                    self.above("·", &text);
                }
            }
        }
    }
}
