//! A running child, and signals to processes.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use process_wrap::tokio::ChildWrapper;
use rustix::process::{Pid, Signal};

use super::{Error, Result};
use crate::clock::{Stopwatch, human};
use crate::fsx;

/// How a process ended, as a fragment: "exited with code 1".
pub fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// A running child and its process group.
#[derive(Debug)]
pub struct Child {
    pub(super) inner: Box<dyn ChildWrapper>,
    pub(super) name: String,
}

impl Child {
    /// Its pid, which is also its process group; `None` once it was reaped.
    pub fn pid(&self) -> Option<u32> {
        self.inner.id()
    }

    /// Its name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes its standard output, when it was started with pipes.
    pub fn stdout(&mut self) -> Option<tokio::process::ChildStdout> {
        self.inner.stdout().take()
    }

    /// Takes its standard error, when it was started with pipes.
    pub fn stderr(&mut self) -> Option<tokio::process::ChildStderr> {
        self.inner.stderr().take()
    }

    /// Waits until it ends.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        self.inner.wait().await.map_err(|source| Error::Pipe { program: self.name.clone(), source })
    }

    /// Asks the group to end, kills it after `grace`; returns how it ended and whether it had to be killed.
    pub async fn stop(&mut self, grace: Duration) -> Result<(ExitStatus, bool)> {
        if let Some(pid) = self.pid() {
            signal_group(pid, Signal::TERM);
        }
        let watch = Stopwatch::start();
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return Ok((status?, false));
        }
        tracing::debug!(child = self.name, after = %human(watch.elapsed()), "killed");
        if let Some(pid) = self.pid() {
            signal_group(pid, Signal::KILL);
        }
        Ok((self.wait().await?, true))
    }
}

/// Sends a signal to a process group; a group that is gone is fine.
pub fn signal_group(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

/// Sends a signal to a process; a process that is gone is fine.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The kernel's start time of a process, which together with the pid identifies it; `None` when there is no such process.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fsx::read_text(Path::new(&format!("/proc/{pid}/stat"))).ok()?;
    // The command name may hold spaces and parentheses; fields are counted after the last parenthesis.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
