//! When a container that ended is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_mins(5);
/// A container that ran this long has its back-off forgotten.
const FORGIVEN: Duration = Duration::from_mins(10);

/// The kubelet's back-off: the first restart at once, then 10 s, doubled each time up to 5 min.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    next: Option<Duration>,
}

impl Backoff {
    /// How long to wait before the next start of a container that ran for `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= FORGIVEN {
            self.next = None;
        }
        let delay = self.next.unwrap_or_default();
        self.next = Some(if delay.is_zero() { FIRST } else { (delay * 2).min(LONGEST) });
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_five_minutes() {
        let mut backoff = Backoff::default();
        let delays: Vec<u64> = (0..8).map(|_| backoff.after(Duration::from_secs(1)).as_secs()).collect();
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_run_is_forgiven() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.after(Duration::ZERO);
        }
        assert_eq!(backoff.after(Duration::from_mins(11)), Duration::ZERO);
        assert_eq!(backoff.after(Duration::ZERO), FIRST);
    }
}
