//! Images that pods and machines are made from must be in the bundle.

use serde_json::Value;

use crate::bundle::Bundle;
use crate::environment::nearest;
use crate::k8s::reference;
use crate::oci::Reference;
use crate::plan::{Plan, Problem, machine_image};

/// Images that look like a misspelt one of the bundle are wrong; others are noted, for a site may have them elsewhere.
pub fn check(plan: &Plan, bundle: &Bundle) -> (Vec<Problem>, Vec<String>) {
    let known: Vec<&str> = bundle.images().collect();
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    for part in &plan.parts {
        for object in &part.objects {
            let machine = machine_image(object).map(|(field, image)| (field.to_owned(), image.to_owned()));
            for (field, image) in images(&object.data).into_iter().chain(machine) {
                if bundle.image(&image).is_ok() {
                    continue;
                }
                let named = reference(object);
                // As the bundle names it: with its registry.
                let full = image.parse::<Reference>().map_or_else(|_| image.clone(), |full| full.to_string());
                match nearest(&full, known.iter().copied()).filter(|near| likely(&full, near)) {
                    Some(near) => problems.push(Problem::object(
                        &part.folder,
                        &named,
                        field,
                        format!("{named}: image {image} is not in the bundle"),
                        format!("did you mean {near}?"),
                    )),
                    None => notes.push(format!(
                        "image {image} is not in the bundle: a cluster without network cannot run {named}"
                    )),
                }
            }
        }
    }
    problems.sort();
    problems.dedup();
    notes.sort();
    notes.dedup();
    (problems, notes)
}

/// Whether one was meant for the other: the same repository in another version, or a letter or two.
fn likely(written: &str, near: &str) -> bool {
    let repository = |image: &str| image.rsplit_once(':').map_or(image, |(repository, _)| repository).to_owned();
    repository(written) == repository(near)
        || nearest(&repository(written), [repository(near).as_str()]).is_some_and(|_| {
            let (a, b) = (repository(written), repository(near));
            a.len().abs_diff(b.len()) <= 2 && a.chars().zip(b.chars()).filter(|(x, y)| x != y).count() * 4 <= a.len()
        })
}

/// The images of an object's pods, with their fields.
fn images(data: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for pod in ["spec", "spec.template.spec", "spec.jobTemplate.spec.template.spec"] {
        let Some(spec) = data.pointer(&format!("/{}", pod.replace('.', "/"))) else { continue };
        for list in ["initContainers", "containers"] {
            for (index, container) in spec[list].as_array().into_iter().flatten().enumerate() {
                if let Some(image) = container["image"].as_str() {
                    found.push((format!("{pod}.{list}.{index}.image"), image.to_owned()));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_of_every_workload_are_found() {
        let pod = json!({"initContainers": [{"image": "a"}], "containers": [{"image": "b"}, {"name": "none"}]});
        let fields = |data: &Value| images(data).into_iter().map(|(field, _)| field).collect::<Vec<_>>();
        let deployment = json!({"spec": {"template": {"spec": pod}}});
        assert_eq!(
            fields(&deployment),
            ["spec.template.spec.initContainers.0.image", "spec.template.spec.containers.0.image"]
        );
        let cron = json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}}});
        assert_eq!(fields(&cron).len(), 2);
    }

    #[test]
    fn another_version_and_a_typo_are_likely_mistakes() {
        assert!(likely("registry:3.1.1", "registry:3.1.2"));
        assert!(likely("ghcr.io/fluxcd/source-controler:v1", "ghcr.io/fluxcd/source-controller:v1"));
        assert!(!likely("quay.io/metallb/speaker:v0.15", "quay.io/jetstack/cert-manager-webhook:v1"));
    }
}
