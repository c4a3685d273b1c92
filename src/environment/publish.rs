//! Day two: a new revision for a cluster that manages itself.
//!
//! The artifacts are pushed to the cluster's own registry, then the environment's ConfigMap and Secrets are applied. That is
//! all: the ConfigMap names the revision, Flux watches it, and everything else follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Management, Publication};
use crate::capi;
use crate::clock::{Deadline, Look, Stopwatch, Wait, human};
use crate::event::{Events, What};
use crate::failure::{Failure, Result};
use crate::flux::{self, Expected, Hastener, Package, RELEASE_NAMESPACE};
use crate::k8s::{Cluster, DynamicObject, GroupVersionKind, ObjectRef, Readiness, reference};

/// How long an object may call itself failed before it is believed: controllers try again at once.
const GRACE: Duration = Duration::from_secs(6);
/// How often the cluster's registry and the machines are looked at.
const LOOK: Duration = Duration::from_secs(3);

impl Publication {
    /// Gives the publication to a management cluster; does not wait for what it does with it.
    pub async fn give(&self, management: &Management) -> Result<()> {
        for package in self.packages()? {
            package.push(&management.reached.registry).await?;
        }
        for object in self.settled() {
            management.cluster.apply(&object).await?;
        }
        // The same revision again changes nothing that Flux watches; a registry that was empty may be why it is published. A
        // branch that is followed has just got a new commit.
        self.nudge(&management.cluster).await
    }

    async fn nudge(&self, cluster: &Cluster) -> Result<()> {
        let sources =
            if self.configuration.git.is_some() { flux::git_sources().to_vec() } else { vec![flux::source()] };
        for source in &sources {
            flux::nudge(cluster, source).await?;
        }
        Ok(())
    }

    /// Gives the cluster's registry again what it has lost: where machines are replaced, it starts anew on another one, empty.
    async fn give_again(&self, management: &Management, packages: &[Package], events: &Events) -> Result<()> {
        let registry = &management.reached.registry;
        let mut lost = false;
        for package in packages {
            if !package.is_in(registry).await? {
                package.push(registry).await?;
                lost = true;
            }
        }
        if lost {
            events.note(format!("the cluster's registry had lost {}, and has it again", self.revision));
            self.nudge(&management.cluster).await?;
        }
        Ok(())
    }

    /// Waits until the release and every component are ready with this revision, and sees to it that the cluster's registry
    /// holds it meanwhile.
    pub async fn arrived(
        &self,
        management: &Management,
        events: &Events,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let packages = self.packages()?;
        let keep = async {
            let mut ticks = tokio::time::interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut machines = Machines::default();
            loop {
                ticks.tick().await;
                machines.tell(&management.cluster, events).await;
                if let Err(error) = self.give_again(management, &packages, events).await {
                    // It moves, or the API server does: there is a next time.
                    tracing::debug!(%error, "the cluster's registry was not reached");
                }
            }
        };
        tokio::select! {
            result = self.followed(&management.cluster, events, deadline, cancel) => result?,
            () = keep => {}
        }
        // It may have moved since the last look, or be moving.
        Wait::new(format!("the cluster's registry to hold {}", self.revision), deadline.left())
            .within(deadline, cancel)
            .every(Duration::from_millis(500))
            .until(async || match self.give_again(management, &packages, events).await {
                Ok(()) => Ok(Look::Ready(())),
                Err(error) => Ok::<_, Failure>(Look::Pending(error.to_string())),
            })
            .await
    }

    async fn followed(
        &self,
        cluster: &Cluster,
        events: &Events,
        deadline: Deadline,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let hurry = CancellationToken::new();
        let _stop = hurry.clone().drop_guard();
        let (_, remote) = watch::channel(None);
        tokio::spawn(Hastener::new(cluster.clone(), remote, events.clone()).run(hurry));
        let (tag, version) = (self.revision.tag(), self.chart.version().to_owned());
        let mut told = BTreeMap::new();
        let mut failed: Option<(ObjectRef, Stopwatch)> = None;
        Wait::new(format!("every component to be at {}", self.revision), deadline.left())
            .within(deadline, cancel)
            .every(Duration::from_millis(200))
            .until(async || {
                let objects = match objects(cluster).await {
                    Ok(objects) => objects,
                    Err(error) if error.transient() => return Ok(Look::Pending(error.to_string())),
                    Err(error) => return Err(error.into()),
                };
                let states = states(&objects, &tag, &version);
                tell(events, cluster, &states, &mut told);
                let Some((object, state)) = states.iter().find(|(_, state)| !state.is_ready()) else {
                    return Ok(if states.is_empty() { Look::Pending("no release".into()) } else { Look::Ready(()) });
                };
                let hopeless = states.iter().find(|(_, state)| matches!(state, Readiness::Failed(_)));
                failed = match (hopeless, failed.take()) {
                    (Some((now, state)), Some((before, since))) if *now == before => {
                        if since.elapsed() > GRACE {
                            return Err(Failure::failed(format!("{now}: {}", state.state())));
                        }
                        Some((before, since))
                    }
                    (Some((now, _)), _) => Some((now.clone(), Stopwatch::start())),
                    (None, _) => None,
                };
                Ok(Look::Pending(format!("{object}: {}", state.state())))
            })
            .await?;
        events.note(format!(
            "every component is at {} after {}",
            self.revision,
            human(deadline.limit().saturating_sub(deadline.left()))
        ));
        Ok(())
    }
}

/// The Machines as they were last told of.
#[derive(Default)]
struct Machines(BTreeMap<ObjectRef, Readiness>);

impl Machines {
    /// Tells which come, go and change. Most runs change none: nothing is said of those that are well from the beginning.
    async fn tell(&mut self, cluster: &Cluster, events: &Events) {
        let now = match capi::machines(cluster).await {
            Ok(now) => now,
            Err(error) => return tracing::debug!(%error, "the machines were not seen"),
        };
        if self.0.is_empty() {
            self.0.extend(now.iter().filter(|(_, state)| state.is_ready()).cloned());
        }
        let gone = |before: &ObjectRef| now.iter().all(|(named, _)| named != before);
        for (object, _) in self.0.extract_if(.., |before, _| gone(before)) {
            send(events, cluster, &object, true, "gone");
        }
        tell(events, cluster, &now, &mut self.0);
    }
}

/// The release and its Kustomizations.
async fn objects(cluster: &Cluster) -> crate::k8s::Result<Vec<DynamicObject>> {
    let kustomizations = GroupVersionKind::gvk("kustomize.toolkit.fluxcd.io", "v1", "Kustomization");
    let mut objects = cluster.list(&kustomizations, Some(RELEASE_NAMESPACE), None).await?;
    objects.extend(cluster.get(&flux::release()).await?);
    Ok(objects)
}

/// Whether each is ready with the revision. A component of another repository has revisions of its own.
fn states(objects: &[DynamicObject], tag: &str, version: &str) -> Vec<(ObjectRef, Readiness)> {
    let state = |object: &DynamicObject| {
        let named = reference(object);
        let expected = match named.kind.as_str() {
            "HelmRelease" => Expected::Revision(version),
            _ => flux::expected(object, tag),
        };
        (named, flux::readiness(object, expected))
    };
    objects.iter().map(state).collect()
}

/// Reports what changed.
fn tell(
    events: &Events,
    cluster: &Cluster,
    states: &[(ObjectRef, Readiness)],
    told: &mut BTreeMap<ObjectRef, Readiness>,
) {
    for (object, state) in states {
        if told.get(object) != Some(state) {
            send(events, cluster, object, state.is_ready(), state.state());
            told.insert(object.clone(), state.clone());
        }
    }
}

fn send(events: &Events, cluster: &Cluster, object: &ObjectRef, ready: bool, state: &str) {
    let (cluster, object, state) = (cluster.name().to_owned(), object.to_string(), state.to_owned());
    events.send(What::Object { cluster, object, ready, state });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_component_of_another_repository_has_its_own_revision() {
        let kustomization = |name: &str, source: &str, revision: &str| {
            serde_json::from_value::<DynamicObject>(json!({
                "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
                "metadata": {"name": name, "namespace": "default", "generation": 1},
                "spec": {"sourceRef": {"name": source}},
                "status": {"observedGeneration": 1, "lastAppliedRevision": revision, "conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .unwrap()
        };
        let objects = [
            kustomization("new", "cluster-init", "abc@sha256:0"),
            kustomization("old", "cluster-init", "old@sha256:0"),
            kustomization("other", "component-other", "main@sha1:1"),
        ];
        let ready: Vec<bool> = states(&objects, "abc", "v").iter().map(|(_, state)| state.is_ready()).collect();
        assert_eq!(ready, [true, false, true]);
    }
}
