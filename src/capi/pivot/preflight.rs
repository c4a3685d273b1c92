//! What is asked of the target before anything is copied: does it serve, have and accept what would come.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::StreamExt;
use kube::api::{DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use serde_json::Value;

use super::copy::{self, Copy};
use crate::capi::graph::{Graph, Node, Uid};
use crate::capi::plan::Facts;
use crate::capi::{GROUP, OF_PROVIDER, Result, differences, discover};
use crate::k8s::{self, Cluster, ObjectRef, reference};

/// How many requests are in flight at once.
const PARALLEL: usize = 16;

/// Learns what a plan must know of the target.
pub(super) async fn facts(source: &Cluster, target: &Cluster, graph: &Graph, id: &str) -> Result<Facts> {
    let kinds: HashSet<GroupVersionKind> =
        graph.nodes.values().filter(|n| n.in_scope).map(|n| n.reference.gvk()).collect();
    let mut facts = Facts::default();
    if kinds.is_empty() {
        return Ok(facts);
    }
    let (served, lacking) = tokio::try_join!(served(target, kinds), lacking(source, target))?;
    (facts.served, facts.lacking) = (served, lacking);
    let there = discover::of_kinds(target, &facts.served).await?;
    let ours = copy::ours(&there.iter(), id);
    facts.existing = there.iter().filter(|o| !ours.contains(&Uid::of(o))).map(reference).collect();
    facts.tried = tried(target, graph, &facts, id).await?;
    Ok(facts)
}

/// Which of the kinds a cluster serves.
async fn served(cluster: &Cluster, kinds: HashSet<GroupVersionKind>) -> Result<HashSet<GroupVersionKind>> {
    let asked = kinds.into_iter().map(async |kind| match cluster.resource(&kind).await {
        Ok(_) => Some(Ok(kind)),
        Err(k8s::Error::UnknownKind { .. }) => None,
        Err(error) => Some(Err(error.into())),
    });
    let answers: Vec<_> = futures::stream::iter(asked).buffer_unordered(PARALLEL).collect().await;
    answers.into_iter().flatten().collect()
}

/// Providers that the target lacks, or has in an older version; and a Cluster API that is not the one we know.
async fn lacking(source: &Cluster, target: &Cluster) -> Result<Vec<(ObjectRef, String, String)>> {
    let mut lacking = Vec::new();
    let name = format!("clusters.{GROUP}");
    let (here, there, have, want) = tokio::try_join!(
        discover::definition(source, &name),
        discover::definition(target, &name),
        providers(target),
        providers(source)
    )?;
    for (cluster, definition) in [(source, here), (target, there)] {
        if let Some(stored) =
            definition.as_ref().map(discover::Definition::stored).filter(|stored| *stored != "v1beta2")
        {
            lacking.push((
                ObjectRef::global("apiextensions.k8s.io/v1", "CustomResourceDefinition", &name),
                format!(
                    "the {} cluster stores Clusters as {stored}, and v1beta2 is what is known here",
                    cluster.name()
                ),
                "upgrade Cluster API there".into(),
            ));
        }
    }
    for (provider, (object, version)) in want {
        let reason = match have.get(&provider) {
            None => format!("provider {provider} does not run on the target"),
            Some((_, there)) if older(there, &version) => {
                format!("provider {provider} is {there} on the target and {version} on the source")
            }
            Some(_) => continue,
        };
        lacking.push((object, reason, "install on the target the version that the source has, or a newer one".into()));
    }
    Ok(lacking)
}

/// The providers of a cluster and their versions: from clusterctl's inventory and from the Deployments that run.
async fn providers(cluster: &Cluster) -> Result<BTreeMap<String, (ObjectRef, String)>> {
    let inventory = GroupVersionKind::gvk("clusterctl.cluster.x-k8s.io", "v1alpha3", "Provider");
    let deployments = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let (inventory, deployments) =
        tokio::try_join!(cluster.list(&inventory, None, None), cluster.list(&deployments, None, Some(OF_PROVIDER)))?;
    let mut found = BTreeMap::new();
    for object in deployments {
        let image = object.data.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str);
        let label = object.metadata.labels.as_ref().and_then(|l| l.get(OF_PROVIDER)).cloned().unwrap_or_default();
        found.insert(label, (reference(&object), tag(image.unwrap_or_default())));
    }
    for object in inventory {
        let labels = object.metadata.labels.as_ref();
        let label =
            labels.and_then(|l| l.get(OF_PROVIDER)).or(object.metadata.name.as_ref()).cloned().unwrap_or_default();
        let version = object.data["version"].as_str().unwrap_or_default().to_owned();
        found.insert(label, (reference(&object), version));
    }
    Ok(found)
}

/// The tag of an image.
fn tag(image: &str) -> String {
    let without_digest = image.split('@').next().unwrap_or_default();
    without_digest.rsplit_once(':').map(|(_, tag)| tag.to_owned()).filter(|t| !t.contains('/')).unwrap_or_default()
}

/// Whether a version is older than another; versions that cannot be read are not compared.
fn older(version: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Option<Vec<u64>> {
        let core = text.strip_prefix('v')?.split(['-', '+']).next()?;
        core.split('.').map(|part| part.parse().ok()).collect()
    };
    matches!((numbers(version), numbers(than)), (Some(a), Some(b)) if a < b)
}

/// Tries to create objects without creating them: one of each kind, for schemas that drop or refuse fields, and all
/// of the kinds that a webhook of the target looks at.
async fn tried(
    target: &Cluster,
    graph: &Graph,
    facts: &Facts,
    id: &str,
) -> Result<BTreeMap<ObjectRef, Result<crate::capi::parity::Differences, String>>> {
    let namespaces = GroupVersionKind::gvk("", "v1", "Namespace");
    let namespaces = async { Ok(target.list(&namespaces, None, None).await?) };
    let (namespaces, hooked) = tokio::try_join!(namespaces, hooked(target, "CREATE"))?;
    let namespaces: HashSet<String> = namespaces.into_iter().filter_map(|n| n.metadata.name).collect();
    let mut seen: HashMap<GroupVersionKind, bool> = HashMap::new();
    let mut trials = Vec::new();
    for node in graph.nodes.values().filter(|node| may_be_tried(node, facts, &namespaces)) {
        let gvk = node.reference.gvk();
        let (resource, _) = target.resource(&gvk).await?;
        let first = seen.insert(gvk, true).is_none();
        if first || hooked.contains(&format!("{}/{}", node.reference.group(), resource.plural)) {
            trials.push(node);
        }
    }
    let tries = trials.into_iter().map(async |node: &Node| {
        let answer = trial(target, &node.object, id).await?;
        Ok::<_, crate::capi::Error>(answer.map(|answer| (node.reference.clone(), answer)))
    });
    let answers: Vec<_> = futures::stream::iter(tries).buffer_unordered(PARALLEL).collect().await;
    answers.into_iter().filter_map(Result::transpose).collect()
}

fn may_be_tried(node: &Node, facts: &Facts, namespaces: &HashSet<String>) -> bool {
    node.in_scope
        && facts.served.contains(&node.reference.gvk())
        && !facts.existing.contains(&node.reference)
        && node.object.metadata.deletion_timestamp.is_none()
        && node.reference.namespace.as_ref().is_none_or(|namespace| namespaces.contains(namespace))
}

/// What the target says to one object; `None` when it has it already or cannot say now: creating it will tell.
async fn trial(
    target: &Cluster,
    source: &DynamicObject,
    id: &str,
) -> Result<Option<Result<crate::capi::parity::Differences, String>>> {
    let copy = Copy::of(source, None, &BTreeMap::new(), &BTreeSet::new(), id);
    let named = reference(source);
    let api = target.api(&named.gvk(), named.namespace.as_deref()).await?;
    let params = PostParams { dry_run: true, field_manager: Some(copy.manager.clone()) };
    Ok(match api.create(&params, &copy.object).await {
        Ok(made) => {
            let uids = source.metadata.owner_references.iter().flatten().map(|o| Uid(o.uid.clone()));
            let uids = uids.map(|uid| (uid.clone(), uid)).collect();
            Some(Ok(differences(source, &made, &uids)))
        }
        Err(kube::Error::Api(status)) if status.code == 409 => None,
        Err(error) => {
            let said = k8s::reason(&error);
            let error = k8s::Error::Request { cluster: String::new(), action: String::new(), source: Box::new(error) };
            // A webhook that is not up yet is waited for when the object is created.
            (!error.transient()).then_some(Err(said))
        }
    })
}

/// The kinds that webhooks of a cluster look at when something is done to them, as `group/plural`.
pub(super) async fn hooked(cluster: &Cluster, operation: &str) -> Result<HashSet<String>> {
    let mut found = HashSet::new();
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        for object in cluster.list(&gvk, None, None).await? {
            for rule in object.data["webhooks"].as_array().into_iter().flatten().flat_map(rules) {
                let has = |field: &str, wanted: &str| {
                    rule[field].as_array().is_some_and(|all| all.iter().any(|v| v == wanted || v == "*"))
                };
                if !has("operations", operation) {
                    continue;
                }
                for group in strings(&rule["apiGroups"]) {
                    found.extend(strings(&rule["resources"]).map(|plural| format!("{group}/{plural}")));
                }
            }
        }
    }
    Ok(found)
}

fn rules(webhook: &Value) -> impl Iterator<Item = &Value> {
    webhook["rules"].as_array().into_iter().flatten()
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(older("v1.9.3", "v1.10.0"));
        assert!(!older("v1.10.0", "v1.9.3"));
        assert!(!older("v1.10.0", "v1.10.0"));
        assert!(!older("latest", "v1.10.0"), "what cannot be read is not compared");
        assert_eq!(tag("registry.k8s.io/cluster-api/capi:v1.13.4@sha256:aa"), "v1.13.4");
        assert_eq!(tag("localhost:5000/capi"), "");
    }
}
