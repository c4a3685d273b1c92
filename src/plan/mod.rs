//! What every cluster will be given for one environment at one revision, rendered as the clusters will render it.
//!
//! ```text
//! publication ─┬─ what cluster-init applies ──────────────┐
//!              └─ chart, phase bootstrap and management ──┤ parts, each with its cluster and its objects
//!                   └─ Kustomizations: build, substitute ─┘
//! ```
//!
//! Nothing is written anywhere but to a cache: a plan is made from the publication that `bootstrap` and `publish` deploy, and its digest
//! is that of the publication.

mod ahead;
mod cache;
mod component;
mod compose;
mod diff;
mod mask;
mod order;
mod problem;
mod references;
mod tree;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::k8s::{DynamicObject, ObjectRef, reference};

pub use ahead::Ahead;
pub use cache::Cache;
pub use compose::compose;
pub use diff::{Change, Difference, against};
pub use mask::Mask;
pub use problem::{At, Problem};
pub use references::check as check_references;
pub use tree::{draw, manifests};

/// The cluster that gets a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The temporary one.
    Bootstrap,
    /// The one that stays.
    Management,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bootstrap => "bootstrap",
            Self::Management => "management",
        })
    }
}

/// Who applies a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// This program.
    ClusterInit,
    /// The HelmRelease: sources and Kustomizations.
    Chart,
    /// A Kustomization of the bootstrap cluster.
    Bootstrap,
    /// A Kustomization of the management cluster, once it manages itself.
    Management,
}

impl By {
    /// The field manager under which the objects are applied.
    pub const fn manager(self) -> &'static str {
        match self {
            Self::ClusterInit => crate::k8s::MANAGER,
            Self::Chart => "helm-controller",
            Self::Bootstrap | Self::Management => "kustomize-controller",
        }
    }
}

/// Some objects that are applied together.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// The cluster that gets them.
    pub cluster: Target,
    /// Who applies them.
    pub by: By,
    /// The component, or what they are.
    pub name: String,
    /// Their folder in the repository.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// Components that must be ready before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Where the objects come from when it is not this repository: they are not rendered then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<String>,
    /// The objects.
    pub objects: Vec<DynamicObject>,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The environment.
    pub environment: String,
    /// What makes the bootstrap cluster.
    pub backend: crate::environment::Backend,
    /// The management cluster's name.
    pub management_cluster: String,
    /// The revision, for people.
    pub revision: String,
    /// The chart's version.
    pub chart: String,
    /// The publication's digest.
    pub digest: String,
    /// The parts, in the order in which they are applied.
    pub parts: Vec<Part>,
    /// What is not here, because its content is not in the bundle.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether the objects of every component are here.
    #[serde(skip)]
    pub complete: bool,
    /// What is wrong.
    #[serde(skip)]
    pub problems: Vec<Problem>,
}

impl Plan {
    /// The same with everything secret replaced.
    #[must_use]
    pub fn masked(mut self, mask: &Mask) -> Self {
        for object in self.parts.iter_mut().flat_map(|part| &mut part.objects) {
            mask.apply(object);
        }
        self
    }

    /// The images that the docker provider is to start machines from, each with a template that says so.
    pub fn machine_images(&self) -> BTreeMap<String, ObjectRef> {
        let objects = self.parts.iter().flat_map(|part| &part.objects);
        objects.filter_map(|object| Some((machine_image(object)?.1.to_owned(), reference(object)))).collect()
    }

    /// The parts of one cluster, or of both.
    #[must_use]
    pub fn only(mut self, cluster: Option<Target>) -> Self {
        self.parts.retain(|part| cluster.is_none_or(|wanted| part.cluster == wanted));
        self
    }
}

/// The image that the docker provider is to start the machines of a template from, with its field.
pub fn machine_image(object: &DynamicObject) -> Option<(&'static str, &str)> {
    let kind = object.types.as_ref().map_or("", |types| types.kind.as_str());
    let field = match kind {
        "DockerMachineTemplate" => "spec.template.spec.customImage",
        "DevMachineTemplate" => "spec.template.spec.backend.docker.customImage",
        _ => return None,
    };
    let image = object.data.pointer(&format!("/{}", field.replace('.', "/")))?.as_str()?;
    Some((field, image))
}
