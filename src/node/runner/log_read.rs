//! Reading a container's log, as `kubectl logs` asks for it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::logs::{Log, parse};
use crate::fsx;

/// What is wanted of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether to stay until the container ends.
    pub follow: bool,
    /// How many lines of the end; all when not said.
    pub tail: Option<usize>,
    /// Lines from this time on.
    pub since: Option<Timestamp>,
    /// Whether each line begins with its time.
    pub timestamps: bool,
    /// How many bytes at most.
    pub limit: Option<u64>,
    /// `stdout` or `stderr`; both when not said.
    pub stream: Option<String>,
}

impl Options {
    /// From the query of the kubelet's API.
    pub fn from_query(query: &str, now: Timestamp) -> Result<Self, String> {
        let mut options = Self::default();
        for (name, value) in pairs(query) {
            let bad = |_| format!("{name}={value} cannot be read");
            let flag = || value.is_empty() || value == "true" || value == "1";
            match name.as_str() {
                "follow" => options.follow = flag(),
                "timestamps" => options.timestamps = flag(),
                "tailLines" => options.tail = Some(value.parse().map_err(bad)?),
                "limitBytes" => options.limit = Some(value.parse().map_err(bad)?),
                "sinceSeconds" => {
                    let seconds: i64 = value.parse().map_err(bad)?;
                    options.since = now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok();
                }
                "sinceTime" => {
                    options.since = Some(value.parse().map_err(|_| format!("{name}={value} cannot be read"))?);
                }
                "stream" if value.eq_ignore_ascii_case("stdout") => options.stream = Some("stdout".into()),
                "stream" if value.eq_ignore_ascii_case("stderr") => options.stream = Some("stderr".into()),
                _ => {}
            }
        }
        Ok(options)
    }
}

/// Names and values of a query.
pub fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

/// A part of a URL without its escapes.
pub fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = if *first == b'%' { tail.get(..2) } else { None };
        let byte = escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Sends what is wanted of a log; ends when it is sent, or when nobody takes it any more.
pub async fn send(mut log: Log, options: Options, to: mpsc::Sender<Bytes>) {
    let mut render = Render { left: options.limit, options: &options };
    let mut growth = *log.grown.borrow_and_update();
    let mut content = if growth.rotations > 0 { fsx::read(&log.rotated()).unwrap_or_default() } else { Vec::new() };
    let mut offset = read_from(&log.path, 0, &mut content);
    let first = render.tail(&content);
    if !first.is_empty() && to.send(first.into()).await.is_err() {
        return;
    }
    while options.follow && !growth.closed && !render.is_full() {
        tokio::select! {
            changed = log.grown.changed() => if changed.is_err() {
                return;
            },
            () = to.closed() => return,
        }
        let now = *log.grown.borrow_and_update();
        let mut content = Vec::new();
        if now.rotations > growth.rotations {
            read_from(&log.rotated(), offset, &mut content);
            offset = 0;
        }
        offset = read_from(&log.path, offset, &mut content);
        growth = now;
        let text = render.all(&content);
        if !text.is_empty() && to.send(text.into()).await.is_err() {
            return;
        }
    }
}

/// Appends a file's complete lines from `offset` on; returns where the next read begins.
fn read_from(path: &Path, offset: u64, content: &mut Vec<u8>) -> u64 {
    let mut more = Vec::new();
    let read = |file: &mut File| file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_to_end(&mut more));
    if !fsx::open(path).is_ok_and(|mut file| { read }(&mut file).is_ok()) {
        return offset;
    }
    let complete = more.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    content.extend_from_slice(&more[..complete]);
    offset + complete as u64
}

struct Render<'a> {
    options: &'a Options,
    left: Option<u64>,
}

impl Render<'_> {
    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// The wanted lines of the log's beginning: only the last ones when so many are wanted.
    fn tail(&mut self, content: &[u8]) -> Vec<u8> {
        let Some(wanted) = self.options.tail else { return self.all(content) };
        let starts: Vec<usize> = line_starts(content, self.options);
        match starts.len().checked_sub(wanted) {
            _ if wanted == 0 => Vec::new(),
            Some(skip) => self.all(&content[starts[skip]..]),
            None => self.all(content),
        }
    }

    fn all(&mut self, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut goes_on = false;
        for line in content.split(|byte| *byte == b'\n').filter_map(parse) {
            if !is_wanted(line.stream, line.time, self.options) {
                continue;
            }
            if self.options.timestamps && !goes_on {
                out.extend_from_slice(line.time.as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(line.text);
            if !line.partial {
                out.push(b'\n');
            }
            goes_on = line.partial;
        }
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        out
    }
}

fn is_wanted(stream: &str, time: &str, options: &Options) -> bool {
    options.stream.as_ref().is_none_or(|wanted| wanted == stream)
        && options.since.is_none_or(|since| time.parse::<Timestamp>().is_ok_and(|time| time >= since))
}

/// Where the wanted lines begin; the parts of a long line count as one.
fn line_starts(content: &[u8], options: &Options) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = 0;
    let mut goes_on = false;
    for raw in content.split_inclusive(|byte| *byte == b'\n') {
        if let Some(line) = parse(raw.strip_suffix(b"\n").unwrap_or(raw))
            && is_wanted(line.stream, line.time, options)
        {
            if !goes_on {
                starts.push(at);
            }
            goes_on = line.partial;
        }
        at += raw.len();
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::super::logs::Writer;
    use super::*;

    async fn read(log: &Log, query: &str) -> String {
        let (to, mut from) = mpsc::channel(16);
        let options = Options::from_query(query, crate::clock::now()).unwrap();
        send(log.clone(), options, to).await;
        let mut all = Vec::new();
        while let Some(chunk) = from.recv().await {
            all.extend_from_slice(&chunk);
        }
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn options_choose_lines() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, log) = Writer::create(&folder.path().join("0.log")).unwrap();
        writer.clone().pump(&b"one\ntwo\n"[..], "stdout").await;
        writer.clone().pump(&b"three\n"[..], "stderr").await;
        assert_eq!(read(&log, "").await, "one\ntwo\nthree\n");
        assert_eq!(read(&log, "tailLines=2").await, "two\nthree\n");
        assert_eq!(read(&log, "tailLines=0").await, "");
        assert_eq!(read(&log, "limitBytes=5").await, "one\nt");
        assert_eq!(read(&log, "stream=Stderr").await, "three\n");
        assert_eq!(read(&log, "sinceSeconds=3600&tailLines=1").await, "three\n");
        assert_eq!(read(&log, "sinceTime=2100-01-01T00%3A00%3A00Z").await, "");
        assert!(read(&log, "timestamps=true&tailLines=1").await.ends_with("Z three\n"));
    }

    #[tokio::test]
    async fn following_ends_with_the_container() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, log) = Writer::create(&folder.path().join("0.log")).unwrap();
        writer.clone().pump(&b"one\n"[..], "stdout").await;
        let reader = tokio::spawn(async move { read(&log, "follow=true").await });
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        writer.clone().pump(&b"two\n"[..], "stdout").await;
        writer.close();
        assert_eq!(reader.await.unwrap(), "one\ntwo\n");
    }

    #[test]
    fn wrong_queries_are_named() {
        let error = Options::from_query("tailLines=x", Timestamp::UNIX_EPOCH).unwrap_err();
        assert_eq!(error, "tailLines=x cannot be read");
    }
}
