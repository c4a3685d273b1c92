//! The source as a cluster without network can read it: every upstream URL replaced by a file with its content.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::kustomize::{FILE_NAMES, References, is_url, join, line_of, occurrences};
use super::{Error, Result};
use crate::failure::Failure;
use crate::git::Tree;

/// The content of an upstream URL, `None` when it is not at hand.
pub type Upstream<'a> = dyn Fn(&str) -> std::result::Result<Option<Vec<u8>>, Failure> + Sync + 'a;

/// What stands in the place of a manifest that is not at hand; kustomize leaves out what is marked like this.
const PLACEHOLDER: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: not-in-the-bundle\n  annotations:\n    config.kubernetes.io/local-config: \"true\"\n";

/// A URL whose content is not at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The folder of the kustomization that refers to it.
    pub folder: String,
    /// The kustomization's file.
    pub file: String,
    /// The line of the reference, from 1.
    pub line: usize,
    /// The URL.
    pub url: String,
    /// Whether objects are missing, not just the content of one.
    pub resource: bool,
}

impl Missing {
    /// The error that it is where it is needed.
    pub fn error(&self) -> Error {
        Error::Upstream { file: self.file.clone(), line: self.line, url: self.url.clone() }
    }
}

/// Replaces the URLs of all kustomizations by files beside them, and checks that everything that they refer to exists.
pub fn assemble(tree: &Tree, upstream: &Upstream<'_>) -> Result<Tree> {
    let (assembled, missing) = assemble_available(tree, upstream)?;
    missing.first().map_or(Ok(assembled), |missing| Err(missing.error()))
}

/// As [`assemble`], but a URL whose content is not at hand is told, and something empty takes its place: a component that
/// nobody enables may need what no bundle has.
pub fn assemble_available(tree: &Tree, upstream: &Upstream<'_>) -> Result<(Tree, Vec<Missing>)> {
    let mut assembled = tree.clone();
    let mut missing = Vec::new();
    for (path, file) in tree.files() {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if !FILE_NAMES.contains(&name) {
            continue;
        }
        let mut text = String::from_utf8_lossy(&file.content).into_owned();
        let references = References::read(&text, path)?;
        let line = |entry: &str| line_of(&String::from_utf8_lossy(&file.content), entry);
        // Generators take files from URLs, too.
        let mut urls: BTreeSet<&String> = references.files.iter().filter(|entry| is_url(entry)).collect();
        for entry in &references.resources {
            if is_url(entry) {
                urls.insert(entry);
                continue;
            }
            let exists = join(folder, entry).is_some_and(|at| tree.get(&at).is_some() || tree.has_folder(&at));
            if !exists {
                return Err(Error::Missing { file: path.to_owned(), line: line(entry), entry: entry.clone() });
            }
        }
        for url in urls {
            let content = upstream(url).map_err(Error::Content)?.unwrap_or_else(|| {
                let resource = references.resources.contains(url);
                let (folder, file) = (folder.to_owned(), path.to_owned());
                missing.push(Missing { folder, file, line: line(url), url: url.clone(), resource });
                PLACEHOLDER.into()
            });
            let local = local_name(url);
            text = replace(&text, url, &local);
            assembled.insert(if folder.is_empty() { local } else { format!("{folder}/{local}") }, content);
        }
        assembled.insert(path, text);
    }
    Ok((assembled, missing))
}

/// A file name for a URL: its last part, told apart from equal ones by a digest of the whole.
fn local_name(url: &str) -> String {
    let digest = Sha256::digest(url).iter().take(4).fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    let last = url.split(['?', '#']).next().unwrap_or(url).rsplit('/').next().unwrap_or("manifest.yaml");
    format!("upstream-{digest}-{last}")
}

/// Replaces whole words only: one URL may be the beginning of another.
fn replace(text: &str, url: &str, local: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    for at in occurrences(text, url) {
        out.push_str(&text[end..at]);
        out.push_str(local);
        end = at + url.len();
    }
    out.push_str(&text[end..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, content) in files {
            tree.insert(*path, *content);
        }
        tree
    }

    #[expect(clippy::unnecessary_wraps, reason = "the shape of an upstream")]
    fn known(url: &str) -> std::result::Result<Option<Vec<u8>>, Failure> {
        Ok(url.starts_with("https://known/").then(|| format!("from: {url}\n").into_bytes()))
    }

    #[test]
    fn urls_become_files_and_the_rest_stays() {
        let text = "# comment\nresources:\n  - https://known/a.yaml\n  - \"https://known/a.yaml.more\" # x\n  - sub\n  - b.yaml\n";
        let tree = tree(&[("c/kustomization.yaml", text), ("c/sub/kustomization.yaml", ""), ("c/b.yaml", "b")]);
        let assembled = assemble(&tree, &known).unwrap();
        let (first, second) = (local_name("https://known/a.yaml"), local_name("https://known/a.yaml.more"));
        let expected = format!("# comment\nresources:\n  - {first}\n  - \"{second}\" # x\n  - sub\n  - b.yaml\n");
        assert_eq!(String::from_utf8_lossy(&assembled.get("c/kustomization.yaml").unwrap().content), expected);
        assert_eq!(assembled.get(&format!("c/{first}")).unwrap().content, b"from: https://known/a.yaml\n");
        assert_eq!(assembled.get(&format!("c/{second}")).unwrap().content, b"from: https://known/a.yaml.more\n");
    }

    #[test]
    fn urls_of_generators_become_files() {
        let text = "configMapGenerator:\n- name: a\n  files:\n  - x.yaml=https://known/a.yaml\n";
        let assembled = assemble(&tree(&[("c/kustomization.yaml", text)]), &known).unwrap();
        let local = local_name("https://known/a.yaml");
        let expected = format!("configMapGenerator:\n- name: a\n  files:\n  - x.yaml={local}\n");
        assert_eq!(String::from_utf8_lossy(&assembled.get("c/kustomization.yaml").unwrap().content), expected);
        assert!(assembled.get(&format!("c/{local}")).is_some());
    }

    #[test]
    fn what_is_not_at_hand_is_named_with_file_and_line() {
        let unknown = tree(&[("c/kustomization.yaml", "resources:\n- https://elsewhere/a.yaml\n")]);
        let error = assemble(&unknown, &known).unwrap_err();
        assert_eq!(error.to_string(), "c/kustomization.yaml:2: https://elsewhere/a.yaml is not in the bundle");
        let (assembled, missing) = assemble_available(&unknown, &known).unwrap();
        assert_eq!(missing.len(), 1);
        let local = format!("c/{}", local_name("https://elsewhere/a.yaml"));
        assert_eq!(assembled.get(&local).unwrap().content, PLACEHOLDER.as_bytes());
        for entry in ["nothing.yaml", "../../out", "github.com/a/b//config?ref=v1"] {
            let missing = tree(&[("c/kustomization.yaml", &format!("resources:\n- {entry}\n"))]);
            let error = assemble(&missing, &known).unwrap_err();
            assert_eq!(error.to_string(), format!("c/kustomization.yaml:2: {entry} does not exist in the repository"));
        }
    }
}
