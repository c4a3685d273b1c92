//! The file system, with errors that name the file and what was attempted.

#![expect(clippy::disallowed_methods, reason = "this module is the wrapper that the others must use")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::failure::Failure;

/// How the names of files begin that are being written; who is killed leaves them.
pub const UNFINISHED: &str = ".new-";

/// A file system operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {}", path.display())]
pub struct Error {
    /// What was attempted.
    pub action: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl Error {
    /// Whether the path does not exist.
    pub fn not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let full = error.source.kind() == io::ErrorKind::StorageFull;
        let denied = error.source.kind() == io::ErrorKind::PermissionDenied;
        let path = error.path.display().to_string();
        let failure = Self::failed(error.to_string()).caused_by(error.source);
        if full {
            failure.hint(format!("free disk space on the file system of {path}, then run the same command again"))
        } else if denied {
            failure.hint(format!("make {path} accessible to this user, or set CLUSTER_INIT_HOME to a folder that is"))
        } else {
            failure
        }
    }
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error { action, path, source }
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(on("read", path))
}

/// Reads a text file.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(on("read", path))
}

/// Reads a text file, or `None` when it does not exist.
pub fn read_text_if_present(path: &Path) -> Result<Option<String>> {
    match read_text(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file (mode 0644) so that a reader sees either the old or the new content, also after a crash.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    write_mode(path, content, 0o644)
}

/// Writes a file that only this user may read, atomically.
pub fn write_private(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    write_mode(path, content, 0o600)
}

/// Writes a file with the given mode, atomically.
pub fn write_mode(path: &Path, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(folder).map_err(on("write", path))?;
    temporary
        .write_all(content.as_ref())
        .and_then(|()| temporary.as_file().set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| temporary.as_file().sync_data())
        .map_err(on("write", path))?;
    temporary.persist(path).map_err(|error| Error {
        action: "write",
        path: path.to_path_buf(),
        source: error.error,
    })?;
    Ok(())
}

/// Writes a file of a temporary folder: nobody reads it meanwhile, and it need not outlive a crash, which costs time.
pub fn write_scratch(path: &Path, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).map_err(on("write", path))?;
    file.write_all(content.as_ref()).map_err(on("write", path))
}

/// Creates a folder and its parents, readable only by this user.
pub fn create_private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(on("create the folder", path))
}

/// Creates a folder and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(on("create the folder", path))
}

/// Removes a folder with all that is in it; fine when there is none.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(on("remove the folder", path)),
    }
}

/// Removes a file; fine when there is none.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(on("remove", path)),
    }
}

/// Renames a file or folder.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(on("rename", from))
}

/// Sets permissions.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(on("set the mode of", path))
}

/// Makes a symbolic link, replacing what is there.
pub fn symlink(target: &Path, link: &Path) -> Result<()> {
    remove_file(link)?;
    std::os::unix::fs::symlink(target, link).map_err(on("link", link))
}

/// What a symbolic link says.
pub fn link(path: &Path) -> Result<PathBuf> {
    fs::read_link(path).map_err(on("read", path))
}

/// Makes a second name for a file.
pub fn hard_link(file: &Path, name: &Path) -> Result<()> {
    fs::hard_link(file, name).map_err(on("link", name))
}

/// Names of a folder's entries, sorted; empty when there is no such folder.
pub fn list(path: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(on("list the folder", path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(on("list the folder", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Opens a file for reading.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(on("open", path))
}

/// Creates or truncates a file for writing.
pub fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(on("create", path))
}

/// Opens a file for appending, made with mode 0600 when there is none.
pub fn append(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(on("open", path))
}

/// Free bytes on the file system that holds `path` or its nearest existing parent.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let stat =
        rustix::fs::statvfs(existing).map_err(|errno| on("look at the file system of", existing)(errno.into()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// The number of the file system that holds `path` or its nearest existing parent.
pub fn device(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    Ok(existing.metadata().map_err(on("look at", existing))?.dev())
}

/// An exclusive lock on a file, released when dropped and when the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    fn open(path: &Path) -> Result<File> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(path).map_err(on("open the lock", path))
    }

    /// Waits for the lock on a thread that may block, for so long at most; `None` when its holder still has it then.
    pub fn take_within(path: &Path, limit: Duration) -> Result<Option<Self>> {
        let begin = Instant::now();
        loop {
            match Self::try_take(path)? {
                Ok(lock) => return Ok(Some(lock)),
                Err(_) if begin.elapsed() >= limit => return Ok(None),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Takes the lock, or returns what its holder wrote into it (its pid).
    pub fn try_take(path: &Path) -> Result<std::result::Result<Self, String>> {
        let mut file = Self::open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(Err(read_text(path)?.trim().to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(on("lock", path)(error)),
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(on("write the lock", path))?;
        Ok(Ok(Self { file }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The lock goes with the descriptor in any case; unlocking first keeps its order explicit.
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file() {
        let error = read(Path::new("/nonexistent/a.yaml")).unwrap_err();
        assert!(error.not_found());
        assert_eq!(error.to_string(), "failed to read /nonexistent/a.yaml");
    }

    #[test]
    fn a_lock_is_held_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::try_take(&path).unwrap().unwrap();
        let holder = Lock::try_take(&path).unwrap().unwrap_err();
        assert!(Lock::take_within(&path, Duration::from_millis(30)).unwrap().is_none());
        assert_eq!(holder, std::process::id().to_string());
        drop(first);
        assert!(Lock::try_take(&path).unwrap().is_ok());
    }

    #[test]
    fn private_files_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, "k").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
