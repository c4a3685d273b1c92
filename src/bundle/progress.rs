//! How far a push or a pull has come.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::error::size;
use crate::clock::Stopwatch;
use crate::event::{Events, What};

/// Bytes are told of this often at most; parts always are.
const PERIOD: Duration = Duration::from_secs(1);

/// Counts parts and bytes, and tells of them.
pub(super) struct Progress<'a> {
    events: &'a Events,
    subject: &'static str,
    parts: u64,
    bytes: u64,
    parts_done: AtomicU64,
    // What was moved may turn out to be wrong, and is moved again.
    bytes_done: AtomicI64,
    told: Mutex<Option<Stopwatch>>,
}

impl<'a> Progress<'a> {
    /// Nothing is done of so many parts and bytes.
    pub(super) fn new(events: &'a Events, subject: &'static str, parts: u64, bytes: u64) -> Self {
        let (parts_done, bytes_done, told) = (AtomicU64::new(0), AtomicI64::new(0), Mutex::default());
        Self { events, subject, parts, bytes, parts_done, bytes_done, told }
    }

    /// Bytes came, or turned out to be of no use.
    pub(super) fn moved(&self, bytes: i64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|last| last.elapsed() >= PERIOD) {
            *told = Some(Stopwatch::start());
            drop(told);
            self.tell(self.parts_done.load(Ordering::Relaxed));
        }
    }

    /// A part is complete.
    pub(super) fn part(&self) {
        self.tell(self.parts_done.fetch_add(1, Ordering::Relaxed) + 1);
    }

    fn tell(&self, done: u64) {
        let moved = u64::try_from(self.bytes_done.load(Ordering::Relaxed)).unwrap_or(0);
        let state = format!("{} of {}", size(moved), size(self.bytes));
        let (done, total) = (Some(done), Some(self.parts));
        self.events.send(What::Progress { subject: self.subject.into(), state, done, total });
    }

    /// Bytes that were moved.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(self.bytes_done.load(Ordering::Relaxed)).unwrap_or(0)
    }
}
