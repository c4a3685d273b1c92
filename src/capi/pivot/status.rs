//! Gives copies the status of their sources.
//!
//! Providers can rebuild it, one after the other: an infrastructure is provisioned before a control plane is initialized, and that before a
//! Machine has a Node. A copy that says so from the beginning saves their controllers these rounds, and keeps what nobody can rebuild.
//! What proves that the target's controllers work is left out: they say it themselves.

use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::Pivot;
use super::copy::patiently;
use super::pace::each;
use super::verify::Verified;
use crate::capi::Error;
use crate::capi::plan::Plan;
use crate::failure::Result;
use crate::k8s::{self, Cluster, MANAGER, ObjectRef};

/// The conditions by which a cluster says that it is managed.
const PROOFS: [&str; 3] = ["Available", "Paused", "RemoteConnectionProbe"];
/// What remains of these for a Machine: it is counted before its own controller looks at it.
const PROOFS_OF_MACHINES: [&str; 1] = ["Paused"];

impl Pivot<'_> {
    /// Writes what the sources know; what a target does not take, its providers rebuild.
    pub(super) async fn status(&self, plan: &Plan, verified: &Verified) -> Result<()> {
        let target = self.sides.target;
        // As with copies: a request that is given up may still be served.
        let scope = self.uninterrupted(self.scope.deadline);
        let known = plan.moved().filter_map(|item| {
            let source = verified.sources.get(&item.object)?;
            Some((&item.object, verified.copies.get(&item.object)?, knowledge(source)?))
        });
        each(&self.pace, known, async |(object, copy, status)| {
            let what = format!("the status of {object} to be written on the {} cluster", target.name());
            patiently(&scope, &self.pace, what, async || put(target, object, copy, &status).await).await
        })
        .await
    }
}

/// The status without what only its own controllers can say.
fn knowledge(source: &DynamicObject) -> Option<Value> {
    let mut status = source.data.get("status")?.as_object()?.clone();
    status.remove("observedGeneration");
    let machine = source.types.as_ref().is_some_and(|types| types.kind == "Machine");
    let proofs = if machine { &PROOFS_OF_MACHINES[..] } else { &PROOFS[..] };
    if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
        conditions.retain(|condition| !proofs.iter().any(|proof| condition["type"] == *proof));
    }
    status.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
    (!status.is_empty()).then_some(Value::Object(status))
}

/// Applies it: what the copy's controllers have said meanwhile stays.
async fn put(target: &Cluster, named: &ObjectRef, copy: &DynamicObject, status: &Value) -> Result<(), Error> {
    let api = target.api(&named.gvk(), named.namespace.as_deref()).await?;
    let metadata = json!({"name": named.name, "namespace": named.namespace, "uid": copy.metadata.uid});
    let object = json!({"apiVersion": named.api_version, "kind": named.kind, "metadata": metadata, "status": status});
    match api.patch_status(&named.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await {
        Ok(_) => Ok(()),
        Err(source) => {
            let action = format!("write the status of {named}");
            let error = k8s::Error::Request { cluster: target.name().into(), action, source: Box::new(source) };
            if error.transient() {
                return Err(error.into());
            }
            tracing::debug!(%error, "its provider rebuilds the status");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(status: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine", "status": status,
            "metadata": {"name": "m"},
        }))
        .unwrap()
    }

    #[test]
    fn what_is_known_goes_along_and_what_is_proved_stays() {
        let status = |conditions: &[&str]| {
            let conditions: Vec<Value> =
                conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
            json!({"nodeRef": {"name": "n"}, "conditions": conditions})
        };
        let mut source = object(&status(&["Available", "InfrastructureReady", "Paused", "RemoteConnectionProbe"]));
        source.data["status"]["observedGeneration"] = json!(3);
        let machine = status(&["Available", "InfrastructureReady", "RemoteConnectionProbe"]);
        assert_eq!(knowledge(&source), Some(machine), "a Machine is counted by it");
        source.types.as_mut().unwrap().kind = "Cluster".into();
        assert_eq!(knowledge(&source), Some(status(&["InfrastructureReady"])));
    }

    #[test]
    fn a_status_of_proofs_is_none() {
        let proofs = json!({"conditions": [{"type": "Paused", "status": "True"}], "observedGeneration": 1});
        assert_eq!(knowledge(&object(&proofs)), None);
        assert_eq!(knowledge(&object(&Value::Null)), None);
    }
}
