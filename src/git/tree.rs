//! The files of a revision, in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Component, Path};

use sha2::{Digest, Sha256};

use super::{Error, Result};
use crate::fsx;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its bytes.
    pub content: Vec<u8>,
    /// Whether it may be executed.
    pub executable: bool,
}

/// Files by their path from the repository's root, with `/` between the parts; no links, no empty folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    files: BTreeMap<String, File>,
}

impl Tree {
    /// A tree of the given files; links (path and target) are replaced by the files that they lead to.
    pub(super) fn new(files: BTreeMap<String, File>, links: &BTreeMap<String, String>) -> Result<Self> {
        let mut tree = Self { files };
        for (path, target) in links {
            let mut seen = target.clone();
            let mut at = path.clone();
            // A link may lead to a link; more steps than there are links is a circle.
            for _ in 0..=links.len() {
                at = resolve(&at, &seen);
                match links.get(&at) {
                    Some(next) => seen.clone_from(next),
                    None => break,
                }
            }
            let Some(file) = tree.files.get(&at).cloned() else {
                return Err(Error::Link { path: path.clone(), target: target.clone() });
            };
            tree.files.insert(path.clone(), file);
        }
        Ok(tree)
    }

    /// All files in order of their paths.
    pub fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// One file.
    pub fn get(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }

    /// Whether there is a file in this folder or below it.
    pub fn has_folder(&self, path: &str) -> bool {
        let prefix = format!("{}/", path.trim_end_matches('/'));
        path.is_empty()
            || self.files.range(prefix.clone()..).next().is_some_and(|(found, _)| found.starts_with(&prefix))
    }

    /// Puts a file there, replacing what was.
    pub fn insert(&mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.files.insert(path.into(), File { content: content.into(), executable: false });
    }

    /// The files below a folder, by their paths from there.
    #[must_use]
    pub fn below(&self, folder: &str) -> Self {
        let prefix = format!("{}/", folder.trim_end_matches('/'));
        let files =
            self.files.iter().filter_map(|(path, file)| Some((path.strip_prefix(&prefix)?.to_owned(), file.clone())));
        Self { files: files.collect() }
    }

    /// The files that are in one of the given folders; `.` stands for all.
    #[must_use]
    pub fn only(&self, folders: &[String]) -> Self {
        let files = self.files.iter().filter(|(path, _)| within(path, folders));
        Self { files: files.map(|(path, file)| (path.clone(), file.clone())).collect() }
    }

    /// A digest of paths, modes and contents, in hexadecimal.
    pub fn digest(&self) -> String {
        digest(self.files.iter())
    }

    /// The same of the files in some folders and below.
    pub fn digest_within(&self, folders: &[String]) -> String {
        digest(folders.iter().flat_map(|folder| {
            let prefix = format!("{folder}/");
            let end = format!("{folder}0");
            // "0" is what follows "/".
            self.files.range(prefix..end)
        }))
    }

    /// Writes the files below a folder, for tools that read files; nobody else does, and it need not last.
    pub fn write_to(&self, folder: &Path) -> Result<()> {
        let mut made = String::from("?");
        for (path, file) in &self.files {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            if parent != made {
                fsx::create_dir(&folder.join(parent))?;
                parent.clone_into(&mut made);
            }
            fsx::write_scratch(&folder.join(path), &file.content, if file.executable { 0o755 } else { 0o644 })?;
        }
        Ok(())
    }
}

fn digest<'a>(files: impl Iterator<Item = (&'a String, &'a File)>) -> String {
    let mut all = Sha256::new();
    for (path, file) in files {
        all.update((path.len() as u64).to_be_bytes());
        all.update(path);
        all.update([u8::from(file.executable)]);
        all.update((file.content.len() as u64).to_be_bytes());
        all.update(&file.content);
    }
    all.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Whether a path lies in one of the folders.
pub(super) fn within(path: &str, folders: &[String]) -> bool {
    folders.iter().any(|folder| {
        let folder = folder.trim_start_matches("./").trim_end_matches('/');
        folder.is_empty()
            || folder == "."
            || path == folder
            || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    })
}

/// Where a link leads, as a path from the root.
fn resolve(link: &str, target: &str) -> String {
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in Path::new(target).components() {
        match part {
            // Above the root, and where an absolute target leads, no file has its name.
            Component::ParentDir if parts.pop().is_none() => return target.to_owned(),
            Component::RootDir | Component::Prefix(_) => return target.to_owned(),
            Component::ParentDir | Component::CurDir => {}
            Component::Normal(name) => parts.push(name.to_str().unwrap_or_default()),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)], links: &[(&str, &str)]) -> Result<Tree> {
        let files = files.iter().map(|(path, content)| {
            ((*path).to_owned(), File { content: content.as_bytes().to_vec(), executable: false })
        });
        let links = links.iter().map(|(path, target)| ((*path).to_owned(), (*target).to_owned())).collect();
        Tree::new(files.collect(), &links)
    }

    #[test]
    fn links_become_files() {
        let tree = tree(&[("a/x.yaml", "x")], &[("b/y.yaml", "../a/x.yaml"), ("b/z.yaml", "y.yaml")]).unwrap();
        assert_eq!(tree.get("b/y.yaml").unwrap().content, b"x");
        assert_eq!(tree.get("b/z.yaml").unwrap().content, b"x");
    }

    #[test]
    fn links_out_of_the_tree_and_circles_are_errors() {
        for links in [[("a", "/etc/passwd")], [("a", "../../x")], [("a", "a")]] {
            let error = tree(&[("x", "")], &links).unwrap_err();
            assert!(matches!(error, Error::Link { .. }), "{error}");
        }
    }

    #[test]
    fn folders_are_whole_names() {
        let tree = tree(&[("a/x", ""), ("ab/x", ""), ("c", "")], &[]).unwrap();
        assert!(tree.has_folder("a") && !tree.has_folder("c") && !tree.has_folder("b"));
        let kept: Vec<_> = tree.only(&["./a/".into(), "c".into()]).files().map(|(path, _)| path.to_owned()).collect();
        assert_eq!(kept, ["a/x", "c"]);
        assert_eq!(tree.only(&[".".into()]), tree);
        assert_eq!(tree.below("ab").files().map(|(path, _)| path).collect::<Vec<_>>(), ["x"]);
    }

    #[test]
    fn the_digest_depends_on_everything() {
        let one = tree(&[("a", "bc")], &[]).unwrap();
        let other = tree(&[("ab", "c")], &[]).unwrap();
        assert_ne!(one.digest(), other.digest());
        let mut executable = one.clone();
        executable.files.get_mut("a").unwrap().executable = true;
        assert_ne!(one.digest(), executable.digest());
        assert_eq!(one.digest(), one.clone().digest());
    }
}
