//! Who works on a pivot: one process at a time, and whether the last one lives.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::record::{self, Holder, Record};
use crate::clock::{self, Look, Wait};
use crate::exec;
use crate::failure::{Failure, Kind, Result};
use crate::fsx;
use crate::k8s::Cluster;

/// How often a holder shows that it lives.
const BEAT: Duration = Duration::from_secs(3);
/// How long a holder on another host may be silent before it is taken for dead.
const SILENCE: Duration = Duration::from_secs(12);

/// This process.
pub(super) fn myself() -> Holder {
    let pid = std::process::id();
    let boot = fsx::read_text(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
    // Two containers of one boot do not see each other's processes.
    let space = fsx::link(Path::new("/proc/self/ns/pid")).unwrap_or_default();
    Holder {
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid,
        started: exec::start_time(pid).unwrap_or_default(),
        place: format!("{} {}", boot.trim(), space.display()),
    }
}

/// A pulse that differs from every other.
pub(super) fn pulse() -> String {
    clock::now().to_string()
}

/// Refuses while the holder of a record lives.
pub(super) async fn refuse_living(record: &Record, source: &Cluster, target: &Cluster) -> Result<()> {
    let me = myself();
    if record.holder == me {
        return Ok(());
    }
    let running = || {
        Failure::preflight(format!("a pivot between these clusters is already running: {}", record.line()))
            .hint(format!("wait for it, or stop it where it runs: kill -INT {}", record.holder.pid))
    };
    if record.holder.place == me.place {
        let alive = exec::start_time(record.holder.pid).is_some_and(|started| started == record.holder.started);
        return if alive { Err(running()) } else { Ok(()) };
    }
    // It runs, or ran, elsewhere: only its pulse can tell. It may have died between two beats, so each cluster's counts alone.
    let pulses = async || -> Result<[Option<String>; 2]> {
        let (one, other) = tokio::try_join!(record::recorded(source), record::recorded(target))?;
        Ok([one, other].map(|now| now.filter(|now| now.id == record.id).map(|now| now.pulse)))
    };
    let before = pulses().await?;
    let silent = Wait::new(format!("a sign of life of {}", record.holder), SILENCE)
        .every(Duration::from_millis(500))
        .until(async || {
            let now = pulses().await?;
            let beats = now.iter().zip(&before).any(|(now, before)| now.is_some() && now != before);
            Ok(if beats { Look::Ready(()) } else { Look::Pending("none".into()) })
        })
        .await;
    match silent {
        Ok(()) => Err(running()),
        Err(failure) if failure.kind == Kind::Timeout => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Shows that this process lives, until it is dropped.
pub(super) struct Heart {
    _stop: DropGuard,
}

impl Heart {
    /// Begins to beat in the records of both clusters.
    pub(super) fn start(source: &Cluster, target: &Cluster) -> Self {
        let stop = CancellationToken::new();
        let ended = stop.clone();
        let clusters = [source.clone(), target.clone()];
        let me = myself();
        tokio::spawn(async move {
            let beats = async {
                loop {
                    tokio::time::sleep(BEAT).await;
                    for cluster in &clusters {
                        // A beat that is lost does no harm: the next one comes before anybody doubts.
                        let _ = record::beat(cluster, &me, &pulse()).await;
                    }
                }
            };
            tokio::select! { () = beats => {}, () = ended.cancelled() => {} }
        });
        Self { _stop: stop.drop_guard() }
    }
}
