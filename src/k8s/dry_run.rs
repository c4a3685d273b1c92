//! What an API server would make of an object, without keeping it.

use kube::api::{Api, DynamicObject, Patch, PatchParams, ValidationDirective};

use super::{Cluster, Error, Result, reference};

impl Cluster {
    /// Has the API server apply an object for `manager` as a dry run: defaults, schema, admission, but nothing is kept. With
    /// `strict` a field that the kind does not have is an error.
    pub async fn dry_run(&self, object: &DynamicObject, manager: &str, strict: bool) -> Result<DynamicObject> {
        let named = reference(object);
        let (resource, namespaced) = self.resource(&named.gvk()).await?;
        let api: Api<DynamicObject> = match &named.namespace {
            Some(namespace) if namespaced => Api::namespaced_with(self.client().clone(), namespace, &resource),
            None if namespaced => Api::default_namespaced_with(self.client().clone(), &resource),
            _ => Api::all_with(self.client().clone(), &resource),
        };
        let mut params = PatchParams::apply(manager).force().dry_run();
        params.field_validation = strict.then_some(ValidationDirective::Strict);
        let applied = api.patch(&named.name, &params, &Patch::Apply(object)).await;
        applied.map_err(|source| Error::Request {
            cluster: self.name().to_owned(),
            action: format!("apply {named} as a dry run"),
            source: Box::new(source),
        })
    }
}
