//! Everything that a cluster is given for one environment at one revision.

use std::path::Path;

use serde_json::Value;

use super::check;
use super::{Configuration, Environment, Error, FOLDER, Result, SETTINGS, Variables};
use crate::flux::{self, CHART, COMPONENTS, Chart, Missing, Package, RELEASE, Upstream};
use crate::git::{Repository, Revision, Tree};
use crate::k8s::{self, DynamicObject};

/// The programs that rendering takes.
#[derive(Clone, Copy, Debug)]
pub struct Tools<'a> {
    /// kubectl, for kustomize.
    pub kubectl: &'a Path,
    /// helm, for checking the chart.
    pub helm: &'a Path,
}

/// The variants of the HelmRelease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// On the bootstrap cluster.
    Bootstrap,
    /// On the management cluster before the pivot.
    ManagementBeforePivot,
    /// On the management cluster once it manages itself.
    Management,
}

impl Variant {
    /// Its folder below `kustomize-components/telco-cloud-init`.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::ManagementBeforePivot => "management-before-pivot",
            Self::Management => "management",
        }
    }
}

/// What is published.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The revision.
    pub revision: Revision,
    /// The source, with the content of upstream URLs in it.
    pub source: Tree,
    /// Upstream URLs whose content is not at hand; what is enabled must need none of them.
    pub missing: Vec<Missing>,
    /// The chart.
    pub chart: Chart,
    /// The environment's values.
    pub configuration: Configuration,
    /// Where the source comes from: the repository's remote, or its folder.
    pub origin: String,
    /// When the commit was made.
    pub created: jiff::Timestamp,
}

impl Publication {
    /// Takes the repository's commit (with `dirty`: its working tree) and the environment's values, and puts the content of
    /// upstream URLs in their places.
    pub async fn prepare(
        repository: &Repository,
        environment: &Environment,
        tools: Tools<'_>,
        upstream: &Upstream<'_>,
        variables: &Variables,
        dirty: bool,
    ) -> Result<Self> {
        let publish = &environment.settings().publish;
        // Nothing else of the repository has a say in what is deployed.
        let mut folders: Vec<String> = [CHART, FOLDER, SETTINGS].map(str::to_owned).to_vec();
        folders.extend(publish.iter().cloned());
        folders.extend(environment.folder().map(str::to_owned));
        let (revision, tree) = repository.snapshot(&folders, dirty)?;
        let chart = Chart::of(&tree, &revision)?;
        let (source, missing) = flux::assemble_available(&tree.only(publish), upstream)?;
        let variables = variables.clone().with("CURRENT_COMMIT", revision.tag());
        let configuration = environment.configure(tools.kubectl, &variables).await?;
        let (origin, created) = (repository.origin(), repository.head_time()?);
        Ok(Self { revision, source, missing, chart, configuration, origin, created })
    }

    /// Checks that the chart can be rendered with the environment's values in both phases, and that the folder of every
    /// component exists.
    pub async fn check(&self, tools: Tools<'_>) -> Result<()> {
        for phase in ["bootstrap", "management"] {
            check::paths(&self.components(tools, phase).await?, &self.source, &self.missing)?;
        }
        Ok(())
    }

    /// What the chart renders in one phase: the sources and Kustomizations of all enabled components.
    pub async fn components(&self, tools: Tools<'_>, phase: &'static str) -> Result<Vec<Value>> {
        // JSON is YAML.
        let commit = serde_json::json!({"current_commit": self.revision.tag()}).to_string();
        let mut layers = self.configuration.layers().to_vec();
        layers.push(&commit);
        Ok(self.chart.render(tools.helm, phase, &layers).await?)
    }

    /// A digest of all that decides what clusters are given: equal digests, equal clusters.
    pub fn digest(&self) -> String {
        let parts = [
            self.revision.tag(),
            self.chart.version().to_owned(),
            self.chart.digest(),
            self.source.digest(),
            self.configuration.environment.clone(),
            self.configuration.digest(),
        ];
        format!("sha256:{}", digest_of(&parts))
    }

    /// The artifacts to push.
    pub fn packages(&self) -> Result<Vec<Package>> {
        let source = Package::source(&self.source, &self.revision, &self.origin, self.created)?;
        Ok(vec![source, self.chart.package()?])
    }

    /// The ConfigMap and the Secrets that the release reads.
    pub fn objects(&self) -> Vec<DynamicObject> {
        self.configuration.objects(&self.revision.tag(), self.chart.version())
    }

    /// The Secret from which the bootstrap cluster's Flux makes the same objects on the management cluster.
    pub fn copy(&self) -> DynamicObject {
        self.configuration.copy(&self.revision.tag(), self.chart.version())
    }

    /// The HelmRelease and its HelmRepository.
    pub async fn release(&self, tools: Tools<'_>, variant: Variant) -> Result<Vec<DynamicObject>> {
        let folder = format!("{COMPONENTS}/{RELEASE}/{}", variant.folder());
        if !self.source.has_folder(&folder) {
            return Err(flux::Error::NoFolder { folder }.into());
        }
        let temporary = flux::temporary()?;
        self.source.below(COMPONENTS).below(RELEASE).write_to(temporary.path())?;
        let text = flux::kustomize::build(tools.kubectl, &temporary.path().join(variant.folder())).await?;
        let variables = Variables::of([
            ("CHART_VERSION", self.chart.version().to_owned()),
            ("VALUES_DIGEST", self.configuration.digest()),
        ]);
        let mut objects = k8s::parse(&text, &folder)?;
        for object in &mut objects {
            let named = k8s::reference(object).to_string();
            replace(&mut object.data, &variables, &named)?;
            for value in object.metadata.annotations.iter_mut().flat_map(|all| all.values_mut()) {
                *value = variables.replace(value, &named)?;
            }
        }
        Ok(objects)
    }
}

/// A digest of some texts and of where each ends, in hexadecimal.
fn digest_of(parts: &[String]) -> String {
    let mut tree = Tree::default();
    for (index, part) in parts.iter().enumerate() {
        tree.insert(index.to_string(), part.as_str());
    }
    tree.digest()
}

/// Replaces the variables of all texts in a value.
fn replace(value: &mut Value, variables: &Variables, at: &str) -> Result<(), Error> {
    match value {
        Value::String(text) => *text = variables.replace(text, at)?,
        Value::Array(items) => {
            for item in items {
                replace(item, variables, at)?;
            }
        }
        Value::Object(fields) => {
            for field in fields.values_mut() {
                replace(field, variables, at)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}
