//! Which processes a daemon has started, on disk, so that a daemon that was killed leaves nothing unowned: the next
//! one, or whoever deletes the node, ends what is left.
//!
//! A process is known by pid, kernel start time and boot, so that a pid that was given to somebody else is never
//! signalled. Each process leads a process group, which is signalled whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::clock::{Look, Wait};
use crate::failure::{Failure, Result};
use crate::{exec, fsx};

/// One process that a daemon started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its pid, which is also its process group.
    pub pid: u32,
    /// Its start time as the kernel counts it.
    pub start: u64,
    /// What it is, for messages ("etcd", "pod default/web container nginx").
    pub what: String,
}

impl Entry {
    /// Whether the very same process is still there.
    pub fn alive(&self) -> bool {
        exec::start_time(self.pid) == Some(self.start)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    /// The boot that the following lines belong to.
    Boot(String),
    Started(Entry),
    Ended(u32),
}

/// The open ledger of a running daemon; cheap to clone.
#[derive(Clone, Debug)]
pub struct Ledger {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

fn boot() -> String {
    // Where the kernel tells no boot id, start times alone must do.
    fsx::read_text(Path::new("/proc/sys/kernel/random/boot_id")).map(|id| id.trim().to_owned()).unwrap_or_default()
}

fn line(line: &Line) -> Result<String> {
    Ok(serde_json::to_string(line).map_err(Failure::from_error)? + "\n")
}

/// The processes of a ledger that are still there; none when there is no ledger.
pub fn leftovers(path: &Path) -> Result<Vec<Entry>> {
    let Some(text) = fsx::read_text_if_present(path)? else { return Ok(Vec::new()) };
    let mut entries = BTreeMap::new();
    let mut same_boot = true;
    // The last line may be torn by a crash; what it started is then caught by the daemon's own death signal.
    for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        match line {
            Line::Boot(id) => same_boot = id == boot(),
            Line::Started(entry) => {
                entries.insert(entry.pid, entry);
            }
            Line::Ended(pid) => {
                entries.remove(&pid);
            }
        }
    }
    Ok(if same_boot { entries.into_values().filter(Entry::alive).collect() } else { Vec::new() })
}

/// Ends the processes of a ledger that are still there, groups and all; returns what had to be ended.
pub async fn end_leftovers(path: &Path, grace: Duration) -> Result<Vec<Entry>> {
    let left = leftovers(path)?;
    for entry in &left {
        exec::signal_group(entry.pid, Signal::TERM);
    }
    let all_gone = async || {
        let alive: Vec<&str> = left.iter().filter(|e| e.alive()).map(|e| e.what.as_str()).collect();
        Ok(if alive.is_empty() { Look::Ready(()) } else { Look::Pending(format!("{} alive", alive.join(", "))) })
    };
    let wait = |limit| Wait::new("leftover processes to end", limit).every(Duration::from_millis(20));
    if wait(grace).until(all_gone).await.is_err() {
        for entry in left.iter().filter(|entry| entry.alive()) {
            exec::signal_group(entry.pid, Signal::KILL);
        }
        wait(Duration::from_secs(5)).until(all_gone).await?;
    }
    Ok(left)
}

impl Ledger {
    /// Begins an empty ledger; leftovers must have been ended before.
    pub fn begin(path: &Path) -> Result<Self> {
        fsx::write_private(path, line(&Line::Boot(boot()))?)?;
        Ok(Self { path: path.to_path_buf(), file: Arc::new(Mutex::new(fsx::append(path)?)) })
    }

    fn append(&self, entry: &Line) -> Result<()> {
        let text = line(entry)?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes())
            .map_err(|error| Failure::failed(format!("failed to write {}", self.path.display())).caused_by(error))
    }

    /// Records a process that was just started; one that has ended already needs no record.
    pub fn started(&self, pid: u32, what: &str) -> Result<()> {
        match exec::start_time(pid) {
            Some(start) => self.append(&Line::Started(Entry { pid, start, what: what.to_owned() })),
            None => Ok(()),
        }
    }

    /// Records that a process has ended.
    pub fn ended(&self, pid: u32) -> Result<()> {
        self.append(&Line::Ended(pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Command;

    #[tokio::test]
    async fn leftovers_are_ended_and_ended_ones_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::begin(&path).unwrap();
        let spawn = |script: &str| Command::new("sh").arg("-c").arg(script).spawn(&folder.path().join("log")).unwrap();
        let mut stays = spawn("sleep 60 & sleep 60");
        let mut ends = spawn("exit 0");
        ledger.started(stays.pid().unwrap(), "stays").unwrap();
        let pid = ends.pid().unwrap();
        ledger.started(pid, "ends").unwrap();
        ends.wait().await.unwrap();
        ledger.ended(pid).unwrap();
        assert_eq!(leftovers(&path).unwrap().iter().map(|e| e.what.as_str()).collect::<Vec<_>>(), ["stays"]);
        let (ended, _) = tokio::join!(end_leftovers(&path, Duration::from_secs(5)), stays.wait());
        assert_eq!(ended.unwrap().len(), 1);
        assert!(leftovers(&path).unwrap().is_empty());
    }

    #[test]
    fn a_pid_of_another_boot_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let me = std::process::id();
        let entry = Entry { pid: me, start: exec::start_time(me).unwrap(), what: "me".into() };
        let text = line(&Line::Boot("another".into())).unwrap() + &line(&Line::Started(entry)).unwrap();
        fsx::write(&path, text).unwrap();
        assert!(leftovers(&path).unwrap().is_empty());
    }
}
