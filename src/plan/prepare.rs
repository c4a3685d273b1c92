//! A publication for looking at: what the bundle does not hold is noted, where `bootstrap` would refuse.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::bundle::Bundle;
use crate::environment::{Environment, Publication, Result, Tools, Variables};
use crate::failure::Failure;
use crate::git::Repository;

/// Stands in the place of a manifest that is not at hand; kustomize leaves out what is marked like this.
const PLACEHOLDER: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: not-in-the-bundle\n  annotations:\n    config.kubernetes.io/local-config: \"true\"\n";

/// A publication and what it lacks.
#[derive(Debug)]
pub struct Prepared {
    /// The publication.
    pub publication: Publication,
    /// URLs whose content the bundle does not hold.
    pub missing: Vec<String>,
}

/// Prepares a publication of the working tree or of the commit.
pub async fn prepare(
    repository: &Repository,
    environment: &Environment,
    bundle: &Bundle,
    tools: Tools<'_>,
    variables: &Variables,
    dirty: bool,
) -> Result<Prepared> {
    let missing = Mutex::new(BTreeSet::new());
    let upstream = |url: &str| {
        let found = bundle.manifest(url).map_err(Failure::from)?;
        Ok(Some(found.unwrap_or_else(|| {
            missing.lock().unwrap_or_else(PoisonError::into_inner).insert(url.to_owned());
            PLACEHOLDER.into()
        })))
    };
    let publication = Publication::prepare(repository, environment, tools, &upstream, variables, dirty).await?;
    let missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect();
    Ok(Prepared { publication, missing })
}
