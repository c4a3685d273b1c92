//! The control plane's programs.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// Paths of the control plane's programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// kube-controller-manager.
    pub kube_controller_manager: PathBuf,
    /// kube-scheduler.
    pub kube_scheduler: PathBuf,
}

impl Programs {
    /// Finds the programs of a bundle.
    pub fn find(bundle: &Path) -> Result<Self> {
        let tool = |name: &str| {
            let path = bundle.join(name);
            if path.is_file() {
                Ok(path)
            } else {
                Err(Failure::preflight(format!("the bundle {} has no {name}", bundle.display()))
                    .hint("make or complete it: cluster-init bundle build"))
            }
        };
        Ok(Self {
            etcd: tool("etcd")?,
            kube_apiserver: tool("kube-apiserver")?,
            kube_controller_manager: tool("kube-controller-manager")?,
            kube_scheduler: tool("kube-scheduler")?,
        })
    }
}
