//! A repository on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gix::object::tree::EntryKind;
use gix::status::UntrackedFiles;

use super::tree::within;
use super::{CommitId, Error, File, Result, Revision, Tree, spelled_out};
use crate::fsx;

/// A Git repository with a working tree.
#[derive(Debug)]
pub struct Repository {
    inner: gix::Repository,
    root: PathBuf,
}

/// Whether a text can be the name of a branch.
pub fn is_branch(name: &str) -> bool {
    gix::validate::reference::name_partial(name.into()).is_ok()
}

impl Repository {
    /// Finds the repository that a folder is in.
    pub fn discover(folder: &Path) -> Result<Self> {
        // Absolute, so that messages name it.
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        let inner = gix::discover(&folder).map_err(|_| Error::NotARepository { folder: folder.clone() })?;
        let Some(root) = inner.workdir().map(Path::to_path_buf) else {
            return Err(Error::Bare { folder });
        };
        Ok(Self { inner, root })
    }

    /// The root of the working tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn read<E: std::fmt::Display>(&self, action: impl Into<String>) -> impl FnOnce(E) -> Error {
        let (action, folder) = (action.into(), self.root.clone());
        move |error| Error::Read { action, folder, reason: error.to_string() }
    }

    fn head_commit(&self) -> Result<gix::Commit<'_>> {
        self.inner.head_commit().map_err(|_| Error::NoCommit { folder: self.root.clone() })
    }

    /// The commit that is checked out.
    pub fn head(&self) -> Result<CommitId> {
        Ok(CommitId::new(self.head_commit()?.id().to_hex().to_string()))
    }

    /// When it was committed.
    pub fn head_time(&self) -> Result<jiff::Timestamp> {
        let seconds = self.head_commit()?.time().map_err(self.read("read the time of the commit"))?.seconds;
        jiff::Timestamp::from_second(seconds).map_err(self.read("read the time of the commit"))
    }

    /// The URL of the remote `origin` without credentials; without a remote the name of the root folder.
    pub fn origin(&self) -> String {
        let url = self.url_of("origin");
        url.unwrap_or_else(|| self.root.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    /// The URL of a remote without credentials; over SSH a user is none.
    fn url_of(&self, remote: &str) -> Option<String> {
        let remote = self.inner.find_remote(remote).ok()?;
        let mut url = remote.url(gix::remote::Direction::Fetch)?.clone();
        if url.scheme != gix::url::Scheme::Ssh {
            url.set_user(None);
        }
        url.set_password(None);
        Some(spelled_out(&url.to_bstring().to_string()))
    }

    /// The branch that is checked out; `None` when it is a commit.
    pub fn branch(&self) -> Result<Option<String>> {
        let name = self.inner.head_name().map_err(self.read("read which branch is checked out"))?;
        Ok(name.map(|name| name.shorten().to_string()))
    }

    /// The name of a remote with this URL.
    pub fn remote_of(&self, url: &str) -> Option<String> {
        let plain = |url: &str| url.trim_end_matches('/').trim_end_matches(".git").to_owned();
        let names = self.inner.remote_names();
        names
            .iter()
            .map(ToString::to_string)
            .find(|name| self.url_of(name).is_some_and(|has| plain(&has) == plain(url)))
    }

    /// Whether a commit is another one, or comes before it; `None` when the other one is not in this clone.
    pub fn is_part_of(&self, commit: &CommitId, tip: &CommitId) -> Result<Option<bool>> {
        let action = "compare commits";
        let id = |id: &CommitId| gix::ObjectId::from_hex(id.as_str().as_bytes()).map_err(self.read(action));
        let (commit, tip) = (id(commit)?, id(tip)?);
        if commit == tip {
            return Ok(Some(true));
        }
        if !self.inner.has_object(tip) {
            return Ok(None);
        }
        let base = self.inner.merge_base(commit, tip);
        match base {
            Ok(base) => Ok(Some(base.is_some_and(|base| base.detach() == commit))),
            Err(error) => Err(self.read(action)(error)),
        }
    }

    /// Paths in the given folders that differ from the commit, or that are neither committed nor ignored.
    pub fn changes(&self, folders: &[String]) -> Result<Vec<String>> {
        let action = "compare the working tree with the commit";
        let status = self.inner.status(gix::progress::Discard).map_err(self.read(action))?;
        let items = status.untracked_files(UntrackedFiles::Files).into_iter(None).map_err(self.read(action))?;
        let mut paths = BTreeSet::new();
        for item in items {
            let item = item.map_err(self.read(action))?;
            let path = item.location().to_string();
            if within(&path, folders) {
                paths.insert(path);
            }
        }
        Ok(paths.into_iter().collect())
    }

    /// The revision to deploy and its files in the given folders: the commit, or with `dirty` the working tree if it differs.
    pub fn snapshot(&self, folders: &[String], dirty: bool) -> Result<(Revision, Tree)> {
        let changes = self.changes(folders)?;
        if changes.is_empty() {
            let (files, links) = self.committed(folders)?;
            return Ok((Revision::Commit(self.head()?), Tree::new(files, &links)?));
        }
        if !dirty {
            return Err(Error::Dirty { paths: changes });
        }
        let tree = self.working(folders, &changes)?;
        Ok((Revision::Dirty(tree.digest()), tree))
    }

    /// The files of the commit in the given folders, and its links with their targets.
    fn committed(&self, folders: &[String]) -> Result<(BTreeMap<String, File>, BTreeMap<String, String>)> {
        let action = "read the files of the commit";
        let tree = self.head_commit()?.tree().map_err(self.read(action))?;
        let mut files = BTreeMap::new();
        let mut links = BTreeMap::new();
        for entry in tree.traverse().breadthfirst.files().map_err(self.read(action))? {
            let path = entry.filepath.to_string();
            let kind = entry.mode.kind();
            // A submodule's files are in another repository.
            if !within(&path, folders) || matches!(kind, EntryKind::Commit | EntryKind::Tree) {
                continue;
            }
            let blob = self.inner.find_object(entry.oid).map_err(self.read(action))?;
            if kind == EntryKind::Link {
                links.insert(path, String::from_utf8_lossy(&blob.data).into_owned());
            } else {
                let executable = kind == EntryKind::BlobExecutable;
                files.insert(path, File { content: blob.data.clone(), executable });
            }
        }
        Ok((files, links))
    }

    /// The files of the working tree in the given folders: those of the commit, with the changed ones read from disk.
    fn working(&self, folders: &[String], changes: &[String]) -> Result<Tree> {
        let (mut files, mut links) = self.committed(folders)?;
        for path in changes {
            files.remove(path);
            links.remove(path);
            let on_disk = self.root.join(path);
            // Of the link itself, not of what it leads to.
            let Ok(meta) = on_disk.symlink_metadata() else { continue };
            if meta.is_symlink() {
                let target = on_disk.read_link().map_err(self.read(format!("read the link {path}")))?;
                links.insert(path.clone(), target.to_string_lossy().into_owned());
            } else if meta.is_file() {
                let executable = meta.permissions().mode() & 0o100 != 0;
                files.insert(path.clone(), File { content: fsx::read(&on_disk)?, executable });
            }
        }
        Tree::new(files, &links)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use crate::exec::Command;

    async fn git(folder: &Path, args: &[&str]) {
        let command = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"])
            .args(args)
            .folder(folder)
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.run(Duration::from_secs(20)).await.unwrap();
    }

    async fn repository() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        git(root, &["init", "-q"]).await;
        for (path, content) in [("a/x.yaml", "x: 1\n"), ("b/y.yaml", "y: 1\n"), (".gitignore", "*.key\n")] {
            fsx::create_dir(root.join(path).parent().unwrap()).unwrap();
            fsx::write(&root.join(path), content).unwrap();
        }
        fsx::symlink(Path::new("x.yaml"), &root.join("a/link.yaml")).unwrap();
        git(root, &["add", "."]).await;
        git(root, &["commit", "-qm", "first"]).await;
        folder
    }

    fn all() -> Vec<String> {
        vec![".".into()]
    }

    #[tokio::test]
    async fn a_clean_tree_is_its_commit() {
        let folder = repository().await;
        let repository = Repository::discover(&folder.path().join("a")).unwrap();
        let (revision, tree) = repository.snapshot(&["a".into()], false).unwrap();
        assert_eq!(revision, Revision::Commit(repository.head().unwrap()));
        let paths: Vec<_> = tree.files().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a/link.yaml", "a/x.yaml"]);
        assert_eq!(tree.get("a/link.yaml").unwrap().content, b"x: 1\n");
    }

    #[tokio::test]
    async fn changes_are_an_error_that_names_them_or_a_revision_of_their_own() {
        let folder = repository().await;
        let root = folder.path();
        let repository = Repository::discover(root).unwrap();
        fsx::write(&root.join("a/x.yaml"), "x: 2\n").unwrap();
        fsx::write(&root.join("a/new.yaml"), "new: 1\n").unwrap();
        fsx::write(&root.join("a/my.key"), "ignored").unwrap();
        fsx::remove_file(&root.join("b/y.yaml")).unwrap();
        let error = repository.snapshot(&all(), false).unwrap_err();
        assert_eq!(error.to_string(), "3 changes are not committed: a/new.yaml, a/x.yaml, b/y.yaml");
        let (revision, tree) = repository.snapshot(&all(), true).unwrap();
        assert_eq!(revision, Revision::Dirty(tree.digest()));
        let paths: Vec<_> = tree.files().map(|(path, _)| path).collect();
        assert_eq!(paths, [".gitignore", "a/link.yaml", "a/new.yaml", "a/x.yaml"]);
        assert_eq!(tree.get("a/x.yaml").unwrap().content, b"x: 2\n");
        git(root, &["add", "-A"]).await;
        assert_eq!(Repository::discover(root).unwrap().changes(&all()).unwrap().len(), 3, "staged is not committed");
    }

    #[tokio::test]
    async fn the_origin_has_no_credentials() {
        let folder = repository().await;
        let named = folder.path().file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(Repository::discover(folder.path()).unwrap().origin(), named);
        git(folder.path(), &["remote", "add", "origin", "https://me:glpat-X@git.example.com/a/b.git"]).await;
        assert_eq!(Repository::discover(folder.path()).unwrap().origin(), "https://git.example.com/a/b.git");
    }

    #[tokio::test]
    async fn a_branch_holds_the_commits_before_its_tip() {
        let folder = repository().await;
        let root = folder.path();
        let repository = Repository::discover(root).unwrap();
        assert_eq!(repository.branch().unwrap().as_deref(), Some("main"));
        let first = repository.head().unwrap();
        git(root, &["commit", "-q", "--allow-empty", "-m", "second"]).await;
        let second = repository.head().unwrap();
        assert_eq!(repository.is_part_of(&first, &second).unwrap(), Some(true));
        assert_eq!(repository.is_part_of(&second, &first).unwrap(), Some(false));
        let elsewhere = CommitId::new("0123456789abcdef0123456789abcdef01234567");
        assert_eq!(repository.is_part_of(&second, &elsewhere).unwrap(), None);
        git(root, &["remote", "add", "work", "https://me@git.example.com/a/b.git"]).await;
        git(root, &["checkout", "-q", "--detach"]).await;
        let repository = Repository::discover(root).unwrap();
        assert_eq!(repository.branch().unwrap(), None);
        assert_eq!(repository.remote_of("https://git.example.com/a/b").as_deref(), Some("work"));
        assert_eq!(repository.remote_of("https://git.example.com/a/c.git"), None);
    }

    #[tokio::test]
    async fn changes_elsewhere_do_not_matter() {
        let folder = repository().await;
        fsx::write(&folder.path().join("kubeconfig"), "x").unwrap();
        let repository = Repository::discover(folder.path()).unwrap();
        assert!(matches!(repository.snapshot(&["a".into()], false).unwrap().0, Revision::Commit(_)));
    }

    #[tokio::test]
    async fn what_is_no_repository_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Repository::discover(folder.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("{} is not in a Git repository", folder.path().display()));
        git(folder.path(), &["init", "-q"]).await;
        let repository = Repository::discover(folder.path()).unwrap();
        assert!(repository.head().unwrap_err().to_string().ends_with("has no commit yet"));
    }
}
