//! Children that are kept running: started again with back-off when they end, probed, stopped in order.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::socket::Component;
use crate::clock::{Stopwatch, human};
use crate::event::Events;
use crate::exec::{self, Command};
use crate::failure::Result;

/// Pause before the first new start of a child that ended.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between two starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A child that ran for this long starts from the first pause again.
const STEADY: Duration = Duration::from_mins(1);
/// Time between two probes of a child that is not ready, and of one that is.
const EAGER: Duration = Duration::from_millis(10);
const CALM: Duration = Duration::from_secs(2);
/// How often a ready child may fail its probe before it no longer counts as ready.
const PATIENCE: u32 = 3;

/// Tells whether a child is ready, or why not.
pub type Probe = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A child to be kept running.
pub struct Child {
    /// Its name ("etcd").
    pub name: &'static str,
    /// The command, made anew for each start.
    pub command: Box<dyn Fn() -> Command + Send + Sync>,
    /// Its log file.
    pub log: PathBuf,
    /// Its readiness.
    pub probe: Probe,
    /// How long it may take to end by itself.
    pub grace: Duration,
}

/// States of all parts of a node, shared by those who write and who read them.
#[derive(Clone, Debug)]
pub struct Board {
    parts: Arc<Mutex<Vec<Component>>>,
    changed: Arc<watch::Sender<()>>,
}

impl Board {
    /// A board with the given parts, none of which is ready.
    pub fn new(names: &[&str]) -> Self {
        let parts = names
            .iter()
            .map(|&name| Component { name: name.into(), pid: None, restarts: 0, ready: false, state: "waits".into() })
            .collect();
        Self { parts: Arc::new(Mutex::new(parts)), changed: Arc::new(watch::Sender::new(())) }
    }

    /// Changes one part.
    pub fn set(&self, name: &str, change: impl FnOnce(&mut Component)) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.iter_mut().find(|part| part.name == name) {
            change(part);
        }
        drop(parts);
        self.changed.send_replace(());
    }

    /// Sets readiness and its words.
    pub fn ready(&self, name: &str, ready: bool, state: impl Into<String>) {
        let state = state.into();
        self.set(name, |part| {
            part.ready = ready;
            part.state = state;
        });
    }

    /// All parts as they are now.
    pub fn parts(&self) -> Vec<Component> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a part is ready.
    pub async fn until_ready(&self, name: &str) {
        let mut changed = self.changed.subscribe();
        while !self.parts().iter().any(|part| part.name == name && part.ready) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until all parts are ready.
    pub async fn until_all_ready(&self) {
        let mut changed = self.changed.subscribe();
        while !self.parts().iter().all(|part| part.ready) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Keeps a child running until cancelled, then ends it.
pub async fn supervise(child: Child, board: Board, ledger: Ledger, events: Events, cancel: CancellationToken) {
    let name = child.name;
    let mut pause = FIRST_PAUSE;
    loop {
        let watch = Stopwatch::start();
        let ended = match (child.command)().tied().spawn(&child.log) {
            Ok(mut process) => {
                let pid = process.pid();
                if let Some(pid) = pid
                    && let Err(failure) = ledger.started(pid, name)
                {
                    events.warn(format!("{name} is not in the ledger: {failure}"));
                }
                board.set(name, |part| {
                    part.pid = pid;
                    part.ready = false;
                    part.state = "starting".into();
                });
                let ended = tokio::select! {
                    status = process.wait() => Some(status.map_or_else(|error| error.to_string(), exec::how)),
                    () = probe(&child, &board, &events) => None,
                    () = cancel.cancelled() => None,
                };
                if ended.is_none() {
                    board.ready(name, false, "stopping");
                    match process.stop(child.grace).await {
                        Ok((_, true)) => events.note(format!("{name} was killed after {}", human(child.grace))),
                        Ok(_) => {}
                        Err(error) => events.warn(format!("{name}: {error}")),
                    }
                }
                if let Some(pid) = pid
                    && let Err(failure) = ledger.ended(pid)
                {
                    events.warn(format!("{name} stays in the ledger: {failure}"));
                }
                ended
            }
            Err(error) => Some(error.to_string()),
        };
        board.set(name, |part| {
            part.pid = None;
            part.ready = false;
            part.state = "stopped".into();
        });
        let Some(ended) = ended.filter(|_| !cancel.is_cancelled()) else { return };
        if watch.elapsed() >= STEADY {
            pause = FIRST_PAUSE;
        }
        events.warn(format!("{name} {ended}; it starts again in {}", human(pause)));
        board.set(name, |part| {
            part.restarts += 1;
            part.state = format!("{ended}; starts again shortly");
        });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cancel.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Probes a running child for ever and writes what it finds on the board.
async fn probe(child: &Child, board: &Board, events: &Events) {
    let watch = Stopwatch::start();
    let mut ready = false;
    let mut failures = 0;
    loop {
        match (child.probe)().await {
            Ok(()) => {
                failures = 0;
                if !ready {
                    ready = true;
                    events.note(format!("{} is ready after {}", child.name, human(watch.elapsed())));
                    board.ready(child.name, true, "ready");
                }
            }
            Err(_) if ready && failures < PATIENCE => failures += 1,
            Err(reason) => {
                if ready {
                    ready = false;
                    events.warn(format!("{} is no longer ready: {reason}", child.name));
                }
                board.ready(child.name, false, reason);
            }
        }
        tokio::time::sleep(if ready { CALM } else { EAGER }).await;
    }
}
