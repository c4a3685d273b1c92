//! What is wrong with an environment, where, and what to do about it.

use crate::k8s::ObjectRef;
use crate::yaml::Spot;

/// Where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// In the environment as a whole.
    Nowhere,
    /// A key of the chart's values, from the root.
    Key(Vec<String>),
    /// A file, and where in it if that is known.
    File(String, Option<Spot>),
    /// An object of a component's folder, and a field in it.
    Object {
        /// The component's folder.
        folder: String,
        /// The object.
        object: Box<ObjectRef>,
        /// The field, as `spec.replicas`, or a text in it that begins with `$`; empty for the object.
        field: String,
    },
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub at: At,
    /// What.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// Something wrong with a key of the values.
    pub fn key(path: &[&str], message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let path = path.iter().map(|part| (*part).to_owned()).collect();
        Self { at: At::Key(path), message: message.into(), remedy: remedy.into() }
    }

    /// Something wrong with a file.
    pub fn file(file: &str, spot: Option<Spot>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { at: At::File(file.to_owned(), spot), message: message.into(), remedy: remedy.into() }
    }

    /// Something wrong with an object.
    pub fn object(
        folder: &str,
        object: &ObjectRef,
        field: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let at = At::Object { folder: folder.to_owned(), object: Box::new(object.clone()), field: field.into() };
        Self { at, message: message.into(), remedy: remedy.into() }
    }
}
