//! What was built and read before: in memory by content, because both phases and most environments have most components in common,
//! and on disk by folder, because from one call to the next few components change.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::fsx;
use crate::git::Tree;
use crate::k8s::{self, DynamicObject};

/// What kustomize made of a folder, or why it made nothing.
pub(super) type Built = Result<Vec<Document>, String>;

/// One document of what kustomize made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Document {
    /// Without variables: its objects.
    Objects(Vec<DynamicObject>),
    /// With what may be variables: its text.
    Text(String),
}

/// What a file of the cache holds.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// The digest of everything that it was made from.
    key: String,
    documents: Vec<Document>,
}

/// What was built and read.
#[derive(Default)]
pub struct Cache {
    built: Mutex<HashMap<String, Arc<OnceCell<Arc<Built>>>>>,
    read: Mutex<HashMap<String, Arc<Vec<DynamicObject>>>>,
    folder: Option<PathBuf>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({} folders)", self.built.lock().unwrap_or_else(PoisonError::into_inner).len())
    }
}

impl Cache {
    /// One that is kept in a folder of this user's alone: a file for each folder of a source, so that it does not grow without end.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder: Some(folder), ..Self::default() }
    }

    /// What was made from the same content.
    pub(super) fn cell(&self, key: String) -> Arc<OnceCell<Arc<Built>>> {
        self.built.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    /// What an earlier call made of a folder from the same content.
    pub(super) fn recall(&self, folder: &str, key: &str) -> Option<Vec<Document>> {
        // What cannot be read is made anew.
        let text = fsx::read(&self.file(folder)?).ok()?;
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        (entry.key == key).then_some(entry.documents)
    }

    /// Keeps it for the next call, which does without when that fails.
    pub(super) fn keep(&self, folder: &str, key: &str, documents: &[Document]) {
        let Some(file) = self.file(folder) else { return };
        let entry = Entry { key: key.to_owned(), documents: documents.to_vec() };
        if let (Some(parent), Ok(text)) = (file.parent(), serde_json::to_vec(&entry)) {
            let _ = fsx::create_private_dir(parent).and_then(|()| fsx::write_private(&file, text));
        }
    }

    fn file(&self, folder: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{}.json", digest(folder))))
    }

    /// Reads manifests, or remembers them.
    pub(super) fn parse(&self, text: &str, folder: &str) -> k8s::Result<Vec<DynamicObject>> {
        let key = digest(text);
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(objects) = known {
            return Ok(objects.to_vec());
        }
        let objects = k8s::parse(text, folder)?;
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(objects.clone()));
        Ok(objects)
    }
}

fn digest(text: &str) -> String {
    let mut tree = Tree::default();
    tree.insert("text", text);
    tree.digest()
}

/// Takes apart what kustomize made.
pub(super) fn documents(text: &str, folder: &str) -> k8s::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for document in text.split("\n---\n") {
        documents.push(if document.contains("${") {
            Document::Text(document.to_owned())
        } else {
            Document::Objects(k8s::parse(document, folder)?)
        });
    }
    Ok(documents)
}
