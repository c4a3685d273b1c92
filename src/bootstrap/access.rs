//! The clusters of a run as this host reaches them.

use std::path::PathBuf;

use super::Story;
use crate::backend::{Backend, Kind, KindOptions, Local, LocalSpec};
use crate::docker;
use crate::environment::{self, KindSettings, Machines, Management, Reached};
use crate::failure::Result;
use crate::node::{self, Home, Node, Role};

/// The bootstrap cluster's name.
pub fn name(environment: &str) -> String {
    format!("{environment}-bootstrap")
}

/// On whose behalf it is made.
pub fn owner(environment: &str) -> String {
    format!("bootstrap {environment}")
}

/// What is asked of the backend.
pub fn spec(environment: &environment::Environment) -> LocalSpec {
    let name_of = environment.name();
    let mut spec = LocalSpec { throw_away: true, ..LocalSpec::new(name(name_of), owner(name_of)) };
    if environment.settings().machines == Machines::Docker {
        spec.allowed_host_paths.push(PathBuf::from(docker::SOCKET));
    }
    let KindSettings { api_port, feature_gates, mounts } = environment.settings().kind.clone();
    spec.kind = KindOptions { api_port, feature_gates, mounts };
    spec
}

/// The backend that an environment's settings name.
pub fn backend(settings: &environment::Settings, home: &Home, bundle: &std::path::Path) -> Backend {
    match settings.backend {
        environment::Backend::Local => Backend::Local(Local::new(home.clone(), bundle)),
        environment::Backend::Kind => Backend::Kind(Kind::new(home.clone(), bundle)),
    }
}

/// The registry of the first cluster; `None` where clusters read Git.
pub async fn bootstrap_registry(story: &Story) -> Result<Option<Reached>> {
    if story.publication().await?.configuration.git.is_some() {
        return Ok(None);
    }
    let cluster = &story.bootstrap().await?.cluster;
    if let Some(kubeconfig) = &story.subject.kubeconfig {
        return Management::reach(&story.home, cluster, kubeconfig).await.map(Some);
    }
    match story.backend.proxy_url(&name(story.environment.name()))? {
        Some(proxy) => Reached::through_proxy(&proxy).map(Some),
        None => Reached::through_api(cluster).await.map(Some),
    }
}

/// The control-plane node of the management cluster of a name on this host, when there is one.
pub fn management_node(home: &Home, cluster: &str) -> Result<Option<Node>> {
    Ok(node::list(home)?
        .into_iter()
        .find(|node| node.config().cluster == cluster && node.config().role == Role::ControlPlane))
}

/// The registry of the management cluster; `None` where clusters read Git.
pub async fn management_registry(story: &Story) -> Result<Option<Reached>> {
    if story.publication().await?.configuration.git.is_some() {
        return Ok(None);
    }
    let cluster = &story.management().await?.cluster;
    Management::reach(&story.home, cluster, &story.run.kubeconfig()).await.map(Some)
}
