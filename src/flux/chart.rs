//! The chart: packaged with the version of a revision, and rendered as the clusters will render it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::package::archive;
use super::{CHART_REPOSITORY, Error, Package, RELEASE, RELEASE_NAMESPACE, Result, explain, temporary};
use crate::exec::{self, Command};
use crate::git::{Revision, Tree};
use crate::oci::Artifact;
use crate::{fsx, yaml};

/// The chart's folder in a repository.
pub const CHART: &str = "charts/telco-cloud-init";

/// How long rendering may take.
const LIMIT: Duration = Duration::from_mins(1);

/// The chart of one revision.
#[derive(Clone, Debug)]
pub struct Chart {
    tree: Tree,
    version: String,
}

impl Chart {
    /// Takes the chart out of a repository's files and gives it the revision's version, as it is published or, with `git`, as
    /// source-controller makes it from a Git repository.
    pub fn of(tree: &Tree, revision: &Revision, git: bool) -> Result<Self> {
        let file = format!("{CHART}/Chart.yaml");
        let fail = |reason: &str| Error::Chart { file: file.clone(), reason: reason.into() };
        let Some(original) = tree.get(&file) else {
            return Err(fail("no such file in the repository"));
        };
        let metadata: Value = yaml::from_str(&String::from_utf8_lossy(&original.content), &file)?;
        if metadata["name"] != RELEASE {
            return Err(fail("the name of the chart must be telco-cloud-init"));
        }
        let base = metadata["version"].as_str().ok_or_else(|| fail("version is missing, or no text"))?;
        let version = if git { revision.git_chart_version(base) } else { revision.chart_version(base) };
        Ok(Self { tree: tree.below(CHART), version })
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A digest of its files.
    pub fn digest(&self) -> String {
        self.tree.digest()
    }

    /// The artifact that Helm and Flux' HelmRepository read.
    pub fn package(&self) -> Result<Package> {
        let packed = Artifact::helm_chart(&archive(&self.tree), &self.version);
        let (_, artifact) = packed.map_err(|source| Error::Pack { what: "the chart".into(), source })?;
        Ok(Package { repository: CHART_REPOSITORY, tag: self.version.clone(), artifact })
    }

    /// Renders the chart with `helm template` in one phase; `values` are merged in order over the phase's own.
    pub async fn render(&self, helm: &Path, phase: &'static str, values: &[&str]) -> Result<Vec<Value>> {
        let folder = temporary()?;
        let chart = folder.path().join(RELEASE);
        self.tree.write_to(&chart)?;
        let mut files: Vec<PathBuf> = Vec::new();
        if phase == "bootstrap" {
            files.push(chart.join("bootstrap.values.yaml"));
        }
        for (index, text) in values.iter().enumerate() {
            let file = folder.path().join(format!("values-{index}.yaml"));
            // Values may be secrets.
            fsx::write_scratch(&file, text, 0o600)?;
            files.push(file);
        }
        let mut command =
            Command::new(helm).args(["template", RELEASE]).arg(&chart).args(["--namespace", RELEASE_NAMESPACE]);
        for file in &files {
            command = command.arg("--values").arg(file);
        }
        // Helm's own folders, so that the user's plugins and repositories play no part.
        for variable in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
            command = command.env(variable, folder.path().join("helm"));
        }
        match command.env_remove("KUBECONFIG").run(LIMIT).await {
            Ok(output) => Ok(yaml::documents(&output.text(), "helm template")?),
            Err(exec::Error::Status { stderr, .. }) => Err(Error::Values { phase, reason: explain(&stderr) }),
            Err(error) => Err(error.into()),
        }
    }
}
