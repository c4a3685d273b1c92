//! Flux: what it is given (artifacts), how it is installed, when it is ready, and how it is hurried, held and let go.
//!
//! ```text
//! repository ─ snapshot ─> assemble (upstream URLs become files) ─> source artifact ─┐
//!            └ chart ──────> package (version names the revision) ─> chart artifact ─┴─> registry of each cluster
//! ```

mod assemble;
mod canary;
mod certificate;
mod chart;
mod control;
mod error;
mod hasten;
mod install;
pub mod kustomize;
mod package;
mod progress;
mod ready;
mod values;

pub use assemble::{Missing, Upstream, assemble, assemble_available};
pub use canary::{canary_package, fetched, sing};
pub use chart::{CHART, Chart};
pub use control::{nudge, nudge_release, resume, suspend};
pub use error::{Error, Result};
pub use hasten::Hastener;
pub(crate) use hasten::{awaited, inventory};
pub use install::{Rendered, install, render, wait_available};
pub use package::{CHART_REPOSITORY, Package, SOURCE_REPOSITORY};
pub use ready::{Expected, expected, explain, readiness, revision_name};
pub use values::Defaults;

/// The namespace of Flux's controllers.
pub const NAMESPACE: &str = "flux-system";

/// The namespace of the HelmRelease, of the components' Kustomizations, and of their sources.
pub const RELEASE_NAMESPACE: &str = "default";

/// The name of the HelmRelease, of its HelmRepository, and of the Kustomization that keeps it in step.
pub const RELEASE: &str = "telco-cloud-init";

/// The registry of a cluster, as everything in the cluster names it.
pub const REGISTRY: &str = "registry.cluster-init.svc.cluster.local:5000";

/// The folder of components in a repository.
pub const COMPONENTS: &str = "kustomize-components";

const KUSTOMIZATION: &str = "kustomize.toolkit.fluxcd.io/v1";
const HELM_RELEASE: &str = "helm.toolkit.fluxcd.io/v2";
const SOURCE: &str = "source.toolkit.fluxcd.io/v1";

use crate::k8s::ObjectRef;

/// Names a Kustomization of the release.
pub fn kustomization(name: &str) -> ObjectRef {
    ObjectRef::namespaced(KUSTOMIZATION, "Kustomization", RELEASE_NAMESPACE, name)
}

/// The name of the source that serves the components of this repository: an OCIRepository or a GitRepository.
const SOURCE_NAME: &str = "cluster-init";

/// Names the OCIRepository that serves the components of this repository.
pub fn source() -> ObjectRef {
    ObjectRef::namespaced(SOURCE, "OCIRepository", RELEASE_NAMESPACE, SOURCE_NAME)
}

/// Names the sources of the chart and of the components that Git serves.
pub fn git_sources() -> [ObjectRef; 2] {
    [chart_repository(), ObjectRef::namespaced(SOURCE, "GitRepository", RELEASE_NAMESPACE, SOURCE_NAME)]
}

/// Names the GitRepository from which the chart is read, when the source is Git.
pub fn chart_repository() -> ObjectRef {
    ObjectRef::namespaced(SOURCE, "GitRepository", RELEASE_NAMESPACE, RELEASE)
}

/// Names the HelmRelease of the chart.
pub fn release() -> ObjectRef {
    ObjectRef::namespaced(HELM_RELEASE, "HelmRelease", RELEASE_NAMESPACE, RELEASE)
}

/// Names the HelmChart that Flux makes of the release's chart.
fn chart_of_release() -> ObjectRef {
    ObjectRef::namespaced(SOURCE, "HelmChart", RELEASE_NAMESPACE, &format!("{RELEASE_NAMESPACE}-{RELEASE}"))
}

/// A folder for rendering, gone when it is dropped.
pub(crate) fn temporary() -> Result<tempfile::TempDir> {
    tempfile::tempdir().map_err(Error::Temporary)
}
