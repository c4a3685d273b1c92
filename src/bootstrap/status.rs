//! How an environment is: whether its management cluster manages itself and everything on it is ready.

use kube::core::GroupVersionKind;
use serde::Serialize;

use super::{access, run};
use crate::backend::{Addresses, Kind};
use crate::capi::{self, Machine};
use crate::docker::Docker;
use crate::failure::{Failure, Result};
use crate::flux::{self, Expected};
use crate::k8s::{Cluster, condition, reference};
use crate::node::{self, Home};
use crate::watch::brief;

/// One component, or the release that makes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Whether it is ready.
    pub ready: bool,
    /// The revision that is deployed.
    pub revision: String,
    /// Its state in a few words.
    pub state: String,
}

/// How an environment is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its name.
    pub environment: String,
    /// The run that made it.
    pub run: String,
    /// Whether the management cluster holds its own definition, in whole and unpaused.
    pub self_managed: bool,
    /// Whether the bootstrap cluster still exists.
    pub bootstrap_cluster: bool,
    /// The components on the management cluster.
    pub components: Vec<Component>,
    /// The machines.
    pub machines: Vec<Machine>,
    /// What is not well.
    pub troubles: Vec<String>,
}

impl Status {
    /// Whether it is self-managed and everything is ready.
    pub fn is_well(&self) -> bool {
        self.self_managed && self.troubles.is_empty()
    }
}

/// Connects to an environment's management cluster with the kubeconfig of its last run that has one.
pub async fn management(home: &Home, environment: &str) -> Result<(Cluster, String, std::path::PathBuf)> {
    let mut runs = run::all(home, environment)?;
    runs.retain(|past| past.cleaned.is_none());
    let found = runs.iter().rev().find_map(|past| Some((past, past.kubeconfig()?)));
    let Some((past, path)) = found else {
        let failure = if runs.is_empty() {
            Failure::usage(format!("{environment} was never bootstrapped here"))
                .hint(format!("cluster-init bootstrap {environment}"))
        } else {
            Failure::failed(format!("the bootstrap of {environment} has not come to its management cluster yet"))
                .hint(format!("cluster-init resume {environment}"))
        };
        return Err(failure);
    };
    Ok((Cluster::connect("management", &path).await?, past.id().0, path))
}

/// Looks at an environment's management cluster.
pub async fn status(home: &Home, environment: &str) -> Result<Status> {
    let (cluster, run, _) = management(home, environment).await?;
    let mut addresses = Addresses::of(home, environment)?;
    cluster.api_ready().await.map_err(|state| {
        let failure = Failure::failed(format!("the management cluster of {environment} does not answer: {state}"));
        if addresses.clusters().is_empty() {
            failure.hint("see its nodes: cluster-init local list")
        } else {
            failure
                .hint(format!("if docker or its host was started again: cluster-init resume {environment}"))
                .hint("see its machines: docker ps --all")
        }
    })?;
    if let Err(failure) = addresses.follow(&Docker::default(), capi::clusters(&cluster).await?).await {
        tracing::debug!(%failure, "the containers' addresses were not noted");
    }
    let (summary, components) =
        tokio::try_join!(async { capi::summary(&cluster).await.map_err(Failure::from) }, components(&cluster))?;
    let mut troubles = summary.troubles.clone();
    troubles.extend(components.iter().filter(|c| !c.ready).map(|c| format!("component {}: {}", c.name, c.state)));
    let own = access::name(environment);
    let defined = components.iter().any(|component| component.name == "cluster");
    if summary.clusters == 0 {
        troubles.insert(0, "its own Cluster is not on the management cluster".into());
    } else if !defined {
        troubles.insert(0, "the cluster's definition is not deployed from the management cluster".into());
    }
    Ok(Status {
        environment: environment.to_owned(),
        run,
        self_managed: summary.clusters > 0 && defined,
        bootstrap_cluster: node::list(home)?.iter().any(|node| node.config().cluster == own)
            || Kind::has_files_of(home, &own),
        components,
        machines: summary.machines.into_iter().collect(),
        troubles,
    })
}

async fn components(cluster: &Cluster) -> Result<Vec<Component>> {
    let kinds =
        [("helm.toolkit.fluxcd.io", "v2", "HelmRelease"), ("kustomize.toolkit.fluxcd.io", "v1", "Kustomization")];
    let mut components = Vec::new();
    for (group, version, kind) in kinds {
        for object in cluster.list(&GroupVersionKind::gvk(group, version, kind), None, None).await? {
            let state = flux::readiness(&object, Expected::Any);
            let text =
                |pointer: &str| object.data.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            let (name, revision) = match kind {
                "HelmRelease" => {
                    (format!("release {}", reference(&object).name), text("/status/history/0/chartVersion"))
                }
                _ => (reference(&object).name, text("/status/lastAppliedRevision")),
            };
            let said = condition(&object, "Ready").and_then(|c| c["message"].as_str()).unwrap_or_default();
            components.push(Component {
                name,
                ready: state.is_ready(),
                revision: flux::revision_name(&revision).to_owned(),
                state: brief(if state.is_ready() { said } else { state.state() }),
            });
        }
    }
    Ok(components)
}
