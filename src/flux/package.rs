//! Artifacts as they are pushed: the same content always has the same digest.

use std::collections::BTreeMap;
use std::io::Write;

use flate2::{Compression, GzBuilder};
use serde_json::json;

use super::{Error, Result};
use crate::git::{Revision, Tree};

/// The repository of the source artifact in a cluster's registry.
pub const SOURCE_REPOSITORY: &str = "cluster-init/source";

/// The repository of the chart in a cluster's registry.
pub const CHART_REPOSITORY: &str = "cluster-init/charts/telco-cloud-init";

/// An artifact with one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// The repository that it belongs to.
    pub repository: &'static str,
    /// Its tag.
    pub tag: String,
    /// Media type of the configuration.
    pub config_type: &'static str,
    /// The configuration, JSON.
    pub config: Vec<u8>,
    /// Media type of the layer.
    pub layer_type: &'static str,
    /// The layer, a compressed archive.
    pub layer: Vec<u8>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// The source artifact of an assembled tree, as Flux' OCIRepository reads it.
pub fn source_package(tree: &Tree, revision: &Revision, url: Option<&str>) -> Result<Package> {
    let mut annotations = BTreeMap::from([("org.opencontainers.image.revision".to_owned(), revision.tag())]);
    if let Some(url) = url {
        annotations.insert("org.opencontainers.image.source".into(), url.into());
    }
    Ok(Package {
        repository: SOURCE_REPOSITORY,
        tag: revision.tag(),
        config_type: "application/vnd.cncf.flux.config.v1+json",
        config: json!({}).to_string().into_bytes(),
        layer_type: "application/vnd.cncf.flux.content.v1.tar+gzip",
        layer: archive(tree, "", "the source")?,
        annotations,
    })
}

/// A compressed archive of a tree, below `prefix`; bytes depend on the content only.
pub(super) fn archive(tree: &Tree, prefix: &str, what: &str) -> Result<Vec<u8>> {
    let fail = |source| Error::Pack { what: what.to_owned(), source };
    let mut builder = tar::Builder::new(Vec::new());
    for (path, file) in tree.files() {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.content.len() as u64);
        header.set_mode(if file.executable { 0o755 } else { 0o644 });
        // An archive from the epoch: dates would make equal content differ.
        header.set_mtime(0);
        builder.append_data(&mut header, format!("{prefix}{path}"), file.content.as_slice()).map_err(fail)?;
    }
    let plain = builder.into_inner().map_err(fail)?;
    let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::default());
    gzip.write_all(&plain).and_then(|()| gzip.finish()).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::CommitId;

    #[test]
    fn equal_content_is_an_equal_package() {
        let mut tree = Tree::default();
        tree.insert("kustomize-components/a/kustomization.yaml", "resources: []\n");
        tree.insert(format!("{}/long.yaml", "d".repeat(150)), "x");
        let revision = Revision::Commit(CommitId::new("0123456789abcdef"));
        let one = source_package(&tree, &revision, None).unwrap();
        assert_eq!(one, source_package(&tree.clone(), &revision, None).unwrap());
        assert_eq!(one.tag, "0123456789abcdef");
        let mut names = Vec::new();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(one.layer.as_slice()));
        for entry in archive.entries().unwrap() {
            names.push(entry.unwrap().path().unwrap().display().to_string());
        }
        assert_eq!(names.len(), 2);
        assert!(names.contains(&"kustomize-components/a/kustomization.yaml".to_owned()));
    }
}
