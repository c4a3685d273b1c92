//! Waits until the target's Cluster API knows the copies.
//!
//! Controllers look at what they remember, and a watch that a changed definition has cut is behind for seconds. A MachineDeployment whose
//! controller does not know its MachineSet yet makes another one, and a MachineSet other Machines. Cluster API says of every object of a
//! paused Cluster that it is paused: once it has said so, it knows it. Other providers' managers remember for themselves; what a control
//! plane's knows of Machines nobody tells.

use std::time::Duration;

use kube::api::DynamicObject;

use super::Pivot;
use super::verify::Verified;
use crate::capi::GROUP;
use crate::capi::plan::{Item, Plan};
use crate::clock::{Deadline, Look};
use crate::failure::{Kind, Result};
use crate::k8s::condition;

/// A manager that starts anew just now is at work again within this.
const PATIENCE: Duration = Duration::from_mins(3);

impl Pivot<'_> {
    /// Waits for it while there is a way back. What the source's Cluster API says nothing about is not waited for.
    pub(super) async fn acknowledged(&self, plan: &Plan, verified: &Verified) -> Result<()> {
        let target = self.sides.target;
        let of_cluster_api = plan.moved().filter(|item| item.object.group() == GROUP);
        let spoken: Vec<&Item> =
            of_cluster_api.filter(|item| verified.sources.get(&item.object).and_then(paused).is_some()).collect();
        let hint =
            format!("see that Cluster API's manager on the {} cluster runs, then run the same command", target.name());
        self.scope
            .wait(format!("Cluster API on the {} cluster to know the copies", target.name()))
            .within(Deadline::after(PATIENCE), &self.scope.cancel)
            .until(async || {
                let copies = self.index(target, plan).await?;
                let unknown = spoken.iter().find(|item| copies.get(&item.object).and_then(paused) != Some(true));
                Ok(match unknown {
                    Some(item) => Look::Pending(format!("it has not said yet that {} is paused", item.object)),
                    None => Look::Ready(()),
                })
            })
            .await
            .map_err(|failure| if failure.kind == Kind::Timeout { failure.hint(hint) } else { failure })
    }
}

/// Whether the object's controller says that it is paused; `None` when it says neither.
fn paused(object: &DynamicObject) -> Option<bool> {
    Some(condition(object, "Paused")?["status"] == "True")
}
