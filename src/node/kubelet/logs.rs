//! A container's log as a user asks for it: chosen lines, then whatever comes.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::Pods;
use crate::{clock, fsx};

/// How often a followed file is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Options of a log request, by their names in the API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Keep on sending what comes.
    pub follow: bool,
    /// Of the run before the current one.
    pub previous: bool,
    /// Only that many lines from the end.
    pub tail: Option<usize>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// With each line's time.
    pub timestamps: bool,
    /// At most that many bytes.
    pub limit: Option<usize>,
}

impl Options {
    /// Reads a query; an unreadable value is an error that names it.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let bad = || format!("{name}={value} cannot be read");
            let flag = || value == "true" || value == "1";
            match name {
                "follow" => options.follow = flag(),
                "previous" => options.previous = flag(),
                "timestamps" => options.timestamps = flag(),
                "tailLines" => options.tail = Some(value.parse().map_err(|_| bad())?),
                "limitBytes" => options.limit = Some(value.parse().map_err(|_| bad())?),
                "sinceSeconds" => {
                    let seconds: i64 = value.parse().map_err(|_| bad())?;
                    options.since = clock::now().checked_sub(SignedDuration::from_secs(seconds)).ok();
                }
                "sinceTime" => {
                    let text = value.replace("%3A", ":").replace("%3a", ":").replace("%2B", "+");
                    options.since = Some(text.parse().map_err(|_| bad())?);
                }
                _ => {}
            }
        }
        Ok(options)
    }

    /// A stored line as the user sees it; `None` when it is older than asked for or no line of a log.
    fn render(&self, line: &[u8]) -> Option<Vec<u8>> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (time, _stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if let Some(since) = self.since {
            let written: Timestamp = std::str::from_utf8(time).ok()?.parse().ok()?;
            if written < since {
                return None;
            }
        }
        let mut out = Vec::with_capacity(line.len());
        if self.timestamps {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        // A part of a longer line goes on in the next one.
        if tag != b"P" {
            out.push(b'\n');
        }
        Some(out)
    }

    /// The lines to send first, from everything that is stored.
    fn select(&self, stored: &[u8]) -> Vec<u8> {
        let lines: Vec<&[u8]> = stored.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        let skip = self.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
        lines[skip..].iter().filter_map(|line| self.render(line)).flatten().collect()
    }
}

/// Whose log.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Container.
    pub container: String,
}

/// Sends a log until it is over or nobody listens.
pub async fn send(
    pods: Arc<dyn Pods>,
    subject: Subject,
    files: Vec<PathBuf>,
    options: Options,
    to: mpsc::Sender<Bytes>,
) {
    let Some((current, older)) = files.split_last() else { return };
    let mut stored = Vec::new();
    for path in older {
        stored.extend(fsx::read(path).unwrap_or_default());
    }
    let (text, mut at) = read_from(current, 0);
    stored.extend(text);
    // The last line may still be in the writer's hands.
    let whole = stored.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut pending = stored.split_off(whole);
    let mut left = options.limit.unwrap_or(usize::MAX);
    if !give(&to, options.select(&stored), &mut left).await {
        return;
    }
    if !options.follow {
        return;
    }
    loop {
        let running = pods.running(&subject.namespace, &subject.pod, &subject.container);
        let (more, end) = read_from(current, at);
        at = end;
        pending.extend(more);
        let whole = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let rest = pending.split_off(whole);
        let lines: Vec<u8> = pending
            .split(|byte| *byte == b'\n')
            .filter(|l| !l.is_empty())
            .filter_map(|l| options.render(l))
            .flatten()
            .collect();
        pending = rest;
        if !give(&to, lines, &mut left).await || !running || to.is_closed() {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Sends bytes within the limit; false when nothing more is to be sent.
async fn give(to: &mpsc::Sender<Bytes>, mut bytes: Vec<u8>, left: &mut usize) -> bool {
    bytes.truncate(*left);
    *left -= bytes.len();
    (bytes.is_empty() || to.send(bytes.into()).await.is_ok()) && *left > 0
}

/// What a file holds from `at`, or from its beginning when it was put aside meanwhile; and where it ends.
fn read_from(path: &Path, at: u64) -> (Vec<u8>, u64) {
    let Ok(mut file) = fsx::open(path) else { return (Vec::new(), 0) };
    let size = file.metadata().map_or(0, |meta| meta.len());
    let from = if size < at { 0 } else { at };
    let mut text = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_ok() {
        // What cannot be read now is read at the next look.
        let _ = file.read_to_end(&mut text);
    }
    let end = from + text.len() as u64;
    (text, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &[u8] = b"2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F three x\n";

    #[test]
    fn lines_are_chosen_as_asked() {
        let cases: [(&str, &str); 5] = [
            ("", "one\ntwo\nthree x\n"),
            ("tailLines=1", "three x\n"),
            ("sinceTime=2026-01-01T00%3A00%3A02Z", "three x\n"),
            ("timestamps=true&tailLines=1", "2026-01-01T00:00:02Z three x\n"),
            ("tailLines=0", ""),
        ];
        for (query, text) in cases {
            let selected = Options::parse(query).unwrap().select(STORED);
            assert_eq!(String::from_utf8(selected).unwrap(), text, "{query}");
        }
    }

    #[test]
    fn a_bad_option_is_named() {
        assert_eq!(Options::parse("tailLines=x").unwrap_err(), "tailLines=x cannot be read");
    }
}
