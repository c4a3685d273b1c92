//! What containers write, kept in files of the CRI's format: `TIME STREAM F|P text`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

use crate::{clock, fsx};

/// A file is put aside when it has this size; one older file is kept.
const ROTATE_AT: u64 = 10 << 20;
/// A line longer than this is kept in parts.
const LONGEST_LINE: usize = 16 << 10;

/// How far a log has grown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Counts the files that were put aside.
    pub rotations: u64,
    /// Bytes in the current file.
    pub size: u64,
    /// Whether nothing more will come.
    pub closed: bool,
}

/// The log of one run of a container.
#[derive(Clone, Debug)]
pub struct Log {
    /// Its current file.
    pub path: PathBuf,
    /// How far it has grown.
    pub grown: watch::Receiver<Growth>,
}

impl Log {
    /// The file that was put aside last.
    pub fn rotated(&self) -> PathBuf {
        rotated(&self.path)
    }
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// The logs of a container: of its current or last run, and of the run before.
#[derive(Clone, Debug, Default)]
pub struct ContainerLogs {
    /// Of the current run, or the last one.
    pub current: Option<Log>,
    /// Of the run before that.
    pub previous: Option<Log>,
}

impl ContainerLogs {
    /// Begins the log of a new run; only that of the run before is kept.
    pub fn begin(&mut self, log: Log) {
        let older = std::mem::replace(&mut self.previous, self.current.replace(log));
        if let Some(older) = older {
            for path in [older.path.clone(), older.rotated()] {
                if let Err(error) = fsx::remove_file(&path) {
                    tracing::debug!(%error, "old log stays");
                }
            }
        }
    }
}

struct Open {
    path: PathBuf,
    file: File,
    growth: Growth,
    told: watch::Sender<Growth>,
}

/// Writes a log; both of a container's streams share one.
#[derive(Clone)]
pub struct Writer(Arc<Mutex<Open>>);

impl Writer {
    /// Begins a log.
    pub fn create(path: &Path) -> fsx::Result<(Self, Log)> {
        let file = fsx::append(path)?;
        let (told, grown) = watch::channel(Growth::default());
        let open = Open { path: path.to_path_buf(), file, growth: Growth::default(), told };
        Ok((Self(Arc::new(Mutex::new(open))), Log { path: path.to_path_buf(), grown }))
    }

    /// Copies a stream into the log until it ends.
    pub async fn pump(self, mut stream: impl AsyncRead + Unpin, name: &'static str) {
        let mut pending = Vec::new();
        let mut chunk = vec![0; 32 << 10];
        loop {
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    pending.extend_from_slice(&chunk[..n]);
                    let text = format_lines(&mut pending, name, false);
                    self.write(&text);
                }
            }
        }
        let text = format_lines(&mut pending, name, true);
        self.write(&text);
    }

    fn write(&self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.growth.size + text.len() as u64 > ROTATE_AT && open.growth.size > 0 {
            open.rotate();
        }
        // A full disk loses log lines, never the container.
        if open.file.write_all(text).is_ok() {
            open.growth.size += text.len() as u64;
            open.told.send_replace(open.growth);
        }
    }

    /// Says that nothing more will come.
    pub fn close(&self) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.growth.closed = true;
        open.told.send_replace(open.growth);
    }
}

impl Open {
    fn rotate(&mut self) {
        let moved = fsx::rename(&self.path, &rotated(&self.path)).and_then(|()| fsx::append(&self.path));
        match moved {
            Ok(file) => {
                self.file = file;
                self.growth.rotations += 1;
                self.growth.size = 0;
            }
            Err(error) => tracing::warn!(%error, "log was not rotated"),
        }
    }
}

/// Takes the complete lines (all, at the `end`) off `pending` and formats them.
fn format_lines(pending: &mut Vec<u8>, stream: &str, end: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(pending.len() + 64);
    let mut start = 0;
    let now = format!("{:.9}", clock::now());
    let mut put = |part: &[u8], tag: &str| {
        out.extend_from_slice(now.as_bytes());
        out.extend_from_slice(format!(" {stream} {tag} ").as_bytes());
        out.extend_from_slice(part);
        out.push(b'\n');
    };
    loop {
        let rest = &pending[start..];
        match rest.iter().take(LONGEST_LINE).position(|byte| *byte == b'\n') {
            Some(newline) => {
                put(&rest[..newline], "F");
                start += newline + 1;
            }
            None if rest.len() >= LONGEST_LINE => {
                put(&rest[..LONGEST_LINE], "P");
                start += LONGEST_LINE;
            }
            None if end && !rest.is_empty() => {
                put(rest, "P");
                start = pending.len();
            }
            None => break,
        }
    }
    pending.drain(..start);
    out
}

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// Whether the text goes on in the next line.
    pub partial: bool,
    /// The text.
    pub text: &'a [u8],
}

/// Reads one line, without its newline.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let (time, stream, tag) = (word()?, word()?, word()?);
    Some(Line { time, stream, partial: tag == "P", text: parts.next()? })
}

/// The end of a log's text, as a termination message: at most 80 lines and 2 KiB.
pub fn tail(path: &Path) -> String {
    let content = fsx::read(path).unwrap_or_default();
    let lines: Vec<Line<'_>> = content.split(|byte| *byte == b'\n').filter_map(parse).collect();
    let mut text = Vec::new();
    for line in &lines[lines.len().saturating_sub(80)..] {
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
    }
    String::from_utf8_lossy(&text[text.len().saturating_sub(2048)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(content: &[u8]) -> Vec<(String, bool)> {
        let lines = content.split(|b| *b == b'\n').filter_map(parse);
        lines.map(|l| (String::from_utf8_lossy(l.text).into_owned(), l.partial)).collect()
    }

    #[test]
    fn lines_are_formatted_when_they_are_complete() {
        let mut pending = b"one\ntw".to_vec();
        let out = format_lines(&mut pending, "stdout", false);
        assert_eq!(texts(&out), [("one".to_owned(), false)]);
        pending.extend_from_slice(b"o\n\nend");
        let out = format_lines(&mut pending, "stderr", true);
        assert_eq!(texts(&out), [("two".to_owned(), false), (String::new(), false), ("end".to_owned(), true)]);
        assert!(pending.is_empty());
        assert_eq!(parse(out.split(|b| *b == b'\n').next().unwrap()).unwrap().stream, "stderr");
    }

    #[test]
    fn long_lines_come_in_parts() {
        let mut pending = vec![b'x'; LONGEST_LINE + 5];
        pending.push(b'\n');
        let out = format_lines(&mut pending, "stdout", false);
        let parts = texts(&out);
        assert_eq!((parts[0].0.len(), parts[0].1), (LONGEST_LINE, true));
        assert_eq!((parts[1].0.len(), parts[1].1), (5, false));
    }

    #[tokio::test]
    async fn a_log_is_rotated_and_closed() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, log) = Writer::create(&folder.path().join("0.log")).unwrap();
        let line = [vec![b'y'; 1 << 10], vec![b'\n']].concat();
        let content = line.repeat((ROTATE_AT >> 10) as usize + 10);
        writer.clone().pump(&content[..], "stdout").await;
        writer.close();
        let growth = *log.grown.borrow();
        assert_eq!((growth.rotations, growth.closed), (1, true));
        assert!(log.rotated().exists());
        assert!(tail(&log.path).starts_with('y'));
    }
}
