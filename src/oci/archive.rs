//! Archives whose bytes depend on names, contents and executable bits only.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use super::error::{Error, Result};
use crate::fsx;

#[derive(Clone, Debug)]
enum Node {
    Folder,
    Bytes { content: Vec<u8>, executable: bool },
    File { path: PathBuf, executable: bool },
    Link { target: String },
    Again { file: String },
}

/// Files that become an archive: sorted, without times, owned by nobody.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// An archive of everything in a folder but version control's own files.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let mut archive = Self::new();
        archive.add_folder("", folder)?;
        Ok(archive)
    }

    fn put(&mut self, path: &str, node: Node) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.nodes.entry(path[..at].to_owned()).or_insert(Node::Folder);
        }
        if !path.is_empty() {
            self.nodes.insert(path.to_owned(), node);
        }
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, path: &str, content: impl Into<Vec<u8>>, executable: bool) {
        self.put(path, Node::Bytes { content: content.into(), executable });
    }

    /// Adds or replaces a file whose content is read when the archive is written.
    pub fn insert_file(&mut self, path: &str, file: &Path, executable: bool) {
        self.put(path, Node::File { path: file.to_owned(), executable });
    }

    /// Adds or replaces a symbolic link.
    pub fn insert_link(&mut self, path: &str, target: &str) {
        self.put(path, Node::Link { target: target.to_owned() });
    }

    /// Adds another name of a file of this archive, one that sorts behind it: readers know only what came before.
    pub fn insert_name(&mut self, path: &str, file: &str) {
        debug_assert!(file < path, "{file} comes after {path}");
        self.put(path, Node::Again { file: file.to_owned() });
    }

    /// Adds everything in a folder below `prefix`.
    pub fn add_folder(&mut self, prefix: &str, folder: &Path) -> Result<()> {
        for name in fsx::list(folder)? {
            if name == ".git" {
                continue;
            }
            let source = folder.join(&name);
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let failed = || Error::archive(format!("archive {}", source.display()));
            let meta = source.symlink_metadata().map_err(failed())?;
            if meta.is_dir() {
                self.put(&path, Node::Folder);
                self.add_folder(&path, &source)?;
            } else if meta.is_symlink() {
                let target = source.read_link().map_err(failed())?;
                self.insert_link(&path, &target.to_string_lossy());
            } else if meta.is_file() {
                use std::os::unix::fs::PermissionsExt;
                let executable = meta.permissions().mode() & 0o100 != 0;
                self.insert(&path, fsx::read(&source)?, executable);
            }
        }
        Ok(())
    }

    /// The content of a file that was added as bytes.
    pub fn get(&self, path: &str) -> Option<&[u8]> {
        match self.nodes.get(path.trim_matches('/')) {
            Some(Node::Bytes { content, .. }) => Some(content),
            _ => None,
        }
    }

    /// The same archive with everything moved below a folder.
    #[must_use]
    pub fn below(&self, folder: &str) -> Self {
        let mut moved = Self::new();
        for (path, node) in &self.nodes {
            moved.put(&format!("{folder}/{path}"), node.clone());
        }
        moved
    }

    /// Number of files and links.
    pub fn len(&self) -> usize {
        self.nodes.values().filter(|node| !matches!(node, Node::Folder)).count()
    }

    /// Whether there is neither a file nor a link.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the archive.
    pub fn write_tar(&self, out: impl Write) -> io::Result<()> {
        let mut builder = tar::Builder::new(out);
        for (path, node) in &self.nodes {
            let mut header = Header::new_gnu();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            let mode = |executable: &bool| if *executable { 0o755 } else { 0o644 };
            match node {
                Node::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(0o755);
                    header.set_size(0);
                    builder.append_data(&mut header, format!("{path}/"), io::empty())?;
                }
                Node::Bytes { content, executable } => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_mode(mode(executable));
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, path, content.as_slice())?;
                }
                Node::File { path: source, executable } => {
                    let file = fsx::open(source).map_err(|error| error.source)?;
                    header.set_entry_type(EntryType::Regular);
                    header.set_mode(mode(executable));
                    header.set_size(file.metadata()?.len());
                    builder.append_data(&mut header, path, file)?;
                }
                Node::Link { target } => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    builder.append_link(&mut header, path, target)?;
                }
                Node::Again { file } => {
                    header.set_entry_type(EntryType::Link);
                    header.set_mode(0o755);
                    header.set_size(0);
                    builder.append_link(&mut header, path, file)?;
                }
            }
        }
        builder.into_inner()?.flush()
    }

    /// The archive, compressed; also the compressed bytes depend on nothing else.
    pub fn tar_gz(&self) -> Result<Vec<u8>> {
        let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::default());
        let failed = || Error::archive("write an archive");
        self.write_tar(&mut gzip).map_err(failed())?;
        gzip.finish().map_err(failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(archive: &Archive) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.write_tar(&mut bytes).unwrap();
        bytes
    }

    fn fill(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            fsx::create_dir(path.parent().unwrap()).unwrap();
            fsx::write(&path, format!("content of {name}")).unwrap();
        }
        fsx::symlink(Path::new("b/c"), &folder.join("link")).unwrap();
        fsx::set_mode(&folder.join("run"), 0o700).unwrap();
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fill(one.path(), &["a", "run", "b/c", ".git/HEAD", "b/d/e"]);
        std::thread::sleep(std::time::Duration::from_millis(20));
        fill(two.path(), &["b/d/e", "b/c", "run", "a"]);
        let (one, two) = (Archive::of_folder(one.path()).unwrap(), Archive::of_folder(two.path()).unwrap());
        assert_eq!(one.len(), 5);
        assert_eq!(tar(&one), tar(&two));
        assert_eq!(one.tar_gz().unwrap(), two.tar_gz().unwrap());
    }

    #[test]
    fn entries_are_sorted_and_belong_to_nobody() {
        let mut archive = Archive::new();
        let long = format!("x/{}/file", "long".repeat(50));
        archive.insert("z", "1", false);
        archive.insert("a/b/run", "2", true);
        archive.insert(&long, "3", false);
        let bytes = tar(&archive);
        let mut reader = tar::Archive::new(bytes.as_slice());
        let mut seen = Vec::new();
        for entry in reader.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            seen.push((entry.path().unwrap().display().to_string(), header.mode().unwrap()));
        }
        let folder = format!("x/{}/", "long".repeat(50));
        let names = [
            ("a/", 0o755),
            ("a/b/", 0o755),
            ("a/b/run", 0o755),
            ("x/", 0o755),
            (&folder, 0o755),
            (&long, 0o644),
            ("z", 0o644),
        ];
        assert_eq!(seen, names.map(|(name, mode)| (name.to_owned(), mode)));
    }
}
