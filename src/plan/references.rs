//! What objects refer to: it must be there, too.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Part, Plan, Problem, Target};
use crate::k8s::{DynamicObject, ObjectRef, reference};

/// Kind and name.
type Key = (String, String);

/// Finds what objects of Cluster API and Helm refer to and no part of the same cluster has.
pub fn check(plan: &Plan) -> Vec<Problem> {
    let mut problems = Vec::new();
    for cluster in [Target::Bootstrap, Target::Management] {
        let parts = || plan.parts.iter().filter(|part| part.cluster == cluster);
        // What another repository brings is not known.
        if parts().any(|part| part.elsewhere.is_some()) {
            continue;
        }
        let known: BTreeSet<Key> = parts().flat_map(|part| part.objects.iter().map(key)).collect();
        let kinds: BTreeSet<Served> = parts().flat_map(|part| part.objects.iter().flat_map(served)).collect();
        for part in parts() {
            for object in &part.objects {
                check_object(part, object, &known, &mut problems);
                // What is not at hand may bring anything.
                if plan.complete {
                    check_place(part, object, &known, &kinds, &mut problems);
                }
            }
        }
    }
    problems.sort();
    problems.dedup();
    problems
}

/// Namespaces that every cluster has.
const OWN: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// API version and kind.
type Served = (String, String);

/// What a definition defines.
fn served(object: &DynamicObject) -> Vec<Served> {
    let spec = &object.data["spec"];
    if object.types.as_ref().is_none_or(|types| types.kind != "CustomResourceDefinition") {
        return Vec::new();
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let versions = spec["versions"].as_array().into_iter().flatten().filter(|version| version["served"] == true);
    versions
        .map(|version| (format!("{}/{}", text(&spec["group"]), text(&version["name"])), text(&spec["names"]["kind"])))
        .collect()
}

/// Whether kinds of a group come with Kubernetes itself.
fn is_builtin(group: &str) -> bool {
    !group.contains('.') || (group.ends_with(".k8s.io") && !group.ends_with(".x-k8s.io"))
}

/// The namespace that an object is in, and the kind that it is of.
fn check_place(
    part: &Part,
    object: &DynamicObject,
    known: &BTreeSet<Key>,
    kinds: &BTreeSet<Served>,
    problems: &mut Vec<Problem>,
) {
    let named = reference(object);
    if !is_builtin(named.group()) && !kinds.contains(&(named.api_version.clone(), named.kind.clone())) {
        let (kind, version) = (&named.kind, &named.api_version);
        let others = kinds.iter().filter(|(_, other)| other == kind).map(|(version, _)| version.as_str());
        let others: Vec<&str> = others.collect();
        let remedy = if others.is_empty() {
            "correct apiVersion and kind, or enable the component that brings it".to_owned()
        } else {
            format!("use {}", others.join(" or "))
        };
        let message = format!("{named}: no component brings the kind {kind} of {version}");
        problems.push(problem(part, &named, "apiVersion", message, remedy));
    }
    if let Some(namespace) = named.namespace.as_deref().filter(|namespace| !OWN.contains(namespace))
        && !known.contains(&("Namespace".to_owned(), namespace.to_owned()))
    {
        let message = format!("{named}: nothing makes the namespace {namespace}");
        problems.push(problem(
            part,
            &named,
            "metadata.namespace",
            message,
            "add the Namespace to the component".into(),
        ));
    }
}

fn key(object: &DynamicObject) -> Key {
    let named = reference(object);
    (named.kind, named.name)
}

fn check_object(part: &Part, object: &DynamicObject, known: &BTreeSet<Key>, problems: &mut Vec<Problem>) {
    let named = reference(object);
    if !named.group().ends_with("cluster.x-k8s.io") && named.group() != "helm.toolkit.fluxcd.io" {
        return;
    }
    let mut found = Vec::new();
    collect(&object.data["spec"], "spec", &mut found);
    for (field, (kind, name)) in found {
        if known.contains(&(kind.clone(), name.clone())) {
            continue;
        }
        let near: Vec<&str> = known.iter().filter(|(other, _)| *other == kind).map(|(_, name)| name.as_str()).collect();
        let remedy = match crate::environment::nearest(&name, near.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None if near.is_empty() => format!("add a {kind} {name}, or enable the component that brings it"),
            None => format!("there are: {}", near.join(", ")),
        };
        let message = format!("{named} refers to {kind} {name} in {field}, which does not exist");
        problems.push(problem(part, &named, &field, message, remedy));
    }
}

fn problem(part: &Part, named: &ObjectRef, field: &str, message: String, remedy: String) -> Problem {
    Problem::object(&part.folder, named, field, message, remedy)
}

/// Finds references in a value: by the names that their fields have in Cluster API and Flux.
fn collect(value: &Value, path: &str, found: &mut Vec<(String, Key)>) {
    let text = |value: &Value, field: &str| value[field].as_str().map(str::to_owned);
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = format!("{path}.{name}");
                if name == "identityRef" {
                    // OpenStack's has no kind where it means a Secret.
                    let kind = text(field, "kind").unwrap_or_else(|| "Secret".into());
                    found.extend(text(field, "name").map(|name| (path, (kind, name))));
                } else if name.ends_with("Ref") {
                    if let (Some(kind), Some(name)) = (text(field, "kind"), text(field, "name")) {
                        found.push((path, (kind, name)));
                    }
                } else if name == "clusterName" {
                    found.extend(field.as_str().map(|name| (path, ("Cluster".to_owned(), name.to_owned()))));
                } else if (name == "resources" || name == "valuesFrom") && field.is_array() {
                    for (index, item) in field.as_array().into_iter().flatten().enumerate() {
                        if let (Some(kind), Some(name)) = (text(item, "kind"), text(item, "name"))
                            && item["optional"] != true
                        {
                            found.push((format!("{path}.{index}"), (kind, name)));
                        }
                    }
                } else {
                    collect(field, &path, found);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, &format!("{path}.{index}"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Backend;
    use crate::plan::By;

    fn plan(text: &str) -> Plan {
        let objects = crate::k8s::parse(text, "t").unwrap();
        let part = Part {
            cluster: Target::Management,
            by: By::Management,
            name: "cluster".into(),
            folder: "f".into(),
            after: Vec::new(),
            elsewhere: None,
            objects,
        };
        Plan {
            environment: "e".into(),
            backend: Backend::Local,
            management_cluster: "management-cluster".into(),
            revision: String::new(),
            chart: String::new(),
            digest: String::new(),
            parts: vec![part],
            notes: Vec::new(),
            complete: false,
            problems: Vec::new(),
        }
    }

    #[test]
    fn what_does_not_exist_is_named_with_the_field_that_refers_to_it() {
        let text = "apiVersion: cluster.x-k8s.io/v1beta2\nkind: Cluster\nmetadata: {name: a}\n\
            spec: {infrastructureRef: {kind: LocalCluster, name: a}, controlPlaneRef: {kind: LocalControlPlane, name: b}}\n---\n\
            apiVersion: infrastructure.cluster.x-k8s.io/v1alpha1\nkind: LocalCluster\nmetadata: {name: a}\nspec: {}\n---\n\
            apiVersion: cluster.x-k8s.io/v1beta2\nkind: MachineDeployment\nmetadata: {name: m}\nspec: {clusterName: aa}\n";
        let problems = check(&plan(text));
        let said: Vec<(&str, &str)> = problems.iter().map(|p| (p.message.as_str(), p.remedy.as_str())).collect();
        assert_eq!(
            said,
            [
                (
                    "Cluster a refers to LocalControlPlane b in spec.controlPlaneRef, which does not exist",
                    "add a LocalControlPlane b, or enable the component that brings it"
                ),
                (
                    "MachineDeployment m refers to Cluster aa in spec.clusterName, which does not exist",
                    "did you mean a?"
                ),
            ]
        );
    }

    #[test]
    fn identities_and_resources_are_references_and_optional_ones_are_not() {
        let text = "apiVersion: infrastructure.cluster.x-k8s.io/v1beta1\nkind: OpenStackCluster\nmetadata: {name: a}\nspec: {identityRef: {name: cloud}}\n---\n\
            apiVersion: addons.cluster.x-k8s.io/v1beta2\nkind: ClusterResourceSet\nmetadata: {name: a}\nspec: {resources: [{kind: ConfigMap, name: x}]}\n---\n\
            apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: a}\nspec: {valuesFrom: [{kind: ConfigMap, name: y, optional: true}]}\n";
        let fields: Vec<String> = check(&plan(text)).into_iter().map(|problem| problem.message).collect();
        assert_eq!(
            fields,
            [
                "ClusterResourceSet a refers to ConfigMap x in spec.resources.0, which does not exist",
                "OpenStackCluster a refers to Secret cloud in spec.identityRef, which does not exist",
            ]
        );
    }
}
