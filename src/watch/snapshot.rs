//! What was seen of a cluster at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::DynamicObject;
use serde_json::Value;

use crate::k8s::{ObjectRef, reference};

/// Objects of one cluster, by name; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Which cluster.
    pub cluster: String,
    objects: BTreeMap<ObjectRef, Arc<DynamicObject>>,
}

impl Snapshot {
    /// Nothing of a cluster.
    pub fn of(cluster: &str) -> Self {
        Self { cluster: cluster.to_owned(), objects: BTreeMap::new() }
    }

    /// Adds an object, or replaces it.
    pub fn put(&mut self, object: DynamicObject) {
        self.objects.insert(reference(&object), Arc::new(object));
    }

    /// Takes an object away.
    pub fn take(&mut self, name: &ObjectRef) {
        self.objects.remove(name);
    }

    /// Takes all objects of a kind away that `keep` does not name.
    pub fn retain(&mut self, keep: impl Fn(&ObjectRef) -> bool) {
        self.objects.retain(|name, _| keep(name));
    }

    /// An object by name.
    pub fn get(&self, name: &ObjectRef) -> Option<&DynamicObject> {
        self.objects.get(name).map(AsRef::as_ref)
    }

    /// An object by group, kind, namespace and name, in whatever version it was read.
    pub fn find(&self, group: &str, kind: &str, namespace: Option<&str>, name: &str) -> Option<&DynamicObject> {
        self.iter().find(|object| {
            let found = reference(object);
            found.kind == kind
                && found.group() == group
                && found.namespace.as_deref() == namespace
                && found.name == name
        })
    }

    /// All objects of a kind.
    pub fn kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a DynamicObject> {
        self.iter().filter(move |object| object.types.as_ref().is_some_and(|types| types.kind == kind))
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = &DynamicObject> {
        self.objects.values().map(AsRef::as_ref)
    }

    /// What names the object as an owner.
    pub fn owned_by<'a>(&'a self, owner: &'a DynamicObject) -> impl Iterator<Item = &'a DynamicObject> {
        let uid = owner.metadata.uid.as_deref();
        self.iter().filter(move |object| {
            uid.is_some() && object.metadata.owner_references.iter().flatten().any(|o| Some(o.uid.as_str()) == uid)
        })
    }

    /// The object that a reference field (`spec.infrastructureRef` and the like) names.
    pub fn referred(&self, by: &DynamicObject, pointer: &str) -> Option<&DynamicObject> {
        let field = by.data.pointer(pointer)?;
        let group = field["apiGroup"]
            .as_str()
            .or_else(|| field["apiVersion"].as_str()?.rsplit_once('/').map(|(group, _)| group))
            .unwrap_or_default();
        let namespace = field["namespace"].as_str().or(by.metadata.namespace.as_deref());
        self.find(group, field["kind"].as_str()?, namespace, field["name"].as_str()?)
    }

    /// The latest warning about an object, as `message (reason)`.
    pub fn warning(&self, about: &DynamicObject) -> Option<String> {
        let time = |event: &DynamicObject| {
            ["lastTimestamp", "eventTime"].iter().find_map(|f| event.data[*f].as_str().map(str::to_owned))
        };
        let concerns = |event: &&DynamicObject| {
            let named = &event.data["involvedObject"];
            event.data["type"] == "Warning"
                && (named["uid"].as_str().is_some_and(|uid| Some(uid) == about.metadata.uid.as_deref())
                    || (named["uid"].is_null()
                        && named["kind"].as_str() == about.types.as_ref().map(|t| t.kind.as_str())
                        && named["name"].as_str() == about.metadata.name.as_deref()))
        };
        let latest = self.kind("Event").filter(concerns).max_by_key(|event| time(event))?;
        let text = |field: &str| latest.data[field].as_str().unwrap_or_default();
        Some(format!("{} ({})", text("message").trim(), text("reason")))
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// A text field of an object by JSON pointer, or nothing.
pub(super) fn text<'a>(object: &'a DynamicObject, pointer: &str) -> &'a str {
    object.data.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
