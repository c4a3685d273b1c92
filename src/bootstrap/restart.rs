//! Docker was started again on a day after the hand-over: the machines get back what that took from them, and the cluster comes back.
//!
//! ```text
//! containers ► components
//! ```

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use super::status;
use crate::backend::{Addresses, Displaced, reachable};
use crate::clock::Look;
use crate::docker::Docker;
use crate::failure::{Failure, Result};
use crate::fsx;
use crate::k8s::Cluster;
use crate::node::Home;
use crate::saga::{Probe, Scope, Step, Undo};
use crate::yaml;

/// A management cluster of containers.
pub struct Restart {
    home: Home,
    environment: String,
    kubeconfig: PathBuf,
    docker: Docker,
    addresses: Addresses,
}

impl Restart {
    /// What is known of an environment's containers; `None` where its machines are none.
    pub fn find(home: &Home, environment: &str, kubeconfig: PathBuf) -> Result<Option<Self>> {
        let addresses = Addresses::of(home, environment)?;
        let (home, environment, docker) = (home.clone(), environment.to_owned(), Docker::default());
        let found = !addresses.clusters().is_empty();
        Ok(found.then_some(Self { home, environment, kubeconfig, docker, addresses }))
    }

    async fn moved(&self) -> Result<bool> {
        let found = self.addresses.displaced(&self.docker, &self.addresses.clusters()).await?;
        Ok(found == Displaced::Moved)
    }

    /// The kubeconfig, with the port that docker publishes the API server at by now.
    async fn connect(&self) -> Result<Cluster> {
        let known = fsx::read_text(&self.kubeconfig)?;
        let mut text = known.clone();
        for cluster in self.addresses.clusters() {
            if is_of(&known, &cluster) {
                text = reachable(&self.docker, &cluster, &known).await?;
            }
        }
        if text != known {
            fsx::write_private(&self.kubeconfig, &text)?;
        }
        Ok(Cluster::connect("management", &self.kubeconfig).await?)
    }
}

/// Whether a kubeconfig leads to a cluster of Cluster API's, by its name.
fn is_of(kubeconfig: &str, cluster: &str) -> bool {
    let parsed: serde_json::Value = yaml::from_str(kubeconfig, "the cluster's kubeconfig").unwrap_or_default();
    parsed.pointer("/clusters/0/name").and_then(|name| name.as_str()) == Some(cluster)
}

/// The steps.
pub fn steps() -> Vec<Box<dyn Step<Restart>>> {
    vec![Box::new(Containers), Box::new(Components)]
}

/// Containers run, at the addresses that they were made with.
struct Containers;

#[async_trait(?Send)]
impl Step<Restart> for Containers {
    fn name(&self) -> &'static str {
        "containers"
    }
    fn reason(&self) -> &'static str {
        "starting machines that docker stopped, at their own addresses"
    }
    fn deadline(&self, _: &Restart) -> Duration {
        Duration::from_mins(5)
    }
    async fn probe(&self, restart: &Restart, scope: &Scope) -> Result<Probe> {
        let (stopped, _) = restart.addresses.stopped(&restart.docker, &restart.addresses.clusters()).await?;
        let well = !restart.moved().await? && stopped.is_empty() && !scope.broke_off("addresses");
        Ok(if well { Probe::Done } else { Probe::ToDo })
    }
    async fn apply(&self, restart: &Restart, scope: &Scope) -> Result<()> {
        let (docker, clusters) = (&restart.docker, restart.addresses.clusters());
        let (stopped, others_run) = restart.addresses.stopped(docker, &clusters).await?;
        // Where others run at their own addresses they are left alone. Where none does, docker would deal the addresses out anew.
        if others_run && !restart.moved().await? && !scope.broke_off("addresses") {
            let start = async {
                for container in &stopped {
                    scope.events.progress("docker", format!("container {container} is started again"));
                    docker.start(container).await?;
                }
                Ok(())
            };
            // One whose address somebody else has by now does not start, or starts at another one.
            if scope.effect("start", start).await.is_ok() && !restart.moved().await? {
                return Ok(());
            }
        }
        let restore = restart.addresses.restore(docker, &clusters, &scope.events);
        scope.effect("addresses", restore).await
    }
    async fn undo(&self, _: &Restart, _: &Scope) -> Result<Undo> {
        Ok(Undo::Kept("machines that run are what there was before"))
    }
}

/// The management cluster answers, and everything on it is ready.
struct Components;

#[async_trait(?Send)]
impl Step<Restart> for Components {
    fn name(&self) -> &'static str {
        "components"
    }
    fn reason(&self) -> &'static str {
        "waiting until the management cluster and everything on it is well"
    }
    fn deadline(&self, _: &Restart) -> Duration {
        Duration::from_mins(15)
    }
    async fn probe(&self, _: &Restart, _: &Scope) -> Result<Probe> {
        Ok(Probe::ToDo)
    }
    async fn apply(&self, restart: &Restart, scope: &Scope) -> Result<()> {
        let cluster = restart.connect().await?;
        scope
            .wait("the management cluster's API server")
            .until(async || {
                Ok::<_, Failure>(match cluster.api_ready().await {
                    Ok(()) => Look::Ready(()),
                    Err(state) => Look::Pending(state),
                })
            })
            .await?;
        let mut told = String::new();
        scope
            .wait("every component and machine to be well")
            .every(Duration::from_secs(1))
            .until(async || {
                let state = match status::status(&restart.home, &restart.environment).await {
                    Ok(status) if status.is_well() => return Ok(Look::Ready(())),
                    Ok(status) => status.troubles.first().cloned().unwrap_or_default(),
                    Err(failure) => failure.to_string(),
                };
                if state != told {
                    scope.events.progress("management", state.clone());
                    told.clone_from(&state);
                }
                Ok::<_, Failure>(Look::Pending(state))
            })
            .await
    }
    async fn undo(&self, _: &Restart, _: &Scope) -> Result<Undo> {
        Ok(Undo::Undone)
    }
}
