//! Everything that a cluster is given for one environment at one revision.

use std::path::Path;

use serde_json::Value;

use super::check;
use super::{Configuration, Environment, FOLDER, GitSource, Result, SETTINGS, Source, Variables};
use crate::failure;
use crate::flux::{self, CHART, COMPONENTS, Chart, Missing, Package, RELEASE, Upstream};
use crate::git::{Repository, Revision, Tree};
use crate::k8s::{self, DynamicObject};

/// The programs that rendering takes.
#[derive(Clone, Copy, Debug)]
pub struct Tools<'a> {
    /// kustomize.
    pub kustomize: &'a Path,
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

/// The chart's phases.
pub const PHASES: [&str; 2] = ["bootstrap", "management"];

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
        let settings = environment.settings();
        let publish = &settings.publish;
        let git = match settings.source {
            Source::Oci => None,
            Source::Git => Some(GitSource::find(&settings.git, repository)?),
        };
        // Nothing else of the repository has a say in what is deployed.
        let mut folders: Vec<String> = [CHART, FOLDER, SETTINGS].map(str::to_owned).to_vec();
        folders.extend(publish.iter().cloned());
        folders.extend(environment.folder().map(str::to_owned));
        let (revision, tree) = repository.snapshot(&folders, dirty)?;
        let chart = Chart::of(&tree, &revision, git.is_some())?;
        let (source, missing) = flux::assemble_available(&tree.only(publish), upstream)?;
        let variables = variables.clone().with("CURRENT_COMMIT", revision.tag());
        let configuration = Configuration { git, ..environment.configure(tools.kustomize, &variables).await? };
        let (origin, created) = (repository.origin(), repository.head_time()?);
        Ok(Self { revision, source, missing, chart, configuration, origin, created })
    }

    /// Checks that the chart can be rendered with the environment's values in some phases, and that the folder of every
    /// component exists; the kind of infrastructure that the management cluster is made on, when its definition is here.
    pub async fn check(&self, tools: Tools<'_>, phases: &[&'static str]) -> Result<Option<String>> {
        let mut infrastructure = None;
        for phase in phases.iter().copied() {
            let components = self.components(tools, phase).await?;
            check::paths(&components, &self.source, &self.missing)?;
            check::cluster_name(&components, &self.source, &self.configuration.cluster_name())?;
            infrastructure = infrastructure.or_else(|| check::infrastructure(&components, &self.source));
        }
        Ok(infrastructure)
    }

    /// Checks that clusters will find the revision where the source is a Git server, and says what was found. `deployed` is
    /// whether they are past their hand-over, and may follow the branch.
    pub async fn check_source(&self, repository: &Repository, deployed: bool) -> failure::Result<String> {
        match &self.configuration.git {
            None => Ok("the registry of each cluster".into()),
            Some(git) => git.check(repository, &self.revision, &self.configuration, deployed).await,
        }
    }

    /// The components that cluster-init installs itself, because nothing else can deploy them.
    pub const fn installed(&self) -> &'static [&'static str] {
        match self.configuration.git {
            None => &["registry", "flux-system"],
            Some(_) => &["flux-system"],
        }
    }

    /// What the chart renders in one phase: the sources and Kustomizations of all enabled components.
    pub async fn components(&self, tools: Tools<'_>, phase: &'static str) -> Result<Vec<Value>> {
        // JSON is YAML.
        let commit = serde_json::json!({"current_commit": self.revision.tag()}).to_string();
        let mut layers = self.configuration.layers().to_vec();
        layers.push(&commit);
        let own;
        if self.configuration.git.is_some() {
            // The release's own values say where a Git source is.
            let variant = if phase == "bootstrap" { Variant::Bootstrap } else { Variant::Management };
            let objects = self.release(tools, variant).await?;
            let release = objects.iter().find(|object| k8s::reference(object) == flux::release());
            own = release.map(|release| release.data["spec"]["values"].to_string()).unwrap_or_default();
            layers.push(&own);
        }
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

    /// The artifacts to push; none where the clusters read Git.
    pub fn packages(&self) -> Result<Vec<Package>> {
        if self.configuration.git.is_some() {
            return Ok(Vec::new());
        }
        let source = Package::source(&self.source, &self.revision, &self.origin, self.created)?;
        Ok(vec![source, self.chart.package()?])
    }

    /// The ConfigMap and the Secrets that the release reads.
    pub fn objects(&self) -> Vec<DynamicObject> {
        self.configuration.objects(&self.revision.tag(), self.chart.version(), false)
    }

    /// The same after the hand-over: a cluster that manages itself follows the branch, if the environment says so.
    pub fn settled(&self) -> Vec<DynamicObject> {
        self.configuration.objects(&self.revision.tag(), self.chart.version(), self.follows())
    }

    /// Whether the branch is followed after the hand-over.
    pub fn follows(&self) -> bool {
        self.configuration.git.as_ref().is_some_and(|git| git.follow)
    }

    /// The Secret from which the bootstrap cluster's Flux makes the same objects on the management cluster.
    pub fn copy(&self) -> DynamicObject {
        self.configuration.copy(&self.revision.tag(), self.chart.version())
    }

    /// The HelmRelease and where its chart comes from.
    pub async fn release(&self, tools: Tools<'_>, variant: Variant) -> Result<Vec<DynamicObject>> {
        let git = if self.configuration.git.is_some() { "git/" } else { "" };
        let variant = format!("{git}{}", variant.folder());
        let folder = format!("{COMPONENTS}/{RELEASE}/{variant}");
        if !self.source.has_folder(&folder) {
            return Err(flux::Error::NoFolder { folder }.into());
        }
        let temporary = flux::temporary()?;
        self.source.below(COMPONENTS).below(RELEASE).write_to(temporary.path())?;
        let text = flux::kustomize::build(tools.kustomize, &temporary.path().join(&variant)).await?;
        let mut variables = Variables::of([
            ("CHART_VERSION", self.chart.version().to_owned()),
            ("VALUES_DIGEST", self.configuration.digest()),
        ]);
        variables = variables.with("GIT_SPEC", self.configuration.git_spec(&self.revision.tag(), false));
        // In the text, as Flux does it: a variable may hold more than a text.
        Ok(k8s::parse(&variables.replace(&text, &folder)?, &folder)?)
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
