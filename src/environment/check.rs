//! What can be known to be wrong before anything is deployed.

use serde_json::Value;

use super::{Error, Result};
use crate::flux::kustomize;
use crate::git::Tree;

/// Checks that the path of every rendered Kustomization that is served from the source artifact exists in it.
pub(super) fn paths(rendered: &[Value], source: &Tree) -> Result<()> {
    for object in rendered {
        if object["kind"] != "Kustomization"
            || object.pointer("/spec/sourceRef/kind") != Some(&Value::from("OCIRepository"))
        {
            continue;
        }
        let component = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let path = object.pointer("/spec/path").and_then(Value::as_str).unwrap_or_default();
        let folder = kustomize::join("", path.trim_start_matches('/'));
        if !folder.is_some_and(|folder| source.has_folder(&folder)) {
            return Err(Error::NoSuchPath { component: component.to_owned(), path: path.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_component_without_a_folder_is_named() {
        let mut tree = Tree::default();
        tree.insert("kustomize-components/capi/kustomization.yaml", "");
        let component = |path: &str, kind: &str| json!({"kind": "Kustomization", "metadata": {"name": "capi"}, "spec": {"path": path, "sourceRef": {"kind": kind}}});
        paths(&[component("./kustomize-components/capi", "OCIRepository")], &tree).unwrap();
        paths(&[component("./elsewhere", "GitRepository")], &tree).unwrap();
        let error = paths(&[component("./kustomize-components/cap", "OCIRepository")], &tree).unwrap_err();
        assert_eq!(error.to_string(), "components.capi.path: the repository has no folder ./kustomize-components/cap");
    }
}
