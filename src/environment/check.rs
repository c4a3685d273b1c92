//! What can be known to be wrong before anything is deployed.

use serde_json::Value;

use super::{Error, MANAGEMENT_CLUSTER, Result};
use crate::flux::{self, Missing, kustomize};
use crate::git::Tree;
use crate::yaml;

/// Checks that the path of every rendered Kustomization that is served from the source artifact exists in it, and that
/// nothing that it is built from is missing.
pub(super) fn paths(rendered: &[Value], source: &Tree, missing: &[Missing]) -> Result<()> {
    for object in rendered {
        let from = &object["spec"]["sourceRef"];
        // A Git repository of this name is this one; others are a component's own.
        let ours = from["kind"] == "OCIRepository" || from["name"] == flux::source().name;
        if object["kind"] != "Kustomization" || !ours {
            continue;
        }
        let component = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        let path = object.pointer("/spec/path").and_then(Value::as_str).unwrap_or_default();
        let folder = kustomize::join("", path.trim_start_matches('/'));
        let Some(folder) = folder.filter(|folder| source.has_folder(folder)) else {
            return Err(Error::NoSuchPath { component: component.to_owned(), path: path.to_owned() });
        };
        if let Some(missing) = lacks(source, &folder, missing).next() {
            return Err(missing.error().into());
        }
    }
    Ok(())
}

/// Checks that the definition of the management cluster takes the name that the values give it: else everything would wait for a cluster
/// that never comes.
pub(super) fn cluster_name(rendered: &[Value], source: &Tree, name: &str) -> Result<()> {
    if name == MANAGEMENT_CLUSTER {
        return Ok(());
    }
    let Some(folder) = definition(rendered, source) else { return Ok(()) };
    let folders = kustomize::closure(source, &folder);
    let takes = source
        .files()
        .any(|(path, file)| is_in(path, &folders) && String::from_utf8_lossy(&file.content).contains("${CLUSTER_NAME"));
    if takes { Ok(()) } else { Err(Error::FixedName { name: name.to_owned(), folder }) }
}

/// The kind of infrastructure that the definition of the management cluster asks for (`OpenStackCluster`), as its files name it.
pub(super) fn infrastructure(rendered: &[Value], source: &Tree) -> Option<String> {
    let folder = definition(rendered, source)?;
    let folders = kustomize::closure(source, &folder);
    let documents = source.files().filter(|(path, _)| is_in(path, &folders)).flat_map(|(path, file)| {
        // What is no YAML is reported by whoever builds it.
        yaml::documents(&String::from_utf8_lossy(&file.content), path).unwrap_or_default()
    });
    let kind =
        |object: Value| object.pointer("/spec/infrastructureRef/kind").and_then(Value::as_str).map(str::to_owned);
    documents.into_iter().filter(|object| object["kind"] == "Cluster").find_map(kind)
}

/// The folder that defines the management cluster, when the source has it.
fn definition(rendered: &[Value], source: &Tree) -> Option<String> {
    let definition = rendered.iter().find(|object| {
        object["kind"] == "Kustomization"
            && object["metadata"]["name"] == "cluster"
            && object["spec"]["sourceRef"]["name"] == flux::source().name
    });
    let path = definition.and_then(|object| object["spec"]["path"].as_str()).unwrap_or_default();
    kustomize::join("", path.trim_start_matches('/')).filter(|folder| source.has_folder(folder))
}

/// Whether a path lies in one of some folders.
fn is_in(path: &str, folders: &[String]) -> bool {
    folders.iter().any(|folder| path.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/')))
}

/// What a folder, or one that it builds on, lacks.
pub fn lacks<'a>(source: &Tree, folder: &str, missing: &'a [Missing]) -> impl Iterator<Item = &'a Missing> {
    // Most lack nothing, and the folders need not be read.
    let folders = if missing.is_empty() { Vec::new() } else { kustomize::closure(source, folder) };
    missing.iter().filter(move |missing| folders.contains(&missing.folder))
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
        paths(&[component("./kustomize-components/capi", "OCIRepository")], &tree, &[]).unwrap();
        paths(&[component("./elsewhere", "GitRepository")], &tree, &[]).unwrap();
        let error = paths(&[component("./kustomize-components/cap", "OCIRepository")], &tree, &[]).unwrap_err();
        assert_eq!(error.to_string(), "components.capi.path: the repository has no folder ./kustomize-components/cap");
    }

    #[test]
    fn a_definition_that_names_its_cluster_itself_takes_no_other_name() {
        let mut tree = Tree::default();
        tree.insert("k/own/kustomization.yaml", "resources: [cluster.yaml]\n");
        tree.insert("k/own/cluster.yaml", "metadata: {name: management-cluster}\n");
        tree.insert("k/any/kustomization.yaml", "resources: [../base]\n");
        tree.insert("k/base/kustomization.yaml", "resources: [cluster.yaml]\n");
        tree.insert("k/base/cluster.yaml", "metadata: {name: '${CLUSTER_NAME}'}\n");
        let rendered = |path: &str| {
            [
                json!({"kind": "Kustomization", "metadata": {"name": "cluster"}, "spec": {"path": path, "sourceRef": {"kind": "OCIRepository", "name": flux::source().name}}}),
            ]
        };
        cluster_name(&rendered("./k/own"), &tree, MANAGEMENT_CLUSTER).unwrap();
        cluster_name(&rendered("./k/any"), &tree, "second").unwrap();
        let error = cluster_name(&rendered("./k/own"), &tree, "second").unwrap_err();
        assert_eq!(error.to_string(), "cluster.name: second, but k/own names its cluster itself");
    }

    #[test]
    fn the_infrastructure_of_the_management_cluster_is_found_in_its_definition() {
        let mut tree = Tree::default();
        tree.insert("k/own/kustomization.yaml", "resources: [../base]\n");
        let cluster = "kind: Secret\n---\nkind: Cluster\nspec:\n  infrastructureRef:\n    kind: OpenStackCluster\n    name: ${N:=x}\n";
        tree.insert("k/base/kustomization.yaml", "resources: [cluster.yaml]\n");
        tree.insert("k/base/cluster.yaml", cluster);
        let rendered = |path: &str| {
            [
                json!({"kind": "Kustomization", "metadata": {"name": "cluster"}, "spec": {"path": path, "sourceRef": {"name": flux::source().name}}}),
            ]
        };
        assert_eq!(infrastructure(&rendered("./k/own"), &tree).as_deref(), Some("OpenStackCluster"));
        assert_eq!(infrastructure(&rendered("./k/elsewhere"), &tree), None);
        assert_eq!(infrastructure(&[], &tree), None);

        // Those of this repository.
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let kinds = [("local", "Local"), ("kubeadm-capd", "Docker"), ("rke2-capd", "Docker")];
        for (name, kind) in kinds.into_iter().chain([("kubeadm-capo", "OpenStack"), ("rke2-capo", "OpenStack")]) {
            let folder = format!("kustomize-components/management-cluster/{name}");
            let mut tree = Tree::default();
            for file in crate::fsx::list(&root.join(&folder)).unwrap() {
                tree.insert(format!("{folder}/{file}"), crate::fsx::read(&root.join(&folder).join(&file)).unwrap());
            }
            let found = infrastructure(&rendered(&format!("./{folder}")), &tree);
            assert_eq!(found, Some(format!("{kind}Cluster")), "{name}");
        }
    }

    #[test]
    fn what_an_enabled_component_lacks_is_named_and_others_may_lack_it() {
        let mut tree = Tree::default();
        tree.insert("k/a/kustomization.yaml", "resources: [../b]\n");
        tree.insert("k/b/kustomization.yaml", "");
        tree.insert("k/c/kustomization.yaml", "");
        let (folder, file) = ("k/b".to_owned(), "k/b/kustomization.yaml".to_owned());
        let missing = [Missing { folder, file, line: 3, url: "https://x/y".into(), resource: true }];
        let component = |path: &str| json!({"kind": "Kustomization", "metadata": {"name": "a"}, "spec": {"path": path, "sourceRef": {"kind": "OCIRepository"}}});
        paths(&[component("./k/c")], &tree, &missing).unwrap();
        let error = paths(&[component("./k/a")], &tree, &missing).unwrap_err();
        assert_eq!(error.to_string(), "k/b/kustomization.yaml:3: https://x/y is not in the bundle");
    }
}
