//! What an API server has said to an object before: the same object, the same kinds, the same server program, the same answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fsx;
use crate::git::Tree;
use crate::k8s::DynamicObject;

/// Answers to the objects of one environment, kept in a folder of this user's alone.
#[derive(Debug, Default)]
pub(super) struct Memory {
    file: PathBuf,
    /// What they depend on besides the object.
    key: String,
    known: BTreeMap<String, Known>,
}

/// An answer that needs nobody's attention again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Known {
    /// It was accepted.
    Accepted,
    /// It could not be looked at: why.
    Unknown(String),
}

#[derive(Serialize, Deserialize)]
struct File {
    key: String,
    known: BTreeMap<String, Known>,
}

impl Memory {
    /// What is known of an environment's objects on a server (`program` tells it from others) with the given kinds and namespaces.
    pub fn open(folder: &Path, environment: &str, program: &str, kinds: &[DynamicObject]) -> Self {
        let mut all = Tree::default();
        all.insert("program", format!("{} {program}", env!("CARGO_PKG_VERSION")));
        for (index, kind) in kinds.iter().enumerate() {
            all.insert(format!("{index:04}"), serde_json::to_vec(kind).unwrap_or_default());
        }
        let key = all.digest();
        let file = folder.join(format!("{}.json", digest(environment)));
        // What cannot be read is asked again.
        let old: Option<File> = fsx::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let known = old.filter(|old| old.key == key).map(|old| old.known).unwrap_or_default();
        Self { file, key, known }
    }

    /// What was said to an object.
    pub fn recall(&self, object: &str) -> Option<&Known> {
        self.known.get(&digest(object))
    }

    /// Remembers what is said now, in place of everything before.
    pub fn keep(self, answers: Vec<(&str, Known)>) {
        let known: BTreeMap<String, Known> =
            answers.into_iter().map(|(object, known)| (digest(object), known)).collect();
        if known == self.known {
            return;
        }
        // The next call does without when that fails.
        if let (Some(parent), Ok(text)) = (self.file.parent(), serde_json::to_vec(&File { key: self.key, known })) {
            let _ = fsx::create_private_dir(parent).and_then(|()| fsx::write_private(&self.file, text));
        }
    }
}

fn digest(text: &str) -> String {
    let mut tree = Tree::default();
    tree.insert("text", text);
    tree.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s;

    #[test]
    fn an_answer_holds_for_the_same_kinds_and_the_same_server() {
        let folder = tempfile::tempdir().unwrap();
        let kinds = k8s::parse("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n", "t").unwrap();
        let open = |program: &str, kinds: &[DynamicObject]| Memory::open(folder.path(), "local", program, kinds);
        assert_eq!(open("v1", &kinds).recall("a"), None);
        open("v1", &kinds).keep(vec![("a", Known::Accepted), ("b", Known::Unknown("why".into()))]);
        assert_eq!(open("v1", &kinds).recall("a"), Some(&Known::Accepted));
        assert_eq!(open("v1", &kinds).recall("b"), Some(&Known::Unknown("why".into())));
        assert_eq!(open("v1", &kinds).recall("c"), None);
        assert_eq!(open("v2", &kinds).recall("a"), None, "another server");
        assert_eq!(open("v1", &[]).recall("a"), None, "other kinds");
    }
}
