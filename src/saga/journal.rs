//! The run's append-only NDJSON file: intent before an effect, outcome after it, fsynced.
//!
//! It is written for recovery, not for debugging, and never holds a Secret. A last line that a crash cut short is
//! dropped when the file is opened again; a broken line anywhere else is an error, since then the file was edited.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StepName;
use crate::clock;
use crate::failure::Failure;
use crate::fsx;

/// Identifies a run: sorts by time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub String);

impl RunId {
    /// An id from the time and some chance.
    pub fn fresh() -> Self {
        let time = clock::now().strftime("%Y%m%dT%H%M%SZ");
        Self(format!("{time}-{:04x}", rand::random::<u16>()))
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] fsx::Error),
    /// Writing a record failed.
    #[error("failed to write the journal {}", path.display())]
    Write {
        /// The journal's file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line in the middle is no record.
    #[error("line {line} of the journal {} is damaged", path.display())]
    Damaged {
        /// The journal's file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::File(error) => error.into(),
            Error::Damaged { .. } => Self::refused(error.to_string()).hint(
                "restore the file from a backup, or move its folder away: the next run begins anew, if the old one left nothing",
            ),
            other @ Error::Write { .. } => Self::from_error(other),
        }
    }
}

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// The run begins.
    Run {
        /// Its id.
        id: RunId,
        /// What it is for: the environment and whatever a resumed run must know.
        subject: Value,
    },
    /// A process takes the run up again.
    Resumed {
        /// Its pid.
        pid: u32,
    },
    /// A step is about to be applied.
    Begin {
        /// The step.
        step: StepName,
    },
    /// A step is done.
    End {
        /// The step.
        step: StepName,
        /// Milliseconds taken; 0 when the probe found it done.
        elapsed_ms: u64,
    },
    /// A step failed.
    Failed {
        /// The step.
        step: StepName,
        /// The failure's sentence.
        error: String,
    },
    /// A step is about to be undone.
    Undoing {
        /// The step.
        step: StepName,
    },
    /// A step is undone.
    Undone {
        /// The step.
        step: StepName,
    },
    /// An effect is about to happen.
    Intent {
        /// The step.
        step: StepName,
        /// What, on which object.
        effect: String,
    },
    /// An effect has happened.
    Outcome {
        /// The step.
        step: StepName,
        /// What, on which object.
        effect: String,
    },
    /// A fact that later steps or a resumed run need.
    Fact {
        /// Its name.
        name: String,
        /// Its value; never a Secret.
        value: Value,
    },
    /// The run reached its goal.
    Done,
    /// What the run made was taken away, or could not be looked for; it is neither gone on with nor the environment's any more.
    Cleaned {
        /// What nobody looked for, and where to look for it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remains: Vec<String>,
    },
}

/// A record with its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written.
    pub time: jiff::Timestamp,
    /// What.
    #[serde(flatten)]
    pub record: Record,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<Option<File>>,
    past: Vec<Entry>,
    facts: Mutex<BTreeMap<String, Value>>,
    crash: Option<CrashPoint>,
}

/// Where tests want the process to die: `record[:text]:before|after[:nth]` in `CLUSTER_INIT_CRASH_AT`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct CrashPoint {
    text: String,
    after: bool,
}

impl CrashPoint {
    fn from_env() -> Option<Self> {
        let text = std::env::var("CLUSTER_INIT_CRASH_AT").ok()?;
        let (text, side) = text.rsplit_once(':')?;
        Some(Self { text: text.to_owned(), after: side == "after" })
    }

    fn hit(&self, label: &str, after: bool) -> bool {
        self.after == after && self.text == label
    }
}

impl Record {
    /// A short name for crash points: `begin:flux`, `intent:pivot:delete`.
    fn label(&self) -> String {
        match self {
            Self::Run { .. } => "run".into(),
            Self::Resumed { .. } => "resumed".into(),
            Self::Begin { step } => format!("begin:{step}"),
            Self::End { step, .. } => format!("end:{step}"),
            Self::Failed { step, .. } => format!("failed:{step}"),
            Self::Undoing { step } => format!("undoing:{step}"),
            Self::Undone { step } => format!("undone:{step}"),
            Self::Intent { step, effect } => format!("intent:{step}:{effect}"),
            Self::Outcome { step, effect } => format!("outcome:{step}:{effect}"),
            Self::Fact { name, .. } => format!("fact:{name}"),
            Self::Done => "done".into(),
            Self::Cleaned { .. } => "cleaned".into(),
        }
    }
}

impl Journal {
    /// Opens the journal of a run, or begins one.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let past = read(path)?;
        // A cut last line is taken away, so that the next record starts on a line of its own.
        let whole: String = past.iter().map(|entry| line(entry) + "\n").collect();
        if path.exists() {
            fsx::write_private(path, &whole)?;
        }
        let file = fsx::append(path)?;
        let mut facts = BTreeMap::new();
        for entry in &past {
            if let Record::Fact { name, value } = &entry.record {
                facts.insert(name.clone(), value.clone());
            }
        }
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(Some(file)),
            past,
            facts: Mutex::new(facts),
            crash: CrashPoint::from_env(),
        })
    }

    /// A journal that keeps nothing, for what has no effect.
    pub fn nowhere() -> Self {
        Self { path: PathBuf::new(), file: Mutex::new(None), past: Vec::new(), facts: Mutex::default(), crash: None }
    }

    /// Reads a journal without taking hold of it.
    pub fn peek(path: &Path) -> Result<Vec<Entry>, Error> {
        read(path)
    }

    /// Records that were there when it was opened.
    pub fn past(&self) -> &[Entry] {
        &self.past
    }

    /// Whether an earlier execution reached the goal.
    pub fn finished(&self) -> bool {
        self.past.iter().any(|entry| entry.record == Record::Done)
    }

    /// Appends a record and returns when it is on disk.
    pub fn write(&self, record: Record) -> Result<(), Error> {
        let label = record.label();
        self.maybe_crash(&label, false);
        if let Record::Fact { name, value } = &record {
            self.facts.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), value.clone());
        }
        let text = line(&Entry { time: clock::now(), record }) + "\n";
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = file.as_mut() {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_data())
                .map_err(|source| Error::Write { path: self.path.clone(), source })?;
        }
        drop(file);
        self.maybe_crash(&label, true);
        Ok(())
    }

    /// The latest value of a fact, from this or an earlier execution.
    pub fn fact(&self, name: &str) -> Option<Value> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Dies here, as `kill -9` would, when a test asked for it.
    fn maybe_crash(&self, label: &str, after: bool) {
        if self.crash.as_ref().is_some_and(|point| point.hit(label, after)) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

fn line(entry: &Entry) -> String {
    // Every part of an entry is plain data; this cannot fail, and an empty line would be refused when read.
    serde_json::to_string(entry).unwrap_or_default()
}

fn read(path: &Path) -> Result<Vec<Entry>, Error> {
    let text = fsx::read_text_if_present(path)?.unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let mut entries = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(entry) => entries.push(entry),
            Err(_) if index + 1 == lines.len() && !text.ends_with('\n') => break,
            Err(_) => return Err(Error::Damaged { path: path.to_owned(), line: index + 1 }),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    fn begin(step: &str) -> Record {
        Record::Begin { step: StepName(step.into()) }
    }

    #[test]
    fn records_and_facts_survive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.ndjson");
        let journal = Journal::open(&path).unwrap();
        journal.write(begin("flux")).unwrap();
        journal.write(Record::Fact { name: "port".into(), value: 1.into() }).unwrap();
        journal.write(Record::Fact { name: "port".into(), value: 2.into() }).unwrap();
        let again = Journal::open(&path).unwrap();
        assert_eq!(again.past().len(), 3);
        assert_eq!(again.fact("port"), Some(2.into()));
        assert!(!again.finished());
    }

    #[test]
    fn a_cut_last_line_is_dropped_and_a_damaged_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.ndjson");
        Journal::open(&path).unwrap().write(begin("a")).unwrap();
        write!(OpenOptions::new().append(true).open(&path).unwrap(), "{{\"time\":\"20").unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.past().len(), 1);
        journal.write(begin("b")).unwrap();
        assert_eq!(Journal::open(&path).unwrap().past().len(), 2);

        writeln!(OpenOptions::new().append(true).open(&path).unwrap(), "garbage").unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert!(error.to_string().starts_with("line 3 of the journal"), "{error}");
    }
}
