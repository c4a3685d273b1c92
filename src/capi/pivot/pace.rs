//! How many requests are in flight: as many as the servers take, fewer when they say or show that it is too much.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::clock::Stopwatch;
use crate::failure::Result;

/// Where it starts, and its bounds.
const START: f64 = 16.0;
const LEAST: f64 = 2.0;
const MOST: f64 = 48.0;
/// How much slower than the best an answer may be before it means that requests queue up.
const PATIENCE: u32 = 8;

/// The number of requests in flight: grows by one for each round of quick answers, shrinks by a quarter when answers
/// slow down, and halves when a server says that it has had enough.
#[derive(Debug)]
pub(super) struct Pace(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    limit: f64,
    /// The quickest answers, smoothed; forgets slowly, since small objects are quicker than large ones.
    best: Option<Duration>,
    /// Answers since the limit last shrank.
    since: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new(State { limit: START, best: None, since: 0 }))
    }
}

impl Pace {
    /// How many requests may be in flight now.
    pub(super) fn limit(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).limit as usize
    }

    /// Takes account of an answer that took so long.
    pub(super) fn answered(&self, took: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let best = state.best.map_or(took, |best| best.min(took).mul_f64(0.99) + took.mul_f64(0.01));
        state.best = Some(best);
        state.since += 1;
        if took > best * PATIENCE && f64::from(state.since) > state.limit {
            state.limit = (state.limit * 0.75).max(LEAST);
            state.since = 0;
        } else {
            state.limit = (state.limit + 1.0 / state.limit).min(MOST);
        }
    }

    /// Takes account of a refusal for lack of capacity.
    pub(super) fn throttled(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.limit = (state.limit / 2.0).max(LEAST);
        state.since = 0;
    }
}

/// Does the work for every item, in parallel. After a failure nothing more is begun; what is in flight is awaited, so
/// that no request is given up half way.
pub(super) async fn each<T, F: Future<Output = Result<()>>>(
    pace: &Pace,
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> F,
) -> Result<()> {
    let timed = async |future: F| {
        let watch = Stopwatch::start();
        let result = future.await;
        if result.is_ok() {
            pace.answered(watch.elapsed());
        }
        result
    };
    let mut items = items.into_iter();
    let mut flying = FuturesUnordered::new();
    let mut outcome = Ok(());
    loop {
        while outcome.is_ok() && flying.len() < pace.limit() {
            let Some(item) = items.next() else { break };
            flying.push(timed(work(item)));
        }
        match flying.next().await {
            None => return outcome,
            Some(Err(failure)) if outcome.is_ok() => outcome = Err(failure),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;
    use std::cell::Cell;

    #[test]
    fn it_grows_with_quick_answers_and_shrinks_with_slow_ones_and_refusals() {
        let pace = Pace::default();
        for _ in 0..400 {
            pace.answered(Duration::from_millis(2));
        }
        let quick = pace.limit();
        assert!(quick > 20, "{quick}");
        for _ in 0..200 {
            pace.answered(Duration::from_millis(100));
        }
        let slow = pace.limit();
        assert!(slow < quick, "{slow}");
        for _ in 0..20 {
            pace.throttled();
        }
        assert_eq!(pace.limit(), 2);
    }

    #[tokio::test]
    async fn a_failure_ends_the_work_and_what_is_in_flight_is_awaited() {
        let (begun, ended) = (Cell::new(0), Cell::new(0));
        let failure = each(&Pace::default(), 0..100, async |n| {
            begun.set(begun.get() + 1);
            tokio::task::yield_now().await;
            ended.set(ended.get() + 1);
            if n == 3 { Err(Failure::failed("no")) } else { Ok(()) }
        })
        .await
        .unwrap_err();
        assert_eq!(failure.message, "no");
        assert_eq!(begun.get(), ended.get());
        assert!(begun.get() < 100, "{}", begun.get());
    }
}
