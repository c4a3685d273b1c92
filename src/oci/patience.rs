//! How long, and how often, a transfer is tried.

use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::error::{Error, Result};
use crate::clock::{Deadline, human};
use crate::event::Events;

/// What any transfer may take, however little there is to move.
const LEAST: Duration = Duration::from_mins(10);
/// Bytes a second that a line moves at least; one that is slower is broken.
const SLOWEST: u64 = 64 << 10;
/// The pause after the first failure.
const PAUSE: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_millis(200) };
/// How often something is tried that gets no further.
const TRIES: usize = 5;

/// The patience with one transfer: a deadline for all of it, and a few attempts that get no further.
pub struct Patience {
    what: String,
    deadline: Deadline,
    pauses: ExponentialBackoff,
    furthest: u64,
}

fn pauses() -> ExponentialBackoff {
    let builder = ExponentialBuilder::default().with_min_delay(PAUSE);
    builder.with_max_delay(Duration::from_secs(5)).with_max_times(TRIES - 1).with_jitter().build()
}

impl Patience {
    /// Patience with the transfer of `size` bytes.
    pub fn new(what: impl Into<String>, size: u64) -> Self {
        let deadline = Deadline::after(LEAST + Duration::from_secs(size / SLOWEST));
        Self { what: what.into(), deadline, pauses: pauses(), furthest: 0 }
    }

    /// Runs one attempt for as long as the deadline allows.
    pub async fn within<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        let slow = || Error::Slow { what: self.what.clone(), limit: self.deadline.limit() };
        tokio::time::timeout(self.deadline.left(), attempt).await.unwrap_or_else(|_| Err(slow()))
    }

    /// Waits before the next attempt, or gives back the error of the last one when there is none. `at` is how far it came: an
    /// attempt that has moved something is not held against the next ones.
    pub async fn pause(&mut self, error: Error, at: u64, events: &Events) -> Result<()> {
        if !error.passes() {
            return Err(error);
        }
        if at > self.furthest {
            self.furthest = at;
            self.pauses = pauses();
        }
        let Some(pause) = self.pauses.next() else { return Err(error) };
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        events.note(format!("{}: {cause}; again in {}", self.what, human(pause)));
        tokio::time::sleep(pause.min(self.deadline.left())).await;
        Ok(())
    }

    /// Tries something small until it is done.
    pub async fn with<T>(mut self, events: &Events, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        loop {
            match self.within(attempt()).await {
                Ok(value) => return Ok(value),
                Err(error) => self.pause(error, 0, events).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cause::Cause;
    use super::*;

    fn cut() -> Error {
        Error::Registry { action: "reach", target: "x".into(), source: Cause::cut("reset") }
    }

    #[tokio::test]
    async fn what_gets_no_further_is_given_up() {
        let mut tries = 0;
        let result: Result<()> = Patience::new("blob", 1)
            .with(&Events::silent(), async || {
                tries += 1;
                Err(cut())
            })
            .await;
        assert!(result.is_err());
        assert_eq!(tries, TRIES);
    }

    #[tokio::test]
    async fn what_gets_further_goes_on() {
        let mut patience = Patience::new("blob", 100);
        for at in 1..30 {
            patience.pause(cut(), at, &Events::silent()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_cannot_pass_is_told_at_once() {
        let refused = Error::Registry { action: "reach", target: "x".into(), source: Cause::Absent };
        assert!(Patience::new("blob", 1).pause(refused, 0, &Events::silent()).await.is_err());
    }
}
