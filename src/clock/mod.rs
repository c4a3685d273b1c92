//! Time: the only place that reads a clock, and the only way to wait.
//!
//! Every wait has a reason, a limit and the last state that was seen, so that a timeout explains itself.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Result};

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Measures how long something takes.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A point in time after which waiting is over.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    end: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self { end: Instant::now() + limit, limit }
    }

    /// The earlier of this deadline and `limit` from now.
    #[must_use]
    pub fn at_most(self, limit: Duration) -> Self {
        let other = Self::after(limit);
        if other.end < self.end { other } else { self }
    }

    /// Time left, zero when it has passed.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// How long the wait was allowed to be in all.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether it has passed.
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }
}

/// What one look at the awaited state found.
#[derive(Debug)]
pub enum Look<T> {
    /// It is there.
    Ready(T),
    /// Not yet; the text is the state seen, for progress and for the timeout's message.
    Pending(String),
}

/// A bounded wait, ended early by a cancellation.
#[derive(Clone, Debug)]
pub struct Wait {
    what: String,
    deadline: Deadline,
    interval: Duration,
    cancel: CancellationToken,
}

impl Wait {
    /// Waits for `what` ("the API server answers") for at most `limit`.
    pub fn new(what: impl Into<String>, limit: Duration) -> Self {
        Self {
            what: what.into(),
            deadline: Deadline::after(limit),
            interval: Duration::from_millis(100),
            cancel: CancellationToken::new(),
        }
    }

    /// Sets the time between two looks.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Ends when the token is cancelled, or when `deadline` passes before its own limit.
    #[must_use]
    pub fn within(mut self, deadline: Deadline, cancel: &CancellationToken) -> Self {
        if deadline.end < self.deadline.end {
            self.deadline = deadline;
        }
        self.cancel = cancel.clone();
        self
    }

    /// Looks again and again until ready, failed, out of time or cancelled.
    pub async fn until<T, F>(self, mut look: F) -> Result<T>
    where
        F: AsyncFnMut() -> Result<Look<T>>,
    {
        let mut last = String::from("not looked at yet");
        loop {
            let left = self.deadline.left();
            tokio::select! {
                seen = look() => match seen? {
                    Look::Ready(value) => return Ok(value),
                    Look::Pending(state) => last = state,
                },
                () = tokio::time::sleep(left) => return Err(self.timed_out(&last)),
                () = self.cancel.cancelled() => return Err(self.interrupted(&last)),
            }
            if self.deadline.passed() {
                return Err(self.timed_out(&last));
            }
            tokio::select! {
                () = tokio::time::sleep(self.interval.min(self.deadline.left())) => {}
                () = self.cancel.cancelled() => return Err(self.interrupted(&last)),
            }
        }
    }

    fn timed_out(&self, last: &str) -> Failure {
        Failure::timeout(format!("waited {} for {}; last seen: {last}", human(self.deadline.limit), self.what))
    }

    fn interrupted(&self, last: &str) -> Failure {
        Failure::interrupted(format!("interrupted while waiting for {}; last seen: {last}", self.what))
    }
}

/// A duration as a person writes it: `850ms`, `4.2s`, `3m10s`.
pub fn human(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        format!("{millis}ms")
    } else if millis < 100_000 {
        let text = format!("{:.1}", duration.as_secs_f64());
        format!("{}s", text.strip_suffix(".0").unwrap_or(&text))
    } else {
        let secs = duration.as_secs();
        match (secs / 60, secs % 60) {
            (m, 0) => format!("{m}m"),
            (m, s) => format!("{m}m{s:02}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn durations_read_well() {
        let cases = [(850, "850ms"), (4200, "4.2s"), (60_000, "60s"), (190_000, "3m10s"), (1_800_000, "30m")];
        for (millis, text) in cases {
            assert_eq!(human(Duration::from_millis(millis)), text);
        }
    }

    #[tokio::test]
    async fn a_timeout_names_what_and_the_last_state() {
        let wait = Wait::new("the moon", Duration::from_millis(30)).every(Duration::from_millis(5));
        let error = wait.until(async || Ok(Look::<()>::Pending("cloudy".into()))).await.unwrap_err();
        assert_eq!(error.kind, Kind::Timeout);
        assert_eq!(error.message, "waited 30ms for the moon; last seen: cloudy");
    }

    #[tokio::test]
    async fn a_look_that_hangs_does_not_outlast_the_deadline() {
        let wait = Wait::new("an answer", Duration::from_millis(30));
        let error = wait
            .until(async || {
                std::future::pending::<()>().await;
                Ok(Look::Ready(()))
            })
            .await
            .unwrap_err();
        assert_eq!(error.kind, Kind::Timeout);
    }

    #[tokio::test]
    async fn a_cancelled_wait_is_an_interruption() {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let wait = Wait::new("x", Duration::from_secs(5)).within(Deadline::after(Duration::from_secs(5)), &cancel);
        let error = wait.until(async || Ok(Look::<()>::Pending("y".into()))).await.unwrap_err();
        assert_eq!(error.kind, Kind::Interrupted);
    }
}
