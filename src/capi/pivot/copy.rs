//! Copies one object to the target: what is sent, and what is still missing when something is there already.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::HeaderValue;
use http::header::ACCEPT;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, DynamicObject, ObjectMeta, PartialObjectMeta, Patch, PatchParams, PostParams, Request, TypeMeta};
use serde_json::json;

use super::pace::Pace;
use crate::capi::graph::Uid;
use crate::capi::{Error, MARK, differences};
use crate::clock::Look;
use crate::failure::{Failure, Result};
use crate::k8s::{self, Cluster, MANAGER, ObjectRef, reference};
use crate::saga::Scope;

/// How long a request is tried again before the pivot gives up on a cluster that does not answer.
const PATIENCE: Duration = Duration::from_mins(1);
/// The answer's form that leaves out all but metadata.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Tries again while a failure is transient, but not for ever.
pub(super) async fn patiently<T>(
    scope: &Scope,
    pace: &Pace,
    what: String,
    mut work: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T> {
    let mut scope = scope.clone();
    scope.deadline = scope.deadline.at_most(PATIENCE);
    scope
        .wait(what)
        .every(Duration::from_millis(200))
        .until(async || match work().await {
            Ok(value) => Ok(Look::Ready(value)),
            Err(Error::Cluster(error)) if error.transient() => {
                if error.code() == Some(429) {
                    pace.throttled();
                }
                Ok(Look::Pending(error.to_string()))
            }
            Err(error) => Err(Failure::from(error)),
        })
        .await
}

/// The value of our mark.
pub(super) fn mark(object: &DynamicObject) -> Option<&str> {
    object.metadata.annotations.as_ref()?.get(MARK).map(String::as_str)
}

/// The copies of this pivot among a cluster's objects: those that bear its mark, and all that they own. What is owned
/// by a copy of ours cannot be older than it, so most copies need no mark of their own and no request to remove it.
pub(super) fn ours<'a>(objects: &(impl Iterator<Item = &'a DynamicObject> + Clone), id: &str) -> BTreeSet<Uid> {
    let mut ours: BTreeSet<Uid> = objects.clone().filter(|o| mark(o) == Some(id)).map(Uid::of).collect();
    loop {
        let before = ours.len();
        let owned = |o: &&DynamicObject| {
            o.metadata.owner_references.iter().flatten().any(|owner| ours.contains(&Uid(owner.uid.clone())))
        };
        let more: Vec<Uid> = objects.clone().filter(owned).map(Uid::of).collect();
        ours.extend(more);
        if ours.len() == before {
            return ours;
        }
    }
}

/// What is created, and how.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    /// The source without what its server set, owned by the owners' copies.
    pub object: DynamicObject,
    /// Who creates it: the only field manager of the source, where there is one, so that its fields need no new owner.
    pub manager: String,
    /// The field managers that it must be given afterwards; creating it made us the owner of every field, and whoever
    /// applies it next would be in conflict with us for ever.
    pub managers: Option<Vec<ManagedFieldsEntry>>,
}

impl Copy {
    /// The copy of an object; `uids` leads from owners to their copies, `trusted` are the copies that are ours.
    pub(super) fn of(
        source: &DynamicObject,
        managers: Option<&Vec<ManagedFieldsEntry>>,
        uids: &BTreeMap<Uid, Uid>,
        trusted: &BTreeSet<Uid>,
        id: &str,
    ) -> Self {
        let mut object = source.clone();
        let metadata = &mut object.metadata;
        metadata.resource_version = None;
        metadata.uid = None;
        metadata.creation_timestamp = None;
        metadata.generation = None;
        metadata.managed_fields = None;
        metadata.self_link = None;
        let mut proved = false;
        for owner in metadata.owner_references.iter_mut().flatten() {
            if let Some(uid) = uids.get(&Uid(owner.uid.clone())) {
                proved |= trusted.contains(uid);
                owner.uid.clone_from(&uid.0);
            }
        }
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove(MARK);
        }
        if !proved {
            metadata.annotations.get_or_insert_default().insert(MARK.into(), id.into());
        }
        if let Some(fields) = object.data.as_object_mut() {
            fields.remove("status");
        }
        let (manager, managers) = ownership(managers.or(source.metadata.managed_fields.as_ref()));
        Self { object, manager, managers }
    }

    /// Whether an object of the same name on the target is this copy, with its content.
    pub(super) fn is(&self, existing: &DynamicObject, trusted: &BTreeSet<Uid>) -> bool {
        self.made(existing, trusted) && self.changed(existing).is_empty()
    }

    /// Whether this pivot made an object: it has our mark, or owners that are our copies.
    fn made(&self, existing: &DynamicObject, trusted: &BTreeSet<Uid>) -> bool {
        let marked = mark(&self.object).is_some() && mark(existing) == mark(&self.object);
        let owned = existing.metadata.owner_references.iter().flatten();
        marked || owned.into_iter().any(|owner| trusted.contains(&Uid(owner.uid.clone())))
    }

    /// What an object has not of this copy's content.
    fn changed(&self, existing: &DynamicObject) -> Vec<String> {
        let same = existing.metadata.owner_references.iter().flatten().map(|o| Uid(o.uid.clone()));
        let uids: BTreeMap<Uid, Uid> = same.map(|uid| (uid.clone(), uid)).collect();
        differences(&self.object, existing, &uids).changed
    }

    /// Whether an existing copy still has the wrong field managers: a crash fell between its creation and the patch.
    fn lacks_managers(&self, existing: &DynamicObject) -> bool {
        let names = |entries: Option<&Vec<ManagedFieldsEntry>>| -> BTreeSet<Option<String>> {
            entries.into_iter().flatten().map(|entry| entry.manager.clone()).collect()
        };
        self.managers
            .as_ref()
            .is_some_and(|wanted| names(Some(wanted)) != names(existing.metadata.managed_fields.as_ref()))
    }
}

/// Who creates a copy, and which managers it is given afterwards. Those of `status` are left out: there is none.
fn ownership(managers: Option<&Vec<ManagedFieldsEntry>>) -> (String, Option<Vec<ManagedFieldsEntry>>) {
    let ours = |entry: &&ManagedFieldsEntry| {
        // A pause of ours or of a pivot before this one; what we apply is ours to keep.
        entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some("Update")
    };
    let wanted: Vec<ManagedFieldsEntry> = managers
        .into_iter()
        .flatten()
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty() && !ours(entry))
        .cloned()
        .collect();
    match wanted.as_slice() {
        [] => (MANAGER.into(), None),
        [only] if only.operation.as_deref() == Some("Update") => (only.manager.clone().unwrap_or_default(), None),
        _ => (MANAGER.into(), Some(wanted)),
    }
}

/// Creates a copy on the target and returns its UID, and whether it is ours; a copy that this pivot made earlier is
/// kept, and so is, when `shared`, whatever the target has.
pub(super) async fn create(
    target: &Cluster,
    copy: &Copy,
    trusted: &BTreeSet<Uid>,
    shared: bool,
    earlier: Option<&DynamicObject>,
) -> Result<(Uid, bool), Error> {
    let named = reference(&copy.object);
    let api = target.api(&named.gvk(), named.namespace.as_deref()).await?;
    let params = PostParams { field_manager: Some(copy.manager.clone()), ..PostParams::default() };
    let request = |action: &str, source| {
        let action = format!("{action} {named}");
        k8s::Error::Request { cluster: target.name().into(), action, source: Box::new(source) }
    };
    let created = match earlier {
        Some(existing) => Err(existing.clone()),
        None => match post(target, &api, &params, &copy.object).await {
            Ok(created) => Ok(created),
            Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => {
                Err(api.get(&named.name).await.map_err(|e| request("read", e))?)
            }
            Err(error) => return Err(request("create", error).into()),
        },
    };
    let uid = match &created {
        Ok(created) => Uid(created.uid.clone().unwrap_or_default()),
        Err(existing) if copy.is(existing, trusted) && !copy.lacks_managers(existing) => {
            return Ok((Uid::of(existing), true));
        }
        Err(existing) if copy.is(existing, trusted) => Uid::of(existing),
        Err(existing) if shared => return Ok((Uid::of(existing), false)),
        Err(existing) if copy.made(existing, trusted) => {
            let what = format!("it was changed after it was copied: {}", copy.changed(existing).join(", "));
            return Err(Error::Differs { object: named.clone().into(), what, more: 0 });
        }
        Err(existing) => {
            let by = existing.metadata.managed_fields.iter().flatten().find_map(|entry| entry.manager.clone());
            let by = by.map(|by| format!(" ({by} wrote it)")).unwrap_or_default();
            return Err(Error::Conflict { object: named.clone().into(), cluster: target.name().into(), by });
        }
    };
    if let Some(managers) = &copy.managers {
        let patch = json!({"metadata": {"managedFields": managers}});
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        // Only metadata is needed of the answer.
        let patched = api.patch_metadata(&named.name, &params, &Patch::Merge(&patch)).await;
        patched.map_err(|e| request("restore the field managers of", e))?;
    }
    Ok((uid, true))
}

/// Creates an object; only metadata is needed of the answer.
async fn post(
    cluster: &Cluster,
    api: &Api<DynamicObject>,
    params: &PostParams,
    object: &DynamicObject,
) -> kube::Result<ObjectMeta> {
    let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
    let mut request = Request::new(api.resource_url()).create(params, body).map_err(kube::Error::BuildRequest)?;
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(METADATA));
    let created: PartialObjectMeta = cluster.client().request(request).await?;
    Ok(created.metadata)
}

/// Makes sure that a namespace exists.
pub(super) async fn namespace(scope: &Scope, pace: &Pace, cluster: &Cluster, name: &str) -> Result<()> {
    let named = ObjectRef::global("v1", "Namespace", name);
    patiently(scope, pace, format!("{named} on the {} cluster", cluster.name()), async || {
        if cluster.get(&named).await?.is_none() {
            let mut object = DynamicObject {
                types: Some(TypeMeta { api_version: "v1".into(), kind: "Namespace".into() }),
                metadata: kube::api::ObjectMeta::default(),
                data: json!({}),
            };
            object.metadata.name = Some(name.to_owned());
            cluster.apply(&object).await?;
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn machine(managers: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
            "metadata": {"name": "m", "namespace": "default", "uid": "m1", "resourceVersion": "7", "generation": 2,
                "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {"a": "b"}, "managedFields": managers,
                "ownerReferences": [{"apiVersion": "v1", "kind": "C", "name": "c", "uid": "c1", "controller": true}]},
            "spec": {"x": 1}, "status": {"phase": "Running"},
        }))
        .unwrap()
    }

    fn uids() -> BTreeMap<Uid, Uid> {
        BTreeMap::from([(Uid("c1".into()), Uid("c2".into()))])
    }

    #[test]
    fn a_copy_has_nothing_of_its_server_and_its_owners_copies() {
        let expected = |annotations: Value| {
            json!({
                "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
                "metadata": {"name": "m", "namespace": "default", "annotations": annotations,
                    "ownerReferences": [{"apiVersion": "v1", "kind": "C", "name": "c", "uid": "c2", "controller": true}]},
                "spec": {"x": 1},
            })
        };
        let source = machine(&json!([]));
        let value = |trusted: &BTreeSet<Uid>| {
            serde_json::to_value(Copy::of(&source, None, &uids(), trusted, "run").object).unwrap()
        };
        assert_eq!(value(&BTreeSet::new()), expected(json!({"a": "b", MARK: "run"})));
        assert_eq!(value(&BTreeSet::from([Uid("c2".into())])), expected(json!({"a": "b"})), "its owner proves it");
    }

    #[test]
    fn field_managers_are_kept_with_as_few_writes_as_possible() {
        let by = |managers: Value| {
            let copy = Copy::of(&machine(&managers), None, &uids(), &BTreeSet::new(), "run");
            (copy.manager, copy.managers.map(|entries| entries.len()))
        };
        let update = |manager: &str| json!({"manager": manager, "operation": "Update"});
        let status = json!({"manager": "manager", "operation": "Update", "subresource": "status"});
        let apply = |manager: &str| json!({"manager": manager, "operation": "Apply"});
        assert_eq!(by(json!([update("manager"), status])), ("manager".into(), None));
        assert_eq!(by(json!([update("manager"), update(MANAGER)])), ("manager".into(), None));
        assert_eq!(by(json!([apply("kcp"), update("manager"), status])), (MANAGER.into(), Some(2)));
        assert_eq!(by(json!([apply(MANAGER)])), (MANAGER.into(), Some(1)));
        assert_eq!(by(json!([])), (MANAGER.into(), None));
    }

    #[test]
    fn a_copy_is_known_by_its_mark_or_by_its_owner_and_by_its_content() {
        let trusted = BTreeSet::from([Uid("c2".into())]);
        let copy = Copy::of(&machine(&json!([])), None, &uids(), &trusted, "run");
        let mut existing = copy.object.clone();
        assert!(copy.is(&existing, &trusted));
        assert!(!copy.is(&existing, &BTreeSet::new()), "somebody else's owner proves nothing");
        existing.data["spec"]["x"] = json!(2);
        assert!(!copy.is(&existing, &trusted), "another content is another object");
        let marked = Copy::of(&machine(&json!([])), None, &uids(), &BTreeSet::new(), "run");
        assert!(marked.is(&marked.object.clone(), &BTreeSet::new()));
        assert_eq!(ours(&[&marked.object].into_iter(), "run").len(), 1);
        assert_eq!(ours(&[&marked.object].into_iter(), "another").len(), 0);
    }
}
