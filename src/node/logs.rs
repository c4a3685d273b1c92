//! Log files of bounded size, and the node's own events among them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::event::{Event, Sink};
use crate::failure::{Failure, Result};
use crate::fsx;

/// Size from which a file is turned over; one older file of it is kept.
const LARGEST: u64 = 16 << 20;

/// How often sizes are looked at.
const INTERVAL: Duration = Duration::from_secs(15);

/// Appends events to a file, one JSON line each.
pub struct EventFile(pub PathBuf);

impl Sink for EventFile {
    fn take(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_string(event) else { return };
        line.push('\n');
        // An event that cannot be written (no disk) must not stop the node.
        let _ = fsx::append(&self.0).map(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Keeps the files of a folder small until cancelled.
pub async fn keep_small(folder: PathBuf, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = cancel.cancelled() => return,
        }
        for name in fsx::list(&folder).unwrap_or_default() {
            let path = folder.join(&name);
            if !name.ends_with(".1")
                && let Err(failure) = turn_over(&path, LARGEST)
            {
                tracing::warn!(path = %path.display(), %failure, "log not turned over");
            }
        }
    }
}

/// Copies a file that is too large to `<file>.1` and empties it: its writer, which appends, goes on in the same file.
fn turn_over(path: &Path, largest: u64) -> Result<()> {
    let fail =
        |error: std::io::Error| Failure::failed(format!("failed to turn over {}", path.display())).caused_by(error);
    let mut file = fsx::open(path)?;
    if file.metadata().map_err(fail)?.len() < largest {
        return Ok(());
    }
    let mut older = path.as_os_str().to_owned();
    older.push(".1");
    std::io::copy(&mut file, &mut fsx::create(Path::new(&older))?).map_err(fail)?;
    fsx::append(path)?.set_len(0).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_turned_over_under_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("etcd.log");
        let mut writer = fsx::append(&path).unwrap();
        writer.write_all(&[b'a'; 100]).unwrap();
        turn_over(&path, 1000).unwrap();
        assert_eq!(fsx::read(&path).unwrap().len(), 100);
        turn_over(&path, 100).unwrap();
        writer.write_all(b"b").unwrap();
        assert_eq!(fsx::read_text(&path).unwrap(), "b");
        assert_eq!(fsx::read(&folder.path().join("etcd.log.1")).unwrap().len(), 100);
    }
}
