//! Puts the parts of a plan together.

use std::collections::BTreeMap;

use futures::StreamExt;
use serde_json::Value;

use super::cache::Cache;
use super::component::Kitchen;
use super::order::order;
use super::{By, Part, Plan, Problem, Target};
use crate::environment::{Backend, Publication, Result, Tools, Variant, lacks, nearest};
use crate::flux::{self, COMPONENTS, kustomize};
use crate::k8s::DynamicObject;

/// How many folders are built at once.
const PARALLEL: usize = 4;

/// Makes the plan of a publication. What is wrong with single components is collected; what keeps the chart from being
/// rendered is an error.
pub async fn compose(publication: &Publication, backend: Backend, tools: Tools<'_>, cache: &Cache) -> Result<Plan> {
    let kitchen = Kitchen::new(tools.kustomize, &publication.source, cache);
    let (bootstrap, management, release) = futures::join!(
        publication.components(tools, "bootstrap"),
        publication.components(tools, "management"),
        publication.release(tools, Variant::Bootstrap),
    );
    // Of several failures always the same one is told.
    let (bootstrap, management, release) = (bootstrap?, management?, release?);
    let mut given = publication.objects();
    let values = publication.settled();
    given.push(publication.copy());
    let mut composer = Composer { publication, kitchen: &kitchen, parts: Vec::new(), problems: Vec::new() };
    for name in publication.installed() {
        composer.installed(name).await;
    }
    composer.part(Target::Bootstrap, By::ClusterInit, "environment", given.clone());
    composer.part(Target::Bootstrap, By::ClusterInit, "release", release);
    composer.phase(By::Bootstrap, &bootstrap, &given).await;
    composer.phase(By::Management, &management, &values).await;
    let Composer { parts, mut problems, .. } = composer;
    // Both phases have most components in common.
    problems.sort();
    problems.dedup();
    let mut notes = Vec::new();
    let mut complete = true;
    for part in parts.iter().filter(|part| !part.folder.is_empty()) {
        for missing in lacks(&publication.source, &part.folder, &publication.missing) {
            complete &= !missing.resource;
            notes.push(format!("{}:{}: {} is not in the bundle", missing.file, missing.line, missing.url));
        }
    }
    notes.sort();
    notes.dedup();
    Ok(Plan {
        environment: publication.configuration.environment.clone(),
        backend,
        management_cluster: publication.configuration.cluster_name(),
        revision: publication.revision.to_string(),
        chart: publication.chart.version().to_owned(),
        digest: publication.digest(),
        parts,
        notes,
        complete,
        problems,
    })
}

struct Composer<'a> {
    publication: &'a Publication,
    kitchen: &'a Kitchen<'a>,
    parts: Vec<Part>,
    problems: Vec<Problem>,
}

impl Composer<'_> {
    fn part(&mut self, cluster: Target, by: By, name: &str, objects: Vec<DynamicObject>) {
        let (name, folder, after) = (name.to_owned(), String::new(), Vec::new());
        self.parts.push(Part { cluster, by, name, folder, after, elsewhere: None, objects });
    }

    /// A component that cluster-init applies to the bootstrap cluster as it stands in the repository.
    async fn installed(&mut self, name: &str) {
        let folder = format!("{COMPONENTS}/{name}");
        if !self.publication.source.has_folder(&folder) {
            let message = format!("the repository has no folder {folder}, which cluster-init installs itself");
            self.problems.push(Problem::file(&folder, None, message, "restore it from the release you started from"));
            return;
        }
        let (objects, problems) = self.kitchen.cook(name, &folder, &Value::Null, &[]).await;
        self.problems.extend(problems);
        let (cluster, name, after) = (Target::Bootstrap, name.to_owned(), Vec::new());
        self.parts.push(Part { cluster, by: By::ClusterInit, name, folder, after, elsewhere: None, objects });
    }

    /// What the chart renders in one phase, and what becomes of every Kustomization in it.
    async fn phase(&mut self, by: By, rendered: &[Value], given: &[DynamicObject]) {
        let own = if by == By::Bootstrap { Target::Bootstrap } else { Target::Management };
        let kustomizations: BTreeMap<String, &Value> = rendered
            .iter()
            .filter(|object| object["kind"] == "Kustomization")
            .map(|object| (text(object, "/metadata/name").to_owned(), object))
            .collect();
        let dependencies: BTreeMap<String, Vec<String>> =
            kustomizations.iter().map(|(name, object)| (name.clone(), dependencies(object))).collect();
        self.check_dependencies(&dependencies);
        let objects: Vec<DynamicObject> =
            rendered.iter().filter_map(|object| serde_json::from_value(object.clone()).ok()).collect();
        // Components take variables from the environment's objects and from those of the chart.
        let given = &[given, &objects].concat();
        self.part(own, By::Chart, flux::RELEASE, objects);
        let ordered = order(&dependencies).names;
        let this: &Self = self;
        let cooked: Vec<(Part, Vec<Problem>)> = futures::stream::iter(ordered.iter())
            .map(|name| this.component(by, own, name, kustomizations[name], &dependencies[name], rendered, given))
            .buffered(PARALLEL)
            .collect()
            .await;
        for (part, problems) in cooked {
            self.parts.push(part);
            self.problems.extend(problems);
        }
    }

    /// The chart checks `depends_on`; `spec.dependsOn` can name anything.
    fn check_dependencies(&mut self, dependencies: &BTreeMap<String, Vec<String>>) {
        for (name, after) in dependencies {
            for other in after.iter().filter(|other| !dependencies.contains_key(*other)) {
                self.problems.push(Problem::key(
                    &["components", name, "spec", "dependsOn"],
                    format!("components.{name}.spec.dependsOn: there is no component {other} where {name} is enabled"),
                    "use depends_on, with the name of a component that is enabled in the same phase",
                ));
            }
        }
        let circle = order(dependencies).circle;
        if let Some(first) = circle.first() {
            let path = [circle.join(" -> "), first.clone()].join(" -> ");
            self.problems.push(Problem::key(
                &["components", first, "spec", "dependsOn"],
                format!("components.{first}.spec.dependsOn: cycle: {path}"),
                "take one of these dependencies away",
            ));
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one call, from one place")]
    async fn component(
        &self,
        by: By,
        own: Target,
        name: &str,
        object: &Value,
        after: &[String],
        rendered: &[Value],
        given: &[DynamicObject],
    ) -> (Part, Vec<Problem>) {
        let spec = &object["spec"];
        let cluster = if spec["kubeConfig"].is_object() { Target::Management } else { own };
        let mut part = Part {
            cluster,
            by,
            name: name.to_owned(),
            folder: String::new(),
            after: after.to_vec(),
            elsewhere: None,
            objects: Vec::new(),
        };
        let source = &spec["sourceRef"];
        let found = rendered
            .iter()
            .find(|other| other["kind"] == source["kind"] && other.pointer("/metadata/name") == Some(&source["name"]));
        let path = text(object, "/spec/path");
        match found {
            None => {
                let message =
                    format!("component {name}: there is no {} {}", text(source, "/kind"), text(source, "/name"));
                let problem = Problem::key(&["components", name], message, "name a repository of the chart");
                return (part, vec![problem]);
            }
            Some(source) if !self.is_ours(source) => {
                part.elsewhere = Some(format!("{path} of {}", text(source, "/spec/url")));
                return (part, Vec::new());
            }
            Some(_) => {}
        }
        let inside = kustomize::join("", path.trim_start_matches('/'));
        let Some(folder) = inside.filter(|folder| self.publication.source.has_folder(folder)) else {
            let message = format!("components.{name}.path: the repository has no folder {path}");
            let remedy = near_folder(self.publication, path).map_or_else(
                || "correct the path, or commit the folder".to_owned(),
                |near| format!("did you mean {near}?"),
            );
            return (part, vec![Problem::key(&["components", name, "path"], message, remedy)]);
        };
        part.folder.clone_from(&folder);
        let (objects, problems) = self.kitchen.cook(name, &folder, spec, given).await;
        part.objects = objects;
        (part, problems)
    }

    /// Whether a source holds this repository's revision.
    fn is_ours(&self, source: &Value) -> bool {
        let tag = self.publication.revision.tag();
        let pointer = if source["kind"] == "OCIRepository" { "/spec/ref/tag" } else { "/spec/ref/commit" };
        text(source, pointer) == tag
    }
}

/// The components that a Kustomization waits for.
fn dependencies(object: &Value) -> Vec<String> {
    let all = object.pointer("/spec/dependsOn").and_then(Value::as_array);
    all.into_iter().flatten().map(|entry| text(entry, "/name").to_owned()).collect()
}

/// The folder of the source that is most like a path.
fn near_folder(publication: &Publication, path: &str) -> Option<String> {
    let folders: Vec<String> = publication
        .source
        .files()
        .filter_map(|(file, _)| Some(format!("./{}", file.rsplit_once("/kustomization.yaml")?.0)))
        .collect();
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let near = nearest(path, folders.iter().map(String::as_str))?;
    nearest(&last(path), [last(&near).as_str()]).map(|_| near)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
