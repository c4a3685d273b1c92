//! bootstrap-cluster and teardown: the bootstrap cluster comes and goes.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::prepare::unpack_images;
use crate::backend::{Backend, LABEL, Mirror, Served};
use crate::bootstrap::checks::no_socket;
use crate::bootstrap::{Story, access};
use crate::capi::{self, Graph};
use crate::docker;
use crate::environment::Machines;
use crate::failure::{Failure, Kind, Result};
use crate::k8s::ObjectRef;
use crate::node::State;
use crate::saga::{Probe, Scope, Step, Undo};

/// Makes the bootstrap cluster, or adopts the one that this run made.
pub struct BootstrapCluster;

#[async_trait(?Send)]
impl Step<Story> for BootstrapCluster {
    fn name(&self) -> &'static str {
        "bootstrap-cluster"
    }
    fn reason(&self) -> &'static str {
        "making the cluster that makes the cluster"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.at_most(Duration::from_mins(10))
    }
    async fn probe(&self, story: &Story, _: &Scope) -> Result<Probe> {
        if story.moved().await? {
            return Ok(Probe::Done);
        }
        let Some(made) = story.made().await? else { return Ok(Probe::ToDo) };
        let ours = made.owner == access::owner(story.environment.name());
        Ok(if made.state == State::Ready && ours { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let spec = access::spec(&story.environment);
        let create = story.backend.create_or_adopt(&spec, &scope.events, scope.deadline, &scope.cancel);
        match &story.backend {
            // Images are unpacked while the control plane starts, and the machines' registry is filled.
            Backend::Local(_) => {
                let images =
                    async { tokio::try_join!(unpack_images(story, scope), mirror(story, scope, async || Ok(()))) };
                tokio::try_join!(scope.effect("create", create), images).map(|_| ())
            }
            // Its own node is started from the mirror.
            Backend::Kind(_) => mirror(story, scope, async || scope.effect("create", create).await.map(|_| ())).await,
        }
    }
    async fn undo(&self, story: &Story, scope: &Scope) -> Result<Undo> {
        delete(story, scope).await?;
        Ok(Undo::Undone)
    }
}

/// The registry of whatever is a container of the local Docker. What is begun `then` finds in it whatever every node needs; what the
/// environment's machines need beyond that is found out meanwhile.
async fn mirror(story: &Story, scope: &Scope, then: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let Some(daemon) = story.docker() else { return then().await };
    let mirror = Mirror::new(daemon.clone(), story.bundle().await?.clone(), story.home.clone());
    let fill = async |served: &Served, machines: BTreeMap<_, _>| {
        scope.effect("mirror", mirror.fill(served, &machines, &scope.events, &scope.cancel)).await
    };
    let (found, machines) = oneshot::channel();
    let look = async {
        let _ = found.send(story.machine_images().await?);
        Ok(())
    };
    let serve = async {
        let served = mirror.serve(&scope.events, scope.deadline, &scope.cancel).await?;
        fill(&served, BTreeMap::new()).await?;
        let others = async {
            match machines.await {
                Ok(machines) => fill(&served, machines).await,
                // The search has failed, and says why.
                Err(_) => Ok(()),
            }
        };
        tokio::try_join!(then(), others)
    };
    tokio::try_join!(look, serve)?;
    let socket = docker::SOCKET;
    let needed = story.environment.settings().machines == Machines::Docker;
    // Docker would make a folder of that name, and the provider would wait for ever.
    let looks = format!("{LABEL}=look");
    if needed && !daemon.has_file(socket, &mirror.reference("registry")?, &looks).await? {
        return Err(no_socket(Kind::Failed, daemon.is_podman().await?));
    }
    Ok(())
}

/// Deletes the bootstrap cluster once it holds nothing that the management cluster lacks.
pub struct Teardown;

#[async_trait(?Send)]
impl Step<Story> for Teardown {
    fn name(&self) -> &'static str {
        "teardown"
    }
    fn reason(&self) -> &'static str {
        "deleting the bootstrap cluster"
    }
    fn deadline(&self, story: &Story) -> Duration {
        story.at_most(Duration::from_mins(2))
    }
    async fn probe(&self, story: &Story, _: &Scope) -> Result<Probe> {
        let gone = story.made().await?.is_none();
        Ok(if gone || story.subject.keep { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, story: &Story, scope: &Scope) -> Result<()> {
        let Some(made) = story.made().await? else { return Ok(()) };
        // A cluster that a killed teardown left half deleted has been looked at already.
        if made.state == State::Ready || !scope.happened("check") {
            let spec = access::spec(&story.environment);
            story.backend.create_or_adopt(&spec, &scope.events, scope.deadline, &scope.cancel).await?;
            scope.effect("check", check_empty(story)).await?;
        }
        delete(story, scope).await
    }
    async fn undo(&self, _: &Story, _: &Scope) -> Result<Undo> {
        Ok(Undo::Kept("a bootstrap cluster that is gone stays gone: the management cluster needs none"))
    }
}

async fn delete(story: &Story, scope: &Scope) -> Result<()> {
    let environment = story.environment.name();
    scope.effect("delete", story.backend.delete(&access::name(environment), &access::owner(environment))).await
}

/// Refuses when the bootstrap cluster holds a Cluster API object that is not on the management cluster.
async fn check_empty(story: &Story) -> Result<()> {
    let bootstrap = &story.bootstrap().await?.cluster;
    let management = &story.management().await?.cluster;
    let graph = Graph::of(&capi::discover(bootstrap).await?);
    let mut lost: Vec<ObjectRef> = Vec::new();
    for node in graph.nodes.values().filter(|node| node.in_scope) {
        if management.get(&node.reference).await?.is_none() {
            lost.push(node.reference.clone());
        }
    }
    match lost.first() {
        None => Ok(()),
        Some(first) => Err(Failure::refused(format!(
            "the bootstrap cluster holds {first} and {} further objects that the management cluster does not have",
            lost.len() - 1
        ))
        .hint("they would be lost: move them, or delete the bootstrap cluster yourself")),
    }
}
