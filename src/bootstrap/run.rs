//! A run's folder: its lock, journal, event log and the management cluster's kubeconfig.
//!
//! ```text
//! HOME/runs/ENV/lock                       held by the process that works on the environment
//! HOME/runs/ENV/RUN/journal.ndjson         intent and outcome of every effect
//! HOME/runs/ENV/RUN/events.ndjson          everything that was reported
//! HOME/runs/ENV/RUN/management.kubeconfig  once the management cluster answers
//! HOME/runs/ENV/RUN/support/               after a failure
//! ```
//!
//! A run whose journal ends with the record `cleaned` is over: its folder is there to be read. `apply` has the same below `HOME/applies`; its runs are never taken up, for each looks at the cluster anew.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::environment::{Backend, Machines, Overrides};
use crate::event::{Event, Sink};
use crate::failure::{Failure, Result};
use crate::fsx;
use crate::node::Home;
use crate::saga::{Entry, Journal, Record, RunId};

/// What a resumed run must know of how it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The environment's name, or the path of its folder when it is not one of the repository's own.
    pub environment: String,
    /// The repository's folder.
    pub repository: PathBuf,
    /// Whether the working tree is deployed as it is.
    pub dirty: bool,
    /// Whether the bootstrap cluster is kept.
    pub keep: bool,
    /// Settings that are given otherwise than in bootstrap.toml.
    #[serde(default)]
    pub overrides: Overrides,
    /// The existing cluster that gets the chart; without it one is made, and makes the management cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
}

/// What a run makes: in its journal before any of it is there, so that what is found later is known to be its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Makes {
    /// The management cluster's name.
    pub cluster: String,
    /// What its machines are.
    pub machines: Machines,
    /// What makes the bootstrap cluster.
    pub backend: Backend,
    /// The kind of infrastructure that it is made on (`OpenStackCluster`), when that is known.
    pub infrastructure: Option<String>,
}

/// The journal's name of it.
pub const MAKES: &str = "makes";

impl Subject {
    /// The command that goes on with a run of it.
    pub fn again(&self) -> String {
        match &self.kubeconfig {
            Some(kubeconfig) => {
                format!("cluster-init apply {} --kubeconfig {}", self.environment, kubeconfig.display())
            }
            None => format!("cluster-init resume {}", self.environment),
        }
    }
}

/// One execution of the story, begun or taken up.
#[derive(Debug)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Its folder.
    pub folder: PathBuf,
    /// Its journal.
    pub journal: Arc<Journal>,
    /// Whether an earlier process began it.
    pub resumed: bool,
    _lock: fsx::Lock,
}

/// A run as its files show it.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its folder.
    pub folder: PathBuf,
    /// How it was started.
    pub subject: Subject,
    /// Whether it reached its goal.
    pub finished: bool,
    /// Whether it came to make anything.
    pub began: bool,
    /// What `cleanup` left of it when it took away what the run had made; `None` before that.
    pub cleaned: Option<Vec<String>>,
}

impl Past {
    /// Its id.
    pub fn id(&self) -> RunId {
        RunId(self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    /// Whether it is to be gone on with.
    pub fn is_unfinished(&self) -> bool {
        !self.finished && self.cleaned.is_none()
    }

    /// Whether it reached its goal, and what it made was not taken away since.
    pub fn stands(&self) -> bool {
        self.finished && self.cleaned.is_none()
    }

    /// The management cluster's kubeconfig, when the run came so far.
    pub fn kubeconfig(&self) -> Option<PathBuf> {
        Some(self.folder.join(MANAGEMENT_KUBECONFIG)).filter(|path| path.exists())
    }
}

/// Name of the management cluster's kubeconfig in a run's folder.
pub const MANAGEMENT_KUBECONFIG: &str = "management.kubeconfig";

impl Run {
    /// Takes up the environment's last run when it did not reach its goal, else begins a new one.
    pub fn open(home: &Home, environment: &str, subject: &Subject) -> Result<Self> {
        let (root, what) = match subject.kubeconfig {
            Some(_) => (home.applies(), "an application"),
            None => (home.runs(), "a bootstrap"),
        };
        let folder = root.join(environment);
        let lock = lock(&folder, what, environment)?;
        let unfinished = match subject.kubeconfig {
            Some(_) => None,
            None => last(home, environment)?.filter(Past::is_unfinished),
        };
        let resumed = unfinished.is_some();
        let id = unfinished.map_or_else(RunId::fresh, |past| past.id());
        let folder = folder.join(&id.0);
        fsx::create_private_dir(&folder)?;
        let journal = Arc::new(Journal::open(&folder.join("journal.ndjson"))?);
        if resumed {
            journal.write(Record::Resumed { pid: std::process::id() })?;
        } else {
            let subject = serde_json::to_value(subject).map_err(Failure::from_error)?;
            journal.write(Record::Run { id: id.clone(), subject })?;
        }
        Ok(Self { id, folder, journal, resumed, _lock: lock })
    }

    /// Opens a run that reached its goal once more: what it made is looked after.
    pub fn again(home: &Home, environment: &str, past: &Past) -> Result<Self> {
        let lock = lock(&home.runs().join(environment), "a bootstrap", environment)?;
        let journal = Arc::new(Journal::open(&past.folder.join("journal.ndjson"))?);
        journal.write(Record::Resumed { pid: std::process::id() })?;
        Ok(Self { id: past.id(), folder: past.folder.clone(), journal, resumed: true, _lock: lock })
    }

    /// Where the management cluster's kubeconfig is kept.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join(MANAGEMENT_KUBECONFIG)
    }

    /// Where a failure's findings are collected.
    pub fn support(&self) -> PathBuf {
        self.folder.join("support")
    }
}

/// The pid of the process that works on an environment; `None` when there is none. Makes nothing.
pub fn worker(home: &Home, environment: &str) -> Result<Option<String>> {
    let path = home.runs().join(environment).join("lock");
    if !path.exists() {
        return Ok(None);
    }
    Ok(fsx::Lock::try_take(&path)?.err())
}

/// Takes the lock of an environment for whoever takes away what its runs made.
pub fn hold(home: &Home, environment: &str) -> Result<std::result::Result<fsx::Lock, String>> {
    let folder = home.runs().join(environment);
    fsx::create_private_dir(&folder)?;
    Ok(fsx::Lock::try_take(&folder.join("lock"))?)
}

/// Takes the lock of an environment; `what` is done by whoever holds it.
fn lock(folder: &Path, what: &str, environment: &str) -> Result<fsx::Lock> {
    fsx::create_private_dir(folder)?;
    fsx::Lock::try_take(&folder.join("lock"))?.map_err(|pid| {
        Failure::preflight(format!("{what} of {environment} is already running (pid {pid})"))
            .hint(format!("wait for it, or stop it: kill -INT {pid}"))
    })
}

/// The last run of an environment.
pub fn last(home: &Home, environment: &str) -> Result<Option<Past>> {
    Ok(all(home, environment)?.pop())
}

/// The runs of an environment, oldest first.
pub fn all(home: &Home, environment: &str) -> Result<Vec<Past>> {
    let folder = home.runs().join(environment);
    let mut runs = Vec::new();
    for name in fsx::list(&folder)? {
        let folder = folder.join(name);
        // The lock lies beside the runs.
        if !folder.is_dir() {
            continue;
        }
        let entries = Journal::peek(&folder.join("journal.ndjson"))?;
        let subject = entries.iter().find_map(|entry| match &entry.record {
            Record::Run { subject, .. } => serde_json::from_value(subject.clone()).ok(),
            _ => None,
        });
        // A folder without a beginning is no run: its process died before it had done anything.
        let Some(subject) = subject else { continue };
        let finished = entries.iter().any(|entry| entry.record == Record::Done);
        let cleaned = entries.iter().rev().find_map(|entry| match &entry.record {
            Record::Cleaned { remains } => Some(remains.clone()),
            _ => None,
        });
        runs.push(Past { folder, subject, finished, began: began(&entries), cleaned });
    }
    Ok(runs)
}

/// Whether a run came beyond the steps that make nothing outside of the home.
pub fn began(entries: &[Entry]) -> bool {
    let makes = |name: &str| !["preflight", "bundle"].contains(&name);
    entries.iter().any(|entry| matches!(&entry.record, Record::Begin { step } if makes(&step.0)))
}

/// The environments that have an unfinished run.
pub fn unfinished(home: &Home) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for name in fsx::list(&home.runs())? {
        if last(home, &name)?.is_some_and(|past| past.is_unfinished()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Writes every event to the run's folder.
#[derive(Debug)]
pub struct EventLog(Mutex<File>);

impl EventLog {
    /// Appends to the log of a run.
    pub fn of(folder: &Path) -> Result<Self> {
        Ok(Self(Mutex::new(fsx::append(&folder.join("events.ndjson"))?)))
    }
}

impl Sink for EventLog {
    fn take(&self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            // The log is for people; a full disk shows in the journal.
            let _ = writeln!(self.0.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::StepName;

    fn subject() -> Subject {
        Subject {
            environment: "local".into(),
            repository: "/repository".into(),
            dirty: false,
            keep: true,
            overrides: Overrides::default(),
            kubeconfig: None,
        }
    }

    #[test]
    fn an_unfinished_run_is_taken_up_and_a_finished_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let first = Run::open(&home, "local", &subject()).unwrap();
        assert!(!first.resumed);
        let id = first.id.clone();
        drop(first);
        assert_eq!(unfinished(&home).unwrap(), ["local"]);
        let again = Run::open(&home, "local", &subject()).unwrap();
        assert!(again.resumed);
        assert_eq!(again.id, id);
        again.journal.write(Record::Done).unwrap();
        drop(again);
        assert!(unfinished(&home).unwrap().is_empty());
        assert_eq!(last(&home, "local").unwrap().unwrap().subject, subject());
        assert!(!Run::open(&home, "local", &subject()).unwrap().resumed);
    }

    #[test]
    fn a_run_that_was_refused_has_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let run = Run::open(&home, "local", &subject()).unwrap();
        let begin = |step: &str| run.journal.write(Record::Begin { step: StepName(step.into()) }).unwrap();
        begin("preflight");
        assert!(!last(&home, "local").unwrap().unwrap().began);
        begin("bootstrap-cluster");
        assert!(last(&home, "local").unwrap().unwrap().began);
        run.journal.write(Record::Done).unwrap();
        drop(run);
        let past = last(&home, "local").unwrap().unwrap();
        let again = Run::again(&home, "local", &past).unwrap();
        assert!(again.resumed && last(&home, "local").unwrap().unwrap().finished);
    }

    #[test]
    fn a_run_that_was_cleaned_up_is_not_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let first = Run::open(&home, "local", &subject()).unwrap();
        first.journal.write(Record::Cleaned { remains: vec!["a cloud".into()] }).unwrap();
        let id = first.id.clone();
        assert_eq!(worker(&home, "local").unwrap(), Some(std::process::id().to_string()));
        drop(first);
        assert_eq!((worker(&home, "local").unwrap(), worker(&home, "other").unwrap()), (None, None));
        assert!(unfinished(&home).unwrap().is_empty());
        assert_eq!(last(&home, "local").unwrap().unwrap().cleaned, Some(vec!["a cloud".to_owned()]));
        let again = Run::open(&home, "local", &subject()).unwrap();
        assert!(!again.resumed && again.id != id);
    }

    #[test]
    fn a_second_bootstrap_is_refused_and_names_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let _first = Run::open(&home, "local", &subject()).unwrap();
        let failure = Run::open(&home, "local", &subject()).unwrap_err();
        assert_eq!(failure.kind, crate::failure::Kind::Preflight);
        assert_eq!(failure.message, format!("a bootstrap of local is already running (pid {})", std::process::id()));
    }
}
