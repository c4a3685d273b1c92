//! What happens, as data: one schema that every reporter draws from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::clock;

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Position in the stream, from 1.
    pub seq: u64,
    /// When.
    pub time: jiff::Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// The kinds of event.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// A run begins or goes on.
    RunStarted {
        /// Environment's name.
        environment: String,
        /// Run's id.
        run: String,
        /// Whether an earlier execution of the run left a journal.
        resumed: bool,
        /// Whether the environment goes to a cluster that exists.
        existing: bool,
    },
    /// A step begins.
    StepStarted {
        /// Step's name.
        step: String,
        /// Why it is done.
        reason: String,
        /// Seconds that it may take.
        deadline_s: u64,
    },
    /// A step is done.
    StepDone {
        /// Step's name.
        step: String,
        /// Milliseconds taken.
        elapsed_ms: u64,
        /// Whether the live state showed that it had been done before.
        already: bool,
    },
    /// A step failed.
    StepFailed {
        /// Step's name.
        step: String,
        /// Milliseconds taken.
        elapsed_ms: u64,
        /// The failure's sentence.
        error: String,
    },
    /// Progress inside a step or a command.
    Progress {
        /// What is worked on ("part kube-apiserver", "Kustomization default/capi").
        subject: String,
        /// State in a few words.
        state: String,
        /// Units done so far, when they can be counted.
        #[serde(skip_serializing_if = "Option::is_none")]
        done: Option<u64>,
        /// Units in all.
        #[serde(skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// An object of a cluster changed its readiness.
    Object {
        /// Which cluster: bootstrap or management.
        cluster: String,
        /// `Kind namespace/name`.
        object: String,
        /// Whether it is ready now.
        ready: bool,
        /// State in a few words.
        state: String,
    },
    /// Something worth a line.
    Note {
        /// The line.
        message: String,
    },
    /// Something a person should look at; the run goes on.
    Warning {
        /// The line.
        message: String,
    },
    /// The run is over.
    RunEnded {
        /// Whether it reached its goal.
        ok: bool,
        /// Milliseconds taken by this execution.
        elapsed_ms: u64,
    },
}

/// Receives events.
pub trait Sink: Send + Sync {
    /// Takes one event; must not block for long.
    fn take(&self, event: &Event);
}

/// A handle through which everything reports; cheap to clone.
#[derive(Clone)]
pub struct Events {
    sinks: Arc<Vec<Arc<dyn Sink>>>,
    seq: Arc<AtomicU64>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Events({} sinks)", self.sinks.len())
    }
}

impl Events {
    /// Events for the given sinks.
    pub fn to(sinks: Vec<Arc<dyn Sink>>) -> Self {
        Self { sinks: Arc::new(sinks), seq: Arc::new(AtomicU64::new(0)) }
    }

    /// Events that nobody reads.
    pub fn silent() -> Self {
        Self::to(Vec::new())
    }

    /// Sends one event to every sink.
    pub fn send(&self, what: What) {
        let event = Event { seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1, time: clock::now(), what };
        for sink in self.sinks.iter() {
            sink.take(&event);
        }
    }

    /// Sends a note.
    pub fn note(&self, message: impl Into<String>) {
        self.send(What::Note { message: message.into() });
    }

    /// Sends a warning.
    pub fn warn(&self, message: impl Into<String>) {
        self.send(What::Warning { message: message.into() });
    }

    /// Sends progress without counts.
    pub fn progress(&self, subject: impl Into<String>, state: impl Into<String>) {
        self.send(What::Progress { subject: subject.into(), state: state.into(), done: None, total: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Lines(std::sync::Mutex<Vec<String>>);

    impl Sink for Lines {
        fn take(&self, event: &Event) {
            self.0.lock().unwrap().push(serde_json::to_string(event).unwrap());
        }
    }

    #[test]
    fn events_are_numbered_and_flat() {
        let lines = Arc::new(Lines::default());
        let events = Events::to(vec![lines.clone()]);
        events.note("a");
        events.note("b");
        let seen: Vec<serde_json::Value> =
            lines.0.lock().unwrap().iter().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(seen[1]["seq"], 2);
        assert_eq!(seen[1]["event"], "note");
        assert_eq!(seen[1]["message"], "b");
    }
}
