//! Conditions as Cluster API reads them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// One condition to be set: type, status, reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its type.
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// The reason in CamelCase.
    pub reason: String,
    /// What a person should know; empty when all is well.
    pub message: String,
}

impl Verdict {
    /// A condition that is True.
    pub fn yes(kind: &'static str, reason: &str) -> Self {
        Self { kind, status: "True", reason: reason.into(), message: String::new() }
    }

    /// A condition that is False, with the reason and what a person should know.
    pub fn no(kind: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self { kind, status: "False", reason: reason.into(), message: message.into() }
    }

    /// Adds what a person should know.
    #[must_use]
    pub fn because(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// The Paused condition.
    pub fn paused(reason: Option<&str>) -> Self {
        match reason {
            Some(message) => Self::yes("Paused", "Paused").because(message),
            None => Self::no("Paused", "NotPaused", ""),
        }
    }
}

/// Sets conditions: the time of transition changes only with the status, and the list is ordered by type.
pub fn set(conditions: &mut Vec<Condition>, verdicts: Vec<Verdict>, generation: Option<i64>, now: jiff::Timestamp) {
    for verdict in verdicts {
        let found = conditions.iter().position(|condition| condition.type_ == verdict.kind);
        let since = found
            .filter(|&at| conditions[at].status == verdict.status)
            .map(|at| conditions[at].last_transition_time.clone());
        let condition = Condition {
            type_: verdict.kind.into(),
            status: verdict.status.into(),
            reason: verdict.reason,
            message: verdict.message,
            observed_generation: generation,
            // Kubernetes keeps whole seconds.
            last_transition_time: since
                .unwrap_or_else(|| Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))),
        };
        match found {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_transition_is_a_change_of_status() {
        let mut conditions = Vec::new();
        set(&mut conditions, vec![Verdict::no("Ready", "Starting", "etcd")], Some(1), at(10));
        set(
            &mut conditions,
            vec![Verdict::no("Ready", "Starting", "scheduler"), Verdict::paused(None)],
            Some(1),
            at(20),
        );
        assert_eq!(conditions[1].last_transition_time.0, at(10));
        assert_eq!(conditions[1].message, "scheduler");
        set(&mut conditions, vec![Verdict::yes("Ready", "Ready")], Some(2), at(30));
        assert_eq!(conditions[1].last_transition_time.0, at(30));
        assert_eq!(conditions[1].observed_generation, Some(2));
        let types: Vec<&str> = conditions.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(types, ["Paused", "Ready"]);
    }
}
