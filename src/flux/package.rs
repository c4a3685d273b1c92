//! Artifacts as they are pushed to a cluster's registry: the same content always has the same digest.

use super::{Error, Result};
use crate::git::{Revision, Tree};
use crate::oci::push::Registry;
use crate::oci::{Archive, Artifact, Digest};

/// The repository of the source artifact in a cluster's registry.
pub const SOURCE_REPOSITORY: &str = "cluster-init/source";

/// The repository of the chart in a cluster's registry.
pub const CHART_REPOSITORY: &str = "cluster-init/charts/telco-cloud-init";

/// An artifact with the place that it is pushed to.
#[derive(Clone, Debug)]
pub struct Package {
    /// The repository that it belongs to.
    pub repository: &'static str,
    /// Its tag.
    pub tag: String,
    /// Its content.
    pub artifact: Artifact,
}

impl Package {
    /// The source artifact of an assembled tree, as Flux' OCIRepository reads it: `origin` says where it comes from, `created`
    /// when it was committed.
    pub fn source(tree: &Tree, revision: &Revision, origin: &str, created: jiff::Timestamp) -> Result<Self> {
        let artifact = Artifact::flux(&archive(tree), origin, &revision.annotation(), created);
        let artifact = artifact.map_err(|source| Error::Pack { what: "the source".into(), source })?;
        Ok(Self { repository: SOURCE_REPOSITORY, tag: revision.tag(), artifact })
    }

    /// Whether a registry holds it.
    pub async fn is_in(&self, registry: &Registry) -> Result<bool> {
        Ok(registry.holds(self.repository, &self.tag, &self.artifact).await?)
    }

    /// Pushes it; pushing it again is fine.
    pub async fn push(&self, registry: &Registry) -> Result<Digest> {
        Ok(registry.push(self.repository, &self.tag, &self.artifact).await?)
    }
}

/// The files of a tree as an archive.
pub(super) fn archive(tree: &Tree) -> Archive {
    let mut archive = Archive::new();
    for (path, file) in tree.files() {
        archive.insert(path, file.content.clone(), file.executable);
    }
    archive
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::CommitId;

    #[test]
    fn equal_content_is_an_equal_package() {
        let mut tree = Tree::default();
        tree.insert("kustomize-components/a/kustomization.yaml", "resources: []\n");
        let revision = Revision::Commit(CommitId::new("0123456789abcdef"));
        let package = |tree: &Tree| Package::source(tree, &revision, "origin", jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(package(&tree).artifact.digest(), package(&tree.clone()).artifact.digest());
        assert_eq!(package(&tree).tag, "0123456789abcdef");
        let before = package(&tree).artifact.digest();
        tree.insert("kustomize-components/a/kustomization.yaml", "resources: [b]\n");
        assert_ne!(package(&tree).artifact.digest(), before);
    }
}
