//! Flux and the registry on a cluster that has neither.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::kustomize;
use super::{COMPONENTS, Error, temporary};
use crate::clock::{Deadline, Look, Wait};
use crate::failure::{self, Failure};
use crate::git::Tree;
use crate::k8s::{Cluster, DynamicObject, ObjectRef, parse, readiness, reference};

/// A component's objects, as kustomize renders them.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The component's folder.
    pub component: String,
    /// Its objects.
    pub objects: Vec<DynamicObject>,
}

impl Rendered {
    /// The Deployments among the objects.
    pub fn deployments(&self) -> Vec<ObjectRef> {
        self.objects.iter().map(reference).filter(|object| object.kind == "Deployment").collect()
    }
}

/// Renders folders below `kustomize-components` of an assembled tree.
pub async fn render(kustomize: &Path, assembled: &Tree, components: &[&str]) -> failure::Result<Vec<Rendered>> {
    let folder = temporary()?;
    assembled.write_to(folder.path()).map_err(Error::from)?;
    let builds = components.iter().map(async |component| {
        let path = format!("{COMPONENTS}/{component}");
        if !assembled.has_folder(&path) {
            return Err(Failure::from(Error::NoFolder { folder: path }));
        }
        let text = kustomize::build(kustomize, &folder.path().join(&path)).await?;
        let objects = parse(&text, &path)?;
        Ok(Rendered { component: (*component).to_owned(), objects })
    });
    futures::future::try_join_all(builds).await
}

/// Applies rendered components and waits until their Deployments are available. The kinds that they define are served then,
/// too: [`Cluster::apply_all`] waits for discovery, because Flux' controllers end at once without it.
pub async fn install(
    cluster: &Cluster,
    rendered: &[Rendered],
    deadline: Deadline,
    cancel: &CancellationToken,
) -> failure::Result<()> {
    let objects = rendered.iter().flat_map(|component| component.objects.iter().cloned()).collect();
    cluster.apply_all(objects, deadline, cancel).await?;
    let deployments: Vec<ObjectRef> = rendered.iter().flat_map(Rendered::deployments).collect();
    wait_available(cluster, &deployments, deadline, cancel).await
}

/// Waits until all of these objects are ready.
pub async fn wait_available(
    cluster: &Cluster,
    objects: &[ObjectRef],
    deadline: Deadline,
    cancel: &CancellationToken,
) -> failure::Result<()> {
    Wait::new(format!("{} workloads on the {} cluster", objects.len(), cluster.name()), deadline.left())
        .within(deadline, cancel)
        .every(Duration::from_millis(100))
        .until(async || {
            for object in objects {
                let state = match cluster.get(object).await {
                    Ok(Some(found)) => match readiness(&found) {
                        state if state.is_ready() => continue,
                        state => state.state().to_owned(),
                    },
                    Ok(None) => "it does not exist".into(),
                    Err(error) if error.transient() => error.to_string(),
                    Err(error) => return Err(error.into()),
                };
                return Ok(Look::Pending(format!("{object}: {state}")));
            }
            Ok(Look::Ready(()))
        })
        .await
}
