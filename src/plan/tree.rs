//! A plan as people read it: a tree, or manifests.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{By, Part, Plan, Target};
use crate::failure::{Failure, Result};
use crate::k8s::{DynamicObject, reference};
use crate::yaml;

/// Parts with more objects show how many there are of each kind.
const FEW: usize = 8;

/// Draws a plan; with `all`, every object has a line.
pub fn draw(plan: &Plan, all: bool) -> String {
    let backend = serde_json::to_value(plan.backend).ok().and_then(|name| name.as_str().map(str::to_owned));
    let mut out =
        format!("environment {}, {}, chart {}\n{}\n", plan.environment, plan.revision, plan.chart, plan.digest);
    for cluster in [Target::Bootstrap, Target::Management] {
        let parts = |by: By| plan.parts.iter().filter(move |part| part.cluster == cluster && part.by == by);
        let title = match cluster {
            Target::Bootstrap => format!(
                "bootstrap cluster {}-bootstrap, backend {}, deleted after the hand-over",
                plan.environment,
                backend.as_deref().unwrap_or("unknown")
            ),
            Target::Management => format!("management cluster {}", plan.management_cluster),
        };
        let release = ("its HelmRelease makes", By::Chart);
        let order = match cluster {
            Target::Bootstrap => {
                vec![("cluster-init applies", By::ClusterInit), release, ("Flux applies", By::Bootstrap)]
            }
            Target::Management => vec![
                ("Flux of the bootstrap cluster applies", By::Bootstrap),
                release,
                ("its own Flux applies", By::Management),
            ],
        };
        let groups: Vec<(&str, Vec<&Part>)> = order
            .into_iter()
            .map(|(title, by)| (title, parts(by).collect::<Vec<_>>()))
            .filter(|(_, parts)| !parts.is_empty())
            .collect();
        if !groups.is_empty() {
            out.push('\n');
            let branches = groups.into_iter().map(|(title, parts)| Branch {
                line: title.to_owned(),
                below: parts.into_iter().map(|part| branch(part, all)).collect(),
            });
            Branch { line: title, below: branches.collect() }.draw(&mut out, "", "");
        }
    }
    out
}

/// A line with what hangs below it.
struct Branch {
    line: String,
    below: Vec<Self>,
}

impl Branch {
    fn draw(&self, out: &mut String, first: &str, rest: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{first}{}", self.line);
        for (index, branch) in self.below.iter().enumerate() {
            let (first, next) =
                if index + 1 == self.below.len() { ("└── ", "    ") } else { ("├── ", "│   ") };
            branch.draw(out, &format!("{rest}{first}"), &format!("{rest}{next}"));
        }
    }
}

fn branch(part: &Part, all: bool) -> Branch {
    let mut line = part.name.clone();
    if let Some(elsewhere) = &part.elsewhere {
        let _ = write!(line, "  ({elsewhere}: not rendered, it is another repository)");
    } else if !part.folder.is_empty() {
        let _ = write!(line, "  ({})", part.folder);
    }
    if !part.after.is_empty() {
        let _ = write!(line, "  after {}", part.after.join(", "));
    }
    let leaf = |line: String| Branch { line, below: Vec::new() };
    let below = if all || part.objects.len() <= FEW {
        part.objects.iter().map(|object| leaf(describe(object))).collect()
    } else {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for object in &part.objects {
            *kinds.entry(reference(object).kind).or_default() += 1;
        }
        let counts: Vec<String> = kinds.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        vec![leaf(format!("{} objects: {}", part.objects.len(), counts.join(", ")))]
    };
    Branch { line, below }
}

/// An object, and what a reader wants to know of it before anything else.
fn describe(object: &DynamicObject) -> String {
    let mut line = reference(object).to_string();
    let spec = &object.data["spec"];
    let version = [&spec["version"], &spec["template"]["spec"]["version"]].into_iter().find_map(|v| v.as_str());
    if let Some(replicas) = spec["replicas"].as_u64() {
        let _ = write!(line, ", {replicas} replica{}", if replicas == 1 { "" } else { "s" });
    }
    if let Some(version) = version {
        let _ = write!(line, ", {version}");
    }
    line
}

/// The objects as one stream of manifests; a comment before each part says which cluster gets it.
pub fn manifests(plan: &Plan) -> Result<String> {
    let mut out =
        format!("# environment {}, {}, chart {}\n# {}\n", plan.environment, plan.revision, plan.chart, plan.digest);
    for part in &plan.parts {
        let from = if part.folder.is_empty() { String::new() } else { format!(", {}", part.folder) };
        for (index, object) in part.objects.iter().enumerate() {
            out.push_str("---\n");
            if index == 0 {
                let _ = writeln!(out, "# {} cluster, {}{from}", part.cluster, part.name);
            }
            out.push_str(&yaml::to_string(object).map_err(Failure::from)?);
            if !out.ends_with('\n') {
                out.push('\n');
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Backend;

    fn plan() -> Plan {
        let objects = |text: &str| crate::k8s::parse(text, "t").unwrap();
        let part = |cluster, by, name: &str, folder: &str, after: &[&str], objects| Part {
            cluster,
            by,
            name: name.into(),
            folder: folder.into(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            elsewhere: None,
            objects,
        };
        let cluster = "apiVersion: a/v1\nkind: MachineDeployment\nmetadata: {name: md, namespace: default}\nspec: {replicas: 2, template: {spec: {version: v1}}}\n";
        let many =
            (0..9).map(|n| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{n}}}\n")).collect::<Vec<_>>();
        Plan {
            environment: "local".into(),
            backend: Backend::Local,
            management_cluster: "management-cluster".into(),
            revision: "commit 0123".into(),
            chart: "0.1.0".into(),
            digest: "sha256:1".into(),
            parts: vec![
                part(Target::Bootstrap, By::Bootstrap, "capi", "k/capi", &[], objects(&many.join("---\n"))),
                part(Target::Bootstrap, By::Bootstrap, "cluster", "k/cluster", &["capi"], objects(cluster)),
            ],
            notes: Vec::new(),
            complete: true,
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_plan_is_a_tree() {
        let expected = "environment local, commit 0123, chart 0.1.0\nsha256:1\n\n\
            bootstrap cluster local-bootstrap, backend local, deleted after the hand-over\n\
            └── Flux applies\n    \
            ├── capi  (k/capi)\n    │   └── 9 objects: 9 ConfigMap\n    \
            └── cluster  (k/cluster)  after capi\n        \
            └── MachineDeployment default/md, 2 replicas, v1\n";
        assert_eq!(draw(&plan(), false), expected);
        assert_eq!(draw(&plan(), true).matches("ConfigMap c").count(), 9);
    }

    #[test]
    fn manifests_are_read_back() {
        let text = manifests(&plan()).unwrap();
        assert!(text.contains("---\n# bootstrap cluster, cluster, k/cluster\n"), "{text}");
        assert_eq!(crate::k8s::parse(&text, "t").unwrap().len(), 10);
    }
}
