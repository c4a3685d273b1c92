//! Machines that failed to become nodes: the docker provider sets a machine up once and leaves it as it is when that fails, for example
//! because docker was restarted meanwhile. A run that goes on has Cluster API make others.

use kube::api::DeleteParams;

use crate::bootstrap::story::Side;
use crate::clock::Look;
use crate::failure::Result;
use crate::k8s::{ObjectRef, Readiness, reference};
use crate::saga::Scope;
use crate::watch::{collect, state};

/// Deletes the Machines of a cluster that failed, and waits until they are gone: as long as they are there they are hopeless.
pub async fn failed_machines(side: &Side, scope: &Scope) -> Result<()> {
    let (seen, _) = collect(&side.cluster).await;
    let mut failures = Vec::new();
    for failed in seen.kind("DockerMachine").filter(|machine| matches!(state(machine), Readiness::Failed(_))) {
        let owners = failed.metadata.owner_references.iter().flatten();
        let Some(owner) = owners.into_iter().find(|owner| owner.kind == "Machine") else { continue };
        let namespace = failed.metadata.namespace.as_deref().unwrap_or_default();
        let machine = ObjectRef::namespaced(&owner.api_version, &owner.kind, namespace, &owner.name);
        failures.push((machine, reference(failed)));
    }
    if failures.is_empty() {
        return Ok(());
    }
    scope.effect("replace-machines", replace(side, scope, &failures)).await
}

async fn replace(side: &Side, scope: &Scope, failures: &[(ObjectRef, ObjectRef)]) -> Result<()> {
    for (machine, _) in failures {
        scope.events.progress(machine.to_string(), "failed to become a node: another one is made");
        side.cluster.delete(machine, &DeleteParams::default()).await?;
    }
    for (_, failed) in failures {
        scope
            .wait(format!("the end of {failed}"))
            .until(async || {
                Ok(match side.cluster.get(failed).await? {
                    None => Look::Ready(()),
                    Some(object) => Look::Pending(state(&object).state().to_owned()),
                })
            })
            .await?;
    }
    Ok(())
}
