//! The chart: packaged with the version of a revision, and rendered as the clusters will render it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::package::archive;
use super::{CHART_REPOSITORY, Error, Package, RELEASE, RELEASE_NAMESPACE, Result, explain};
use crate::exec::{self, Command};
use crate::git::{Revision, Tree};
use crate::{fsx, yaml};

/// The chart's folder in a repository.
pub const CHART: &str = "charts/telco-cloud-init";

/// How long rendering may take.
const LIMIT: Duration = Duration::from_mins(1);

/// The chart of one revision.
#[derive(Clone, Debug)]
pub struct Chart {
    tree: Tree,
    metadata: Value,
    version: String,
}

impl Chart {
    /// Takes the chart out of a repository's files and gives it the revision's version.
    pub fn of(tree: &Tree, revision: &Revision) -> Result<Self> {
        let file = format!("{CHART}/Chart.yaml");
        let fail = |reason: &str| Error::Chart { file: file.clone(), reason: reason.into() };
        let Some(original) = tree.get(&file) else {
            return Err(fail("no such file in the repository"));
        };
        let text = String::from_utf8_lossy(&original.content).into_owned();
        let mut metadata: Value = yaml::from_str(&text, &file)?;
        let base = metadata["version"].as_str().ok_or_else(|| fail("version is missing, or no text"))?;
        let version = revision.chart_version(base);
        metadata["version"] = json!(version);
        let mut tree = tree.below(CHART);
        let lines: Vec<String> = text
            .lines()
            .map(|line| if line.starts_with("version:") { format!("version: {version}") } else { line.to_owned() })
            .collect();
        tree.insert("Chart.yaml", lines.join("\n") + "\n");
        Ok(Self { tree, metadata, version })
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The artifact that Helm and Flux' HelmRepository read.
    pub fn package(&self) -> Result<Package> {
        let annotations = BTreeMap::from([
            ("org.opencontainers.image.title".to_owned(), RELEASE.to_owned()),
            ("org.opencontainers.image.version".to_owned(), self.version.clone()),
        ]);
        Ok(Package {
            repository: CHART_REPOSITORY,
            tag: self.version.clone(),
            config_type: "application/vnd.cncf.helm.config.v1+json",
            config: self.metadata.to_string().into_bytes(),
            layer_type: "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            layer: archive(&self.tree, &format!("{RELEASE}/"), "the chart")?,
            annotations,
        })
    }

    /// Renders the chart with `helm template` in one phase; `values` are merged in order over the phase's own.
    pub async fn render(&self, helm: &Path, phase: &'static str, values: &[&str]) -> Result<Vec<Value>> {
        let folder = tempfile::tempdir().map_err(|source| Error::Pack { what: "the chart".into(), source })?;
        let chart = folder.path().join(RELEASE);
        self.tree.write_to(&chart)?;
        let mut files: Vec<PathBuf> = Vec::new();
        if phase == "bootstrap" {
            files.push(chart.join("bootstrap.values.yaml"));
        }
        for (index, text) in values.iter().enumerate() {
            let file = folder.path().join(format!("values-{index}.yaml"));
            // Values may be secrets.
            fsx::write_private(&file, text)?;
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
