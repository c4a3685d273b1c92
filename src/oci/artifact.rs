//! Artifacts as Flux and Helm understand them, made in memory.

use std::collections::BTreeMap;

use super::archive::Archive;
use super::digest::Digest;
use super::error::{Error, Result};
use super::spec::{Descriptor, Manifest, media};
use crate::yaml;

/// A manifest with its configuration and layers, ready to be pushed.
#[derive(Clone, Debug)]
pub struct Artifact {
    manifest: Vec<u8>,
    blobs: Vec<(Digest, Vec<u8>)>,
}

impl Artifact {
    fn new(config: (&str, Vec<u8>), layer: (&str, Vec<u8>), annotations: BTreeMap<String, String>) -> Result<Self> {
        Self::make(None, config, layer, annotations)
    }

    fn make(
        artifact_type: Option<&str>,
        config: (&str, Vec<u8>),
        layer: (&str, Vec<u8>),
        annotations: BTreeMap<String, String>,
    ) -> Result<Self> {
        let describe = |media_type: &str, content: &[u8]| Descriptor {
            media_type: media_type.into(),
            digest: Digest::of(content),
            size: content.len() as u64,
            annotations: BTreeMap::new(),
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.into(),
            artifact_type: artifact_type.map(str::to_owned),
            config: describe(config.0, &config.1),
            layers: vec![describe(layer.0, &layer.1)],
            annotations,
        };
        let blobs = vec![(manifest.config.digest.clone(), config.1), (manifest.layers[0].digest.clone(), layer.1)];
        let manifest = serde_json::to_vec(&manifest)
            .map_err(|source| Error::Json { what: "an artifact's manifest".into(), source })?;
        Ok(Self { manifest, blobs })
    }

    /// An artifact that is one file.
    pub fn file(artifact_type: &str, media_type: &str, content: Vec<u8>) -> Result<Self> {
        Self::make(Some(artifact_type), (media::EMPTY, b"{}".to_vec()), (media_type, content), BTreeMap::new())
    }

    /// A Flux artifact: what an `OCIRepository` fetches.
    ///
    /// `source` says where the content comes from (a repository's URL), `revision` which state of it (`main@sha1:...`),
    /// `created` when that state was made (a commit's time, so that the same commit gives the same artifact).
    pub fn flux(content: &Archive, source: &str, revision: &str, created: jiff::Timestamp) -> Result<Self> {
        let annotations = BTreeMap::from([
            ("org.opencontainers.image.created".to_owned(), created.to_string()),
            ("org.opencontainers.image.revision".to_owned(), revision.to_owned()),
            ("org.opencontainers.image.source".to_owned(), source.to_owned()),
        ]);
        Self::new((media::FLUX_CONFIG, b"{}".to_vec()), (media::FLUX_CONTENT, content.tar_gz()?), annotations)
    }

    /// A Helm chart, packaged with the version given from its files by their paths in its folder; returns its name, too.
    pub fn helm_chart(files: &Archive, version: &str) -> Result<(String, Self)> {
        let refused = |reason: &str| Error::Chart { reason: reason.into() };
        let text = files.get("Chart.yaml").ok_or_else(|| refused("it has no Chart.yaml"))?;
        let mut chart: serde_json::Value = yaml::from_str(&String::from_utf8_lossy(text), "Chart.yaml")
            .map_err(|error| refused(&error.to_string()))?;
        let fields = chart.as_object_mut().ok_or_else(|| refused("its Chart.yaml is no mapping"))?;
        fields.insert("version".into(), version.into());
        let name =
            fields.get("name").and_then(|name| name.as_str()).ok_or_else(|| refused("it has no name"))?.to_owned();
        let config =
            serde_json::to_vec(&chart).map_err(|source| Error::Json { what: format!("chart {name}"), source })?;
        let mut archive = files.below(&name);
        // JSON is YAML, and Helm reads it as such.
        archive.insert(&format!("{name}/Chart.yaml"), config.clone(), false);
        let annotations = BTreeMap::from([
            ("org.opencontainers.image.title".to_owned(), name.clone()),
            ("org.opencontainers.image.version".to_owned(), version.to_owned()),
        ]);
        let artifact = Self::new((media::HELM_CONFIG, config), (media::HELM_CONTENT, archive.tar_gz()?), annotations)?;
        Ok((name, artifact))
    }

    /// The digest of its manifest, by which a registry knows it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Bytes of all its blobs.
    pub fn size(&self) -> u64 {
        self.blobs.iter().map(|(_, content)| content.len() as u64).sum()
    }

    pub(super) fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    pub(super) fn blobs(&self) -> &[(Digest, Vec<u8>)] {
        &self.blobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flux_artifact_is_reproducible() {
        let mut archive = Archive::new();
        archive.insert("a.yaml", "kind: List\n", false);
        let make = || {
            Artifact::flux(&archive, "https://example.org/r.git", "main@sha1:abc", jiff::Timestamp::UNIX_EPOCH).unwrap()
        };
        assert_eq!(make().digest(), make().digest());
        let manifest: serde_json::Value = serde_json::from_slice(make().manifest()).unwrap();
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.cncf.flux.config.v1+json");
        assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.cncf.flux.content.v1.tar+gzip");
        assert_eq!(manifest["annotations"]["org.opencontainers.image.created"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_chart_gets_its_version() {
        let mut files = Archive::new();
        files.insert("Chart.yaml", "apiVersion: v2\nname: demo\nversion: 0.0.0\n", false);
        files.insert("templates/a.yaml", "a: b\n", false);
        let (name, chart) = Artifact::helm_chart(&files, "0.1.0-g123").unwrap();
        assert_eq!(name, "demo");
        let config: serde_json::Value = serde_json::from_slice(&chart.blobs()[0].1).unwrap();
        assert_eq!(config["version"], "0.1.0-g123");
        let mut reader = tar::Archive::new(flate2::read::GzDecoder::new(chart.blobs()[1].1.as_slice()));
        let names: Vec<String> =
            reader.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["demo/", "demo/Chart.yaml", "demo/templates/", "demo/templates/a.yaml"]);
    }

    #[test]
    fn a_chart_without_name_is_refused() {
        let mut files = Archive::new();
        files.insert("Chart.yaml", "version: 1\n", false);
        let error = Artifact::helm_chart(&files, "1").unwrap_err().to_string();
        assert_eq!(error, "failed to package the chart: it has no name");
    }
}
