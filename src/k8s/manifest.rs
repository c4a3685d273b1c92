//! Manifests: text to objects, and the order in which objects can be applied.

use kube::api::DynamicObject;

use super::{Error, Result};
use crate::yaml;

/// Reads every object of a YAML stream; a `List` is taken apart.
pub fn parse(text: &str, origin: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for (index, value) in yaml::documents(text, origin)?.into_iter().enumerate() {
        let fail = |reason: String| Error::Manifest { origin: origin.to_owned(), document: index + 1, reason };
        let items = match value.get("items") {
            Some(items) if value["kind"].as_str().is_some_and(|k| k.ends_with("List")) => {
                items.as_array().cloned().unwrap_or_default()
            }
            _ => vec![value],
        };
        for item in items {
            let object: DynamicObject =
                serde_json::from_value(item).map_err(|e| fail(format!("not a Kubernetes object: {e}")))?;
            if object.types.is_none() {
                return Err(fail("apiVersion and kind are missing".into()));
            }
            if object.metadata.name.is_none() {
                return Err(fail("metadata.name is missing".into()));
            }
            objects.push(object);
        }
    }
    Ok(objects)
}

/// Splits objects into waves: what others live in, what defines kinds, then the rest.
pub fn apply_order(objects: Vec<DynamicObject>) -> [Vec<DynamicObject>; 3] {
    let mut waves = [Vec::new(), Vec::new(), Vec::new()];
    for object in objects {
        let kind = object.types.as_ref().map_or("", |t| t.kind.as_str());
        let wave = match kind {
            "Namespace" => 0,
            "CustomResourceDefinition" => 1,
            _ => 2,
        };
        waves[wave].push(object);
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_apart_and_waves_ordered() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: b}}\n";
        let [namespaces, crds, rest] = apply_order(parse(text, "t").unwrap());
        assert_eq!((namespaces.len(), crds.len(), rest.len()), (1, 0, 1));
    }

    #[test]
    fn errors_name_the_document() {
        let error = parse("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\na: 1\n", "x.yaml").unwrap_err();
        assert_eq!(error.to_string(), "x.yaml, document 2: apiVersion and kind are missing");
    }
}
