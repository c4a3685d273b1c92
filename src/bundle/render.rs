//! Upstream's manifests, made from the sources in the Go modules as their release processes make them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Error, Result};
use super::parts::{Manifest, Render};
use crate::exec::Command;
use crate::fsx;

/// Rendering is local work on small files.
const LIMIT: Duration = Duration::from_mins(2);

/// The programs that render.
pub(super) struct Renderer {
    /// kustomize.
    pub(super) kustomize: PathBuf,
    /// helm.
    pub(super) helm: PathBuf,
    /// A folder for what lies in between.
    pub(super) work: PathBuf,
}

impl Renderer {
    /// The content of a manifest, from the folder with its module's sources.
    pub(super) async fn render(&self, manifest: &Manifest, module: &Path) -> Result<Vec<u8>> {
        match manifest.render {
            Render::File => Ok(fsx::read(&module.join(&manifest.folder))?),
            Render::Kustomize => {
                let command = Command::new(&self.kustomize).arg("build").arg(module.join(&manifest.folder));
                let output = command.run(LIMIT).await?;
                Ok(replace(manifest, output.text())?.into_bytes())
            }
            Render::Chart => self.chart(manifest, module).await,
        }
    }

    /// Packages the chart as cert-manager's release does: version placeholders filled, CRD files made templates.
    async fn chart(&self, manifest: &Manifest, module: &Path) -> Result<Vec<u8>> {
        let source = module.join(&manifest.folder);
        let chart = self.work.join(&manifest.name);
        fsx::remove_dir(&chart)?;
        let templates = chart.join("templates");
        fsx::create_dir(&templates)?;
        for name in fsx::list(&source.join("templates"))? {
            fsx::write(&templates.join(&name), fsx::read(&source.join("templates").join(&name))?)?;
        }
        fsx::write(&chart.join("values.yaml"), fsx::read(&source.join("values.yaml"))?)?;
        let about = replace(manifest, fsx::read_text(&source.join("Chart.template.yaml"))?)?;
        fsx::write(&chart.join("Chart.yaml"), about)?;
        let mut crds = String::from("{{- if .Values.installCRDs }}\n");
        for name in fsx::list(&module.join(&manifest.crds))? {
            if Path::new(&name).extension().is_some_and(|extension| extension == "yaml") {
                crds.push_str("---\n");
                crds.push_str(fsx::read_text(&module.join(&manifest.crds).join(&name))?.trim_end());
                crds.push('\n');
            }
        }
        crds.push_str("{{- end }}\n");
        fsx::write(&templates.join("crds.yaml"), crds)?;
        let mut command = Command::new(&self.helm).arg("template").arg(&manifest.name).arg(&chart);
        command = command.args(["--namespace", &manifest.namespace]);
        for value in &manifest.set {
            command = command.args(["--set", value]);
        }
        // Helm's settings of the user have no say.
        for variable in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
            command = command.env(variable, self.work.join("helm"));
        }
        let output = command.run(LIMIT).await?;
        fsx::remove_dir(&chart)?;
        let mut content = fsx::read(&module.join(&manifest.before))?;
        content.extend(output.stdout);
        Ok(content)
    }
}

/// Replaces texts, each of which must be there: else upstream has changed, and the result would be wrong.
fn replace(manifest: &Manifest, mut text: String) -> Result<String> {
    for (from, to) in &manifest.replace {
        if !text.contains(from) {
            return Err(Error::NoText { name: manifest.name.clone(), text: from.clone() });
        }
        text = text.replace(from, to);
    }
    Ok(text)
}
