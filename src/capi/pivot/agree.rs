//! What the journal and the records on both clusters say together: begin, go on, or stop because they disagree.

use super::record::{Phase, Record};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is no pivot under way.
    Begin,
    /// This pivot is under way.
    GoOn(Record),
    /// The pivot that was asked for is done.
    Done,
    /// Another pivot is under way.
    Other(Record),
    /// They cannot all be true: what the source says, what the target says, what the journal says.
    Disagree(String, String, String),
}

/// Decides from what is written. `id` is the pivot that is asked for, `direction` the clusters that it is between.
///
/// Records are written in this order, and a crash may fall between any two: copying on the source, then on the target;
/// committed on the target, then on the source; done on the source, then on the target. A rollback takes the target's
/// away first.
pub(super) fn decide(
    id: &str,
    direction: (&str, &str),
    journal: Option<Phase>,
    source: Option<&Record>,
    target: Option<&Record>,
) -> Decision {
    // An older pivot that is done says nothing about this one, nor about one that is under way.
    let under_way = [target, source].into_iter().flatten().find(|r| r.phase != Phase::Done).map_or(id, |r| &r.id);
    let counts = |record: &&Record| record.phase != Phase::Done || record.id == under_way;
    let (source, target) = (source.filter(counts), target.filter(counts));
    let disagree = || {
        let line = |record: Option<&Record>| record.map_or_else(|| "nothing".to_owned(), Record::line);
        let journal = journal.map_or("nothing", Phase::text).to_owned();
        Decision::Disagree(line(source), line(target), journal)
    };
    let Some(any) = target.or(source) else {
        return if journal >= Some(Phase::Committed) { disagree() } else { Decision::Begin };
    };
    let same = |record: &Record| (record.from.as_str(), record.to.as_str()) == direction;
    if let Some(other) = [source, target].into_iter().flatten().find(|record| !same(record)) {
        return Decision::Other(other.clone());
    }
    if source.is_some_and(|record| record.id != any.id) {
        return disagree();
    }
    match (source.map(|r| r.phase), target.map(|r| r.phase)) {
        (Some(Phase::Done) | None, Some(Phase::Done)) | (Some(Phase::Done), None) => Decision::Done,
        (Some(Phase::Copying) | None, Some(Phase::Copying)) | (Some(Phase::Copying), None)
            if journal < Some(Phase::Committed) =>
        {
            Decision::GoOn(any.clone())
        }
        (Some(_), Some(Phase::Committed)) => Decision::GoOn(any.clone()),
        _ => disagree(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Holder;
    use super::*;
    use crate::capi::Plan;

    fn record(id: &str, phase: Phase) -> Record {
        Record {
            id: id.into(),
            phase,
            from: "a".into(),
            to: "b".into(),
            holder: Holder::default(),
            pulse: String::new(),
            plan: Plan::default(),
            fence: Vec::new(),
        }
    }

    #[test]
    fn every_combination_has_one_meaning() {
        use Phase::{Committed, Copying, Done};
        let cases = [
            (None, None, None, "begin"),
            (Some(Copying), None, None, "begin"),
            (Some(Committed), None, None, "disagree"),
            (Some(Done), None, None, "disagree"),
            (None, Some(Copying), None, "go on: copying"),
            (None, None, Some(Copying), "go on: copying"),
            (None, Some(Copying), Some(Copying), "go on: copying"),
            (Some(Committed), Some(Copying), Some(Copying), "disagree"),
            (None, Some(Copying), Some(Committed), "go on: committed"),
            (Some(Copying), Some(Committed), Some(Committed), "go on: committed"),
            (None, Some(Committed), Some(Copying), "disagree"),
            (None, Some(Committed), None, "disagree"),
            (None, None, Some(Committed), "disagree"),
            (None, Some(Done), Some(Committed), "go on: committed"),
            (None, Some(Done), Some(Done), "done"),
            (None, None, Some(Done), "done"),
            (None, Some(Done), None, "done"),
            (None, Some(Committed), Some(Done), "disagree"),
        ];
        for (journal, source, target, expected) in cases {
            let (from, to) = (source.map(|p| record("run", p)), target.map(|p| record("run", p)));
            let found = match decide("run", ("a", "b"), journal, from.as_ref(), to.as_ref()) {
                Decision::Begin => "begin".into(),
                Decision::GoOn(record) => format!("go on: {}", record.phase.text()),
                Decision::Done => "done".into(),
                Decision::Other(_) => "other".into(),
                Decision::Disagree(..) => "disagree".into(),
            };
            assert_eq!(found, expected, "{journal:?} {source:?} {target:?}");
        }
    }

    #[test]
    fn older_pivots_that_are_done_are_no_obstacle() {
        let (old, new) = (record("old", Phase::Done), record("new", Phase::Copying));
        assert_eq!(decide("run", ("a", "b"), None, Some(&old), Some(&old)), Decision::Begin);
        assert_eq!(decide("run", ("a", "b"), None, Some(&new), Some(&old)), Decision::GoOn(new.clone()));
        assert_eq!(decide("run", ("b", "a"), None, Some(&old), None), Decision::Begin);
        let (done, committed) = (record("old", Phase::Done), record("old", Phase::Committed));
        assert_eq!(decide("run", ("a", "b"), None, Some(&done), Some(&committed)), Decision::GoOn(committed.clone()));
    }

    #[test]
    fn another_direction_is_another_pivot() {
        let under_way = record("old", Phase::Copying);
        assert_eq!(decide("run", ("b", "a"), None, Some(&under_way), None), Decision::Other(under_way.clone()));
        assert_eq!(decide("run", ("a", "c"), None, Some(&under_way), None), Decision::Other(under_way.clone()));
        let another = record("another", Phase::Copying);
        let decision = decide("run", ("a", "b"), None, Some(&under_way), Some(&another));
        assert!(matches!(decision, Decision::Disagree(..)), "{decision:?}");
    }
}
