//! The pivot, killed just before and just after every single write: nothing may be lost, nothing may be there twice.

use cluster_init::k8s::ObjectRef;

use crate::arena::{Arena, WORKERS, state};
use crate::seed;

/// What the matrix found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    writes: u64,
    kills: usize,
    recovered: usize,
    lost: usize,
    doubled: usize,
}

/// Kills at the given writes, before and after, and compares with a run that nobody disturbed.
async fn matrix(arena: &Arena, step: usize) -> Tally {
    let objects = seed::populate(&arena.clusters[0], WORKERS).await;
    let expected = state(&arena.clusters[0]).await;
    assert_eq!(expected.len(), objects);
    let writes = arena.move_from(0).await;
    assert_eq!(state(&arena.clusters[1]).await, expected, "an undisturbed move changes nothing");
    assert_eq!(state(&arena.clusters[0]).await.len(), 0);
    let mut tally = Tally { writes, ..Tally::default() };
    let mut from = 1;
    for write in (1..=writes).step_by(step) {
        for side in ["before", "after"] {
            let killed = arena.kill(from, &format!("write:{write}:{side}")).await;
            assert!(killed, "write {write} of {writes} did not come");
            tally.kills += 1;
            let (source, target) = (state(&arena.clusters[from]).await, state(&arena.clusters[1 - from]).await);
            let there = |name: &&ObjectRef| source.contains_key(*name) || target.contains_key(*name);
            tally.lost += expected.keys().filter(|name| !there(name)).count();
            let again = if side == "after" { arena.run_elsewhere(from).await } else { arena.run(from).await };
            assert_eq!(again.code, 0, "after a kill {side} write {write}:\n{}", again.stderr);
            let (source, target) = (state(&arena.clusters[from]).await, state(&arena.clusters[1 - from]).await);
            for (name, wanted) in &expected {
                assert_eq!(target.get(name), Some(wanted), "{name} after a kill {side} write {write}");
            }
            tally.doubled += target.len() - expected.len() + source.len();
            tally.recovered += 1;
            from = 1 - from;
        }
        progress(&tally);
    }
    tally
}

#[allow(clippy::print_stderr, reason = "a long test that a person watches")]
fn progress(tally: &Tally) {
    let Tally { writes, kills, recovered, lost, doubled } = tally;
    eprintln!("writes {writes}, kills {kills}, recovered {recovered}, lost {lost}, doubled {doubled}");
}

/// A sample for every day; see `tools/kill-matrix` for all of it.
pub async fn sample(arena: &Arena) {
    let tally = matrix(arena, 37).await;
    assert!(tally.kills > 4, "{tally:?}");
    assert_eq!((tally.recovered, tally.lost, tally.doubled), (tally.kills, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: run by tools/kill-matrix"]
async fn a_pivot_killed_at_every_write_recovers() {
    let arena = Arena::new().await;
    let tally = matrix(&arena, 1).await;
    assert_eq!(tally.kills as u64, 2 * tally.writes);
    assert_eq!((tally.recovered, tally.lost, tally.doubled), (tally.kills, 0, 0));
    arena.end().await;
}
