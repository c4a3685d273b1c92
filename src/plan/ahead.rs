//! What a cluster can be given before its Flux comes to it.

use serde_json::Value;

use super::{By, Part, Plan, Target};
use crate::flux;
use crate::k8s::{DynamicObject, apply_order, reference};

/// What Flux marks as a Kustomization's, and what tells it to treat an object in another way.
const FLUX: &str = "kustomize.toolkit.fluxcd.io/";
/// The end of Flux's own groups.
const FLUX_GROUPS: &str = ".toolkit.fluxcd.io";

/// Objects in the shape in which a cluster's Kustomizations will give them, so that Flux finds nothing to change.
#[derive(Debug, Default)]
pub struct Ahead {
    /// Whatever is of components that wait for no other.
    pub free: Vec<DynamicObject>,
    /// The namespaces and definitions of all others.
    pub definitions: Vec<DynamicObject>,
}

impl Ahead {
    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.free.len() + self.definitions.len()
    }
}

impl Plan {
    /// What a cluster can be given ahead of its Flux. What this program installs itself is not among it, nor what hands Flux more to
    /// do, nor what Flux may have to treat in another way than we would.
    pub fn ahead(&self, cluster: Target) -> Ahead {
        let mut ahead = Ahead::default();
        // What is wrong is for Flux to tell.
        if !self.problems.is_empty() {
            return ahead;
        }
        let by = if cluster == Target::Bootstrap { By::Bootstrap } else { By::Management };
        for part in self.parts.iter().filter(|part| part.cluster == cluster && part.by == by) {
            let Some(kustomization) = self.kustomization(cluster, &part.name) else { continue };
            if self.installs(&part.name) || !is_plain(kustomization, part) {
                continue;
            }
            let given = part.objects.iter().filter(|object| is_given_as_it_is(object));
            let objects: Vec<DynamicObject> = given.map(|object| labelled(object, kustomization)).collect();
            if part.after.is_empty() {
                ahead.free.extend(objects);
            } else {
                let [namespaces, definitions, _] = apply_order(objects);
                ahead.definitions.extend(namespaces.into_iter().chain(definitions));
            }
        }
        ahead
    }

    /// The Kustomization that the chart makes of a component.
    fn kustomization(&self, cluster: Target, name: &str) -> Option<&DynamicObject> {
        let made = self.parts.iter().filter(|part| part.cluster == cluster && part.by == By::Chart);
        let wanted = flux::kustomization(name);
        made.flat_map(|part| &part.objects).find(|object| {
            let found = reference(object);
            found.kind == wanted.kind && found.name == wanted.name
        })
    }

    /// Whether this program applies a component itself.
    fn installs(&self, name: &str) -> bool {
        self.parts.iter().any(|part| part.by == By::ClusterInit && !part.folder.is_empty() && part.name == name)
    }
}

/// Whether Flux applies a component now, with its own rights and as it stands in the repository, and gets no more to do by it.
fn is_plain(kustomization: &DynamicObject, part: &Part) -> bool {
    let spec = &kustomization.data["spec"];
    let set = |key: &str| spec.get(key).is_some_and(|value| !value.is_null());
    let hands_over = part.objects.iter().any(|object| reference(object).group().ends_with(FLUX_GROUPS));
    spec["suspend"] != true && !set("decryption") && !set("serviceAccountName") && !hands_over
}

/// Whether Flux would neither decrypt an object nor treat it in a way of its own.
fn is_given_as_it_is(object: &DynamicObject) -> bool {
    let special = |key: &String| key.starts_with(FLUX);
    let annotations = object.metadata.annotations.iter().flat_map(|all| all.keys());
    let labels = object.metadata.labels.iter().flat_map(|all| all.keys());
    object.data.get("sops").is_none_or(Value::is_null) && !annotations.chain(labels).any(special)
}

/// An object with the labels by which Flux knows whose it is.
fn labelled(object: &DynamicObject, kustomization: &DynamicObject) -> DynamicObject {
    let mut object = object.clone();
    let owner = reference(kustomization);
    let labels = object.metadata.labels.get_or_insert_default();
    labels.insert(format!("{FLUX}name"), owner.name);
    labels.insert(format!("{FLUX}namespace"), owner.namespace.unwrap_or_else(|| "default".to_owned()));
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Backend;

    fn part(by: By, name: &str, after: &[&str], manifests: &str) -> Part {
        Part {
            cluster: Target::Management,
            by,
            name: name.into(),
            folder: if by == By::Chart { String::new() } else { format!("k/{name}") },
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            elsewhere: None,
            objects: crate::k8s::parse(manifests, "t").unwrap(),
        }
    }

    /// A component of three objects with its Kustomization's spec.
    fn plan(after: &[&str], spec: &str, more: &str) -> Plan {
        let kustomization = format!(
            "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {{name: it, namespace: here}}\nspec: {spec}\n"
        );
        let objects = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: ns}}\n---\n\
             apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: d}}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\n---\n{more}"
        );
        Plan {
            environment: "local".into(),
            backend: Backend::Local,
            management_cluster: "m".into(),
            revision: "r".into(),
            chart: "0".into(),
            digest: "d".into(),
            parts: vec![part(By::Chart, "chart", &[], &kustomization), part(By::Management, "it", after, &objects)],
            notes: Vec::new(),
            complete: true,
            problems: Vec::new(),
        }
    }

    fn names(objects: &[DynamicObject]) -> String {
        objects.iter().map(|object| reference(object).name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn components_that_wait_for_nothing_come_whole_and_of_others_what_defines_kinds() {
        let free = plan(&[], "{}", "").ahead(Target::Management);
        assert_eq!((names(&free.free).as_str(), free.definitions.len()), ("ns d c", 0));
        let labels = free.free[0].metadata.labels.clone().unwrap();
        assert_eq!(labels["kustomize.toolkit.fluxcd.io/name"], "it");
        assert_eq!(labels["kustomize.toolkit.fluxcd.io/namespace"], "here");
        let waits = plan(&["other"], "{}", "").ahead(Target::Management);
        assert_eq!((waits.free.len(), names(&waits.definitions).as_str()), (0, "ns d"));
        assert_eq!(plan(&[], "{}", "").ahead(Target::Bootstrap).count(), 0, "it is another cluster's");
    }

    #[test]
    fn what_flux_would_not_give_as_it_is_stays_its() {
        let left = |spec, more| plan(&[], spec, more).ahead(Target::Management);
        for spec in ["{suspend: true}", "{decryption: {provider: sops}}", "{serviceAccountName: little}"] {
            assert_eq!(left(spec, "").count(), 0, "{spec}");
        }
        let release = "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: r}\n";
        assert_eq!(left("{}", release).count(), 0, "Flux would begin with the rest");
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nsops: {mac: x}\n";
        let once = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: o, annotations: {kustomize.toolkit.fluxcd.io/ssa: IfNotPresent}}\n";
        for special in [secret, once] {
            assert_eq!(names(&left("{suspend: false}", special).free), "ns d c");
        }
    }

    #[test]
    fn what_is_installed_already_or_wrong_is_left_alone() {
        let mut plan = plan(&[], "{}", "");
        plan.parts.push(part(By::ClusterInit, "it", &[], ""));
        assert_eq!(plan.ahead(Target::Management).count(), 0);
        plan.parts.pop();
        plan.problems.push(crate::plan::Problem::file("f", None, "m", "r"));
        assert_eq!(plan.ahead(Target::Management).count(), 0);
    }
}
