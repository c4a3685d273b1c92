//! pivot and self-management: the management cluster takes itself over, and proves it.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use kube::core::GroupVersionKind;

use super::management::{component, components, first, release};
use super::release::{SETTLED, settle};
use crate::bootstrap::{NAMESPACE, Story};
use crate::capi::{self, Machine, Phase, Pivot};
use crate::clock::{Look, human};
use crate::failure::{Failure, Result};
use crate::flux::{self, RELEASE};
use crate::k8s::{Cluster, ObjectRef, reference};
use crate::saga::{Probe, Scope, Step, Undo};
use crate::watch::collect;

/// Label of what must not act on objects that move.
const FENCED: &str = "suspend-on-pivot=yes";
/// The journal's name of the machines before the pivot.
const MACHINES: &str = "machines";

/// Moves the Cluster API objects.
pub struct Move;

#[async_trait(?Send)]
impl Step<Story> for Move {
    fn name(&self) -> &'static str {
        "pivot"
    }
    fn reason(&self) -> &'static str {
        "moving the Cluster API objects to the management cluster"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.at_most(Duration::from_mins(10))
    }
    async fn probe(&self, story: &Story, _: &Scope) -> Result<Probe> {
        Ok(if story.moved().await? { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let source = &story.bootstrap().await?.cluster;
        let target = &story.management().await?.cluster;
        if scope.recall::<BTreeSet<Machine>>(MACHINES).is_none() {
            scope.remember(MACHINES, &capi::summary(source).await?.machines)?;
        }
        scope.effect("suspend", fence(source, true)).await?;
        let options = capi::Options { fence: story.environment.settings().fence, ..capi::Options::default() };
        match Pivot::new(source, target, &story.run.id.0, scope).with(options).run().await {
            Ok(report) => {
                let phases: Vec<String> = report
                    .phases
                    .iter()
                    .map(|(phase, ms)| format!("{phase} {}", human(Duration::from_millis(*ms))))
                    .collect();
                scope.events.note(format!(
                    "{} objects moved, {} kept: {}",
                    report.moved.len(),
                    report.kept.len(),
                    phases.join(", ")
                ));
                Ok(())
            }
            Err(failure) => {
                if !committed(source, target).await {
                    fence(source, false).await?;
                }
                Err(failure)
            }
        }
    }
    async fn undo(&self, story: &Story, scope: &Scope) -> Result<Undo> {
        let Ok(Some(management)) = story.find_management().await else { return Ok(Undo::Undone) };
        let Ok(bootstrap) = story.bootstrap().await else {
            return Ok(Undo::Kept("the bootstrap cluster is gone: the management cluster has the objects"));
        };
        if committed(&bootstrap.cluster, &management.cluster).await {
            return Ok(Undo::Kept("it has passed the point of no return: resume it instead"));
        }
        Pivot::new(&bootstrap.cluster, &management.cluster, &story.run.id.0, scope).undo(scope).await?;
        fence(&bootstrap.cluster, false).await?;
        Ok(Undo::Undone)
    }
}

/// Whether the point of no return has been passed; when nobody can tell, it must be assumed.
async fn committed(source: &Cluster, target: &Cluster) -> bool {
    let passed = |record: capi::Result<Option<capi::Record>>| {
        record.map_or(true, |record| record.is_some_and(|record| record.phase != Phase::Copying))
    };
    passed(capi::recorded(target).await) || passed(capi::recorded(source).await)
}

/// Holds, or lets go, what deploys the moved objects on the bootstrap cluster.
async fn fence(source: &Cluster, hold: bool) -> Result<()> {
    let gvk = GroupVersionKind::gvk("kustomize.toolkit.fluxcd.io", "v1", "Kustomization");
    let kustomizations: Vec<ObjectRef> = source.list(&gvk, None, Some(FENCED)).await?.iter().map(reference).collect();
    // What makes the others is held first and let go last.
    let release = flux::release();
    let mut all = vec![&release];
    all.extend(&kustomizations);
    if hold {
        for object in all {
            flux::suspend(source, object).await?;
        }
    } else {
        for object in all.into_iter().rev() {
            flux::resume(source, object).await?;
        }
    }
    Ok(())
}

/// Switches the cluster's definition on where the cluster itself runs it.
pub struct SelfManagement;

#[async_trait(?Send)]
impl Step<Story> for SelfManagement {
    fn name(&self) -> &'static str {
        "self-management"
    }
    fn reason(&self) -> &'static str {
        "proving that the management cluster manages itself"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.at_most(Duration::from_mins(15))
    }
    async fn probe(&self, _: &Story, _: &Scope) -> Result<Probe> {
        // A proof is taken anew.
        Ok(Probe::ToDo)
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let management = story.management().await?;
        let cluster = &management.cluster;
        // Proved before, and by now perhaps at a later commit.
        if scope.happened(SETTLED) {
            return Ok(());
        }
        let handover = flux::kustomization(RELEASE);
        scope
            .effect("resume", async {
                flux::resume(cluster, &handover).await?;
                Ok(())
            })
            .await?;
        let publication = story.publication().await?;
        let (revision, version) = (publication.revision.tag(), publication.chart.version());
        let follow = story.follow("the management cluster to deploy its own definition", scope, management);
        let deployed = follow.until(|seen| {
            first([
                component(&seen[0], RELEASE, &revision),
                release(&seen[0], version),
                component(&seen[0], "cluster", &revision),
                components(&seen[0], &revision, |_| true),
            ])
        });
        // An API server gets a kind ready when it is first asked for, and the last proof asks for all.
        let asked = async {
            collect(cluster).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            deployed = deployed => deployed?,
            () = asked => {}
        }
        self.prove_machines(cluster, scope).await?;
        self.prove_independence(story, cluster).await?;
        settle(story, scope, cluster).await
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(Undo::Kept("the management cluster manages itself"))
    }
}

impl SelfManagement {
    /// The Cluster is available, and its machines are those that it had before the pivot.
    async fn prove_machines(&self, cluster: &Cluster, scope: &Scope) -> Result<()> {
        let now = scope
            .wait("the Cluster and its Machines to be well")
            .every(Duration::from_millis(200))
            .until(async || {
                let summary = capi::summary(cluster).await?;
                Ok(match summary.trouble() {
                    Some(trouble) => Look::Pending(trouble),
                    None => Look::Ready(summary.machines),
                })
            })
            .await?;
        let Some(before) = scope.recall::<BTreeSet<Machine>>(MACHINES) else {
            scope.events.warn("the journal does not say which machines there were before the pivot");
            return Ok(());
        };
        if now == before {
            scope.events.note(format!("the same {} machines as before the pivot", now.len()));
            return Ok(());
        }
        let names = |set: Vec<&Machine>| set.into_iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", ");
        Err(Failure::failed(format!(
            "the pivot changed machines: there were {}, there are {}",
            names(before.difference(&now).collect()),
            names(now.difference(&before).collect())
        )))
    }

    /// Nothing on the management cluster names the bootstrap cluster.
    async fn prove_independence(&self, story: &Story, cluster: &Cluster) -> Result<()> {
        let Some(made) = story.made().await? else { return Ok(()) };
        let mut needles = vec![made.name.clone(), address(&made.server)];
        needles.extend(story.backend.proxy_url(&made.name)?.as_deref().map(address));
        let names_it = |text: &str| needles.iter().find(|needle| text.contains(needle.as_str()));
        let (seen, _) = collect(cluster).await;
        for object in seen.iter().filter(|object| !matches!(reference(object).kind.as_str(), "Event" | "Pod")) {
            let text = serde_json::to_string(&object.data["spec"]).unwrap_or_default();
            let annotations = serde_json::to_string(&object.metadata.annotations).unwrap_or_default();
            let finalizers = object.metadata.finalizers.clone().unwrap_or_default().join(" ");
            if let Some(needle) = names_it(&text).or(names_it(&annotations)).or(names_it(&finalizers)) {
                return Err(points_back(&reference(object), needle));
            }
        }
        let secret =
            ObjectRef::namespaced("v1", "Secret", NAMESPACE, &format!("{}-kubeconfig", story.cluster_name().await?));
        let kubeconfig = cluster.get(&secret).await?.map(|object| object.data["data"]["value"].clone());
        let text = kubeconfig
            .as_ref()
            .and_then(|value| base64::engine::general_purpose::STANDARD.decode(value.as_str()?).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| Failure::failed(format!("the management cluster has no kubeconfig of itself ({secret})")))?;
        names_it(&text).map_or(Ok(()), |needle| Err(points_back(&secret, needle)))
    }
}

/// Host and port of a URL.
fn address(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    rest.rsplit_once('@').map_or(rest, |(_, host)| host).to_owned()
}

fn points_back(object: &ObjectRef, needle: &str) -> Failure {
    Failure::failed(format!("{object} on the management cluster still points at the bootstrap cluster ({needle})"))
}
