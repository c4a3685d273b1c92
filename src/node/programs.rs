//! The control plane's programs, from the bundle.

use std::path::{Path, PathBuf};

use crate::bundle::Bundle;
use crate::failure::Result;

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
    /// Finds the programs of a bundle, and unpacks those that are not yet in the cache.
    pub async fn find(bundle: &Path, cache: &Path) -> Result<Self> {
        let bundle = Bundle::open(bundle, cache)?;
        let (etcd, kube_apiserver, kube_controller_manager, kube_scheduler) = tokio::try_join!(
            bundle.tool_async("etcd"),
            bundle.tool_async("kube-apiserver"),
            bundle.tool_async("kube-controller-manager"),
            bundle.tool_async("kube-scheduler"),
        )?;
        Ok(Self { etcd, kube_apiserver, kube_controller_manager, kube_scheduler })
    }
}
