//! The folder in which everything of one user lives.

use std::path::{Path, PathBuf};

use super::config::NodeName;
use crate::failure::{Failure, Result};
use crate::fsx;

/// The variable that names the folder.
pub const HOME_VARIABLE: &str = "CLUSTER_INIT_HOME";

/// The variable that names the bundle in use.
pub const BUNDLE_VARIABLE: &str = "CLUSTER_INIT_BUNDLE";

/// `$CLUSTER_INIT_HOME`: nodes, runs, the default bundle and the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The folder that the environment names: `CLUSTER_INIT_HOME`, `$XDG_DATA_HOME/cluster-init` or
    /// `~/.local/share/cluster-init`; made (mode 0700) when there is none.
    pub fn resolve() -> Result<Self> {
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = var(HOME_VARIABLE)
            .or_else(|| var("XDG_DATA_HOME").map(|path| path.join("cluster-init")))
            .or_else(|| var("HOME").map(|path| path.join(".local/share/cluster-init")))
            .ok_or_else(|| {
                Failure::usage("there is no folder for cluster-init's data: neither HOME nor CLUSTER_INIT_HOME is set")
                    .hint("export CLUSTER_INIT_HOME=/path/to/a/folder")
            })?;
        Self::at(&root)
    }

    /// The given folder, made (mode 0700) when there is none.
    pub fn at(root: &Path) -> Result<Self> {
        fsx::create_private_dir(root)?;
        let root = std::path::absolute(root).map_err(|error| {
            Failure::failed(format!("failed to find the folder {}", root.display())).caused_by(error)
        })?;
        Ok(Self { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The default bundle.
    pub fn bundle(&self) -> PathBuf {
        self.root.join("bundle")
    }

    /// Folders of nodes.
    pub fn nodes(&self) -> PathBuf {
        self.root.join("nodes")
    }

    /// The folder of one node.
    pub fn node(&self, name: &NodeName) -> PathBuf {
        self.nodes().join(name.as_str())
    }

    /// Folders of runs.
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Folders of what was done to existing clusters.
    pub fn applies(&self) -> PathBuf {
        self.root.join("applies")
    }

    /// Folders of what was taken away.
    pub fn cleanups(&self) -> PathBuf {
        self.root.join("cleanups")
    }

    /// Unpacked image layers by digest, shared by all nodes.
    pub fn unpacked(&self) -> PathBuf {
        self.root.join("cache").join("unpacked")
    }

    /// What was made of components before.
    pub fn rendered(&self) -> PathBuf {
        self.cache().join("rendered")
    }

    /// What API servers have said to objects before.
    pub fn answers(&self) -> PathBuf {
        self.cache().join("answers")
    }

    /// What may be removed at any time.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }
}
