//! Child processes: every one has an owner that ends it.
//!
//! [`Command::run`] is for tools that do one thing and end, [`Command::spawn`] for children that live as long as
//! their owner, [`Command::detach`] for daemons that must outlive us (their folder's pid file is their owner).

mod child;

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use process_wrap::tokio::{CommandWrap, KillOnDrop, ProcessGroup, ProcessSession};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use self::child::{Child, how, signal, signal_group, start_time};
use crate::clock::human;
use crate::failure::{Failure, Kind};
use crate::fsx;

/// A child process that could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not there.
    #[error("{program} is not installed or not on PATH")]
    Missing {
        /// Program's name.
        program: String,
    },
    /// The program could not be started.
    #[error("failed to start {program}")]
    Start {
        /// Program's name.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// Its input or output broke.
    #[error("lost contact with {program}")]
    Pipe {
        /// Program's name.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It ended with a failure.
    #[error("{program} {status}{}", tail(stderr))]
    Status {
        /// Program's name with its first argument.
        program: String,
        /// How it ended.
        status: String,
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// What it wrote to standard output.
        stdout: Vec<u8>,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It took too long and was ended.
    #[error("{program} was ended after {}{}", human(*limit), tail(stderr))]
    Timeout {
        /// Program's name with its first argument.
        program: String,
        /// How long it was allowed to take.
        limit: Duration,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// A file for its output could not be opened.
    #[error(transparent)]
    File(#[from] fsx::Error),
}

fn tail(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() {
        return String::new();
    }
    let lines: Vec<&str> = text.lines().collect();
    format!(": {}", lines[lines.len().saturating_sub(12)..].join("\n"))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Timeout { .. } => Kind::Timeout,
            _ => Kind::Failed,
        };
        Self::from_error(error).kind(kind)
    }
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// What a finished child left.
#[derive(Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, as text.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A program to be run.
#[derive(Debug)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    clear_env: bool,
    folder: Option<PathBuf>,
    input: Option<Vec<u8>>,
    tied: bool,
}

impl Command {
    /// A program by path, or by name on PATH.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            clear_env: false,
            folder: None,
            input: None,
            tied: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes a variable away.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// Starts from an empty environment.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Gives standard input.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Ties the child's life to ours: the kernel kills it when this process ends in whatever way, SIGKILL included.
    ///
    /// The kernel looks at the thread that starts the child, so that this is for tasks of the runtime, whose threads
    /// live as long as it does; never for threads that block (`spawn_blocking`), which come and go.
    #[must_use]
    pub fn tied(mut self) -> Self {
        self.tied = true;
        self
    }

    /// Program's name and first argument, for messages; further arguments may hold secrets.
    pub fn name(&self) -> String {
        let program = self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy().into_owned();
        match self.args.first() {
            Some(first) if !first.to_string_lossy().starts_with('-') => {
                format!("{program} {}", first.to_string_lossy())
            }
            _ => program,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
    fn prepare(&self) -> tokio::process::Command {
        let mut command = if self.tied {
            // Nothing may run between fork and exec without unsafe code, so the child is first ourselves, then the program.
            let mut command = tokio::process::Command::new("/proc/self/exe");
            command.arg(TIED).arg(std::process::id().to_string()).arg(&self.program);
            command
        } else {
            tokio::process::Command::new(&self.program)
        };
        command.args(&self.args);
        if self.clear_env {
            command.env_clear();
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    fn start_error(&self, source: std::io::Error) -> Error {
        if source.kind() == ErrorKind::NotFound && self.folder.as_ref().is_none_or(|f| f.exists()) {
            Error::Missing { program: self.program.display().to_string() }
        } else {
            Error::Start { program: self.name(), source }
        }
    }

    /// Runs to the end, for at most `limit`; its whole process group is ended when that passes or the caller is dropped.
    pub async fn run(self, limit: Duration) -> Result<Output> {
        let program = self.name();
        let mut command = self.prepare();
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut wrap = CommandWrap::from(command);
        wrap.wrap(ProcessGroup::leader()).wrap(KillOnDrop);
        let mut child = patiently(|| wrap.spawn()).map_err(|source| self.start_error(source))?;
        let (stdin, stdout, stderr) = (child.stdin().take(), child.stdout().take(), child.stderr().take());
        let mut out = Vec::new();
        let mut err = Vec::new();
        let work = async {
            let feed = async {
                if let (Some(mut pipe), Some(input)) = (stdin, &self.input) {
                    // A child that does not read its input to the end is judged by its status.
                    let _ = pipe.write_all(input).await;
                }
            };
            let read_out = async {
                match stdout {
                    Some(mut pipe) => pipe.read_to_end(&mut out).await.map(|_| ()),
                    None => Ok(()),
                }
            };
            let read_err = async {
                match stderr {
                    Some(mut pipe) => pipe.read_to_end(&mut err).await.map(|_| ()),
                    None => Ok(()),
                }
            };
            let ((), a, b) = tokio::join!(feed, read_out, read_err);
            a?;
            b?;
            child.wait().await
        };
        let status = tokio::time::timeout(limit, work).await;
        let stderr = String::from_utf8_lossy(&err).into_owned();
        match status {
            Err(_) => {
                // The group is killed here, and reaped within a second: SIGKILL cannot be refused.
                let _ = child.start_kill();
                let _ = tokio::time::timeout(Duration::from_secs(1), child.wait()).await;
                Err(Error::Timeout { program, limit, stderr })
            }
            Ok(Err(source)) => Err(Error::Pipe { program, source }),
            Ok(Ok(status)) if status.success() => Ok(Output { stdout: out, stderr }),
            Ok(Ok(status)) => {
                Err(Error::Status { program, status: how(status), code: status.code(), stdout: out, stderr })
            }
        }
    }

    /// Starts a child whose output goes to `log`; it leads a process group and is killed when dropped.
    pub fn spawn(self, log: &Path) -> Result<Child> {
        let name = self.name();
        let mut command = self.prepare();
        let file = fsx::append(log)?;
        let second = file.try_clone().map_err(|source| Error::Start { program: name.clone(), source })?;
        command.stdin(Stdio::null()).stdout(file).stderr(second);
        let mut wrap = CommandWrap::from(command);
        wrap.wrap(ProcessGroup::leader()).wrap(KillOnDrop);
        let inner = patiently(|| wrap.spawn()).map_err(|source| self.start_error(source))?;
        Ok(Child { inner, name })
    }

    /// Starts a child with piped output, for callers that read it line by line; else as [`Command::spawn`].
    pub fn spawn_piped(self) -> Result<Child> {
        let name = self.name();
        let mut command = self.prepare();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut wrap = CommandWrap::from(command);
        wrap.wrap(ProcessGroup::leader()).wrap(KillOnDrop);
        let inner = patiently(|| wrap.spawn()).map_err(|source| self.start_error(source))?;
        Ok(Child { inner, name })
    }

    /// Starts a daemon in a session of its own, with its output in `log`, and lets go of it.
    pub fn detach(self, log: &Path) -> Result<u32> {
        let name = self.name();
        let mut command = self.prepare();
        let file = fsx::append(log)?;
        let second = file.try_clone().map_err(|source| Error::Start { program: name.clone(), source })?;
        command.stdin(Stdio::null()).stdout(file).stderr(second);
        let mut wrap = CommandWrap::from(command);
        wrap.wrap(ProcessSession);
        let mut child = patiently(|| wrap.spawn()).map_err(|source| self.start_error(source))?;
        let pid = child.id().unwrap_or_default();
        // Reaps the daemon should it end while we still live, so that its pid does not look alive.
        tokio::spawn(async move {
            let _ = child.wait().await;
        });
        Ok(pid)
    }
}

/// First argument of this program when it is the first half of a tied child.
const TIED: &str = "tied-child";

/// Becomes the program of a tied child when this process was started as one; called before anything else.
///
/// Returns only when it was not, or when that failed.
#[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
pub fn become_tied_child() -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut args = std::env::args_os().skip(1);
    if args.next().as_deref() != Some(OsStr::new(TIED)) {
        return Ok(());
    }
    let parent = args.next().and_then(|pid| pid.to_string_lossy().parse::<i32>().ok()).and_then(Pid::from_raw);
    let program = args.next().unwrap_or_default();
    let fail = |source| Error::Start { program: program.to_string_lossy().into_owned(), source };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|errno| fail(errno.into()))?;
    if rustix::process::getppid() != parent {
        return Err(fail(std::io::Error::other("its parent has ended already")));
    }
    let mut command = std::process::Command::new(&program);
    command.args(args);
    patiently::<()>(|| Err(command.exec())).map_err(fail)
}

/// Starts a program; one that was just written is busy for a moment, when another thread started a child while it was being
/// written: until that child has become its program, it holds the file open, too.
fn patiently<T>(mut start: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    const TRIES: u32 = 100;
    for _ in 1..TRIES {
        match start() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
    start()
}

/// Looks a program up on PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_shows_the_end_of_stderr() {
        let error =
            Command::new("sh").arg("-c").arg("echo broken >&2; exit 3").run(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "sh exited with code 3: broken");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = Command::new("no-such-program").run(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed or not on PATH");
    }

    #[tokio::test]
    async fn a_program_that_is_being_written_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("echo");
        let mut file = fsx::create(&program).unwrap();
        std::io::copy(&mut std::io::Cursor::new(fsx::read(&find("echo").unwrap()).unwrap()), &mut file).unwrap();
        rustix::fs::fchmod(&file, rustix::fs::Mode::RWXU).unwrap();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(file);
        });
        let output = Command::new(&program).arg("written").run(Duration::from_secs(5)).await.unwrap();
        assert_eq!(output.text(), "written\n");
        writer.join().unwrap();
    }

    #[tokio::test]
    async fn a_timeout_ends_the_whole_group() {
        let error =
            Command::new("sh").arg("-c").arg("sleep 30 & sleep 30").run(Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(error.to_string(), "sh was ended after 100ms");
    }

    #[tokio::test]
    async fn input_reaches_the_child() {
        let output = Command::new("cat").input("hello").run(Duration::from_secs(5)).await.unwrap();
        assert_eq!(output.text(), "hello");
    }

    #[tokio::test]
    async fn stop_kills_what_ignores_sigterm() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut child = Command::new("sh")
            .arg("-c")
            .arg("trap '' TERM; echo up; while :; do sleep 0.05; done")
            .spawn(&log)
            .unwrap();
        while fsx::read_text(&log).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let pid = child.pid().unwrap();
        let (_, killed) = child.stop(Duration::from_millis(100)).await.unwrap();
        assert!(killed);
        assert_eq!(start_time(pid), None);
    }
}
