//! What a Kustomization makes of its folder: kustomize's build, then the variables of `postBuild`, as Flux does both.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::Problem;
use crate::environment::{self, Variables};
use crate::flux::kustomize::{self, FILE_NAMES};
use crate::git::Tree;
use crate::k8s::{self, DynamicObject, reference};
use crate::{fsx, yaml};

/// The annotation or label that keeps Flux from replacing variables in an object.
const SUBSTITUTE: &str = "kustomize.toolkit.fluxcd.io/substitute";

/// Fields of a Kustomization's spec that kustomize itself understands, by their names there.
const FIELDS: [(&str, &str); 6] = [
    ("targetNamespace", "namespace"),
    ("namePrefix", "namePrefix"),
    ("nameSuffix", "nameSuffix"),
    ("patches", "patches"),
    ("images", "images"),
    ("components", "components"),
];

/// The built text of a folder, or why there is none.
type Built = Arc<OnceCell<Result<String, String>>>;

/// What was built and read, by content: both phases, and most environments, have most components in common.
#[derive(Default)]
pub struct Cache {
    built: Mutex<HashMap<String, Built>>,
    read: Mutex<HashMap<String, Arc<Vec<DynamicObject>>>>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({} folders)", self.built.lock().unwrap_or_else(PoisonError::into_inner).len())
    }
}

impl Cache {
    fn cell(&self, key: String) -> Built {
        self.built.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    /// Reads manifests, or remembers them.
    fn parse(&self, text: &str, folder: &str) -> k8s::Result<Vec<DynamicObject>> {
        let mut tree = Tree::default();
        tree.insert("text", text);
        let key = tree.digest();
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(objects) = known {
            return Ok(objects.to_vec());
        }
        let objects = k8s::parse(text, folder)?;
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::new(objects.clone()));
        Ok(objects)
    }
}

/// Builds folders of a source that was written to disk.
pub(super) struct Kitchen<'a> {
    kubectl: &'a Path,
    root: PathBuf,
    source: &'a Tree,
    cache: &'a Cache,
}

impl<'a> Kitchen<'a> {
    /// Builds in a folder into which the source was written.
    pub fn new(kubectl: &'a Path, root: &Path, source: &'a Tree, cache: &'a Cache) -> Self {
        // kustomize names files by their real path.
        let root = root.canonicalize().unwrap_or_else(|_| root.to_path_buf());
        Self { kubectl, root, source, cache }
    }

    /// A digest of a folder and of the folders that it builds on.
    fn digest(&self, folder: &str) -> String {
        self.source.only(&kustomize::closure(self.source, folder)).digest()
    }

    /// The text that kustomize makes of a folder of the source for a Kustomization's spec.
    async fn build(&self, folder: &str, spec: &Value) -> Result<String, String> {
        let overlay = overlay(folder, spec);
        let edits = overlay.as_ref().map(Value::to_string).unwrap_or_default();
        let cell = self.cache.cell(format!("{folder} {} {edits}", self.digest(folder)));
        cell.get_or_init(async || self.fresh(folder, overlay).await).await.clone()
    }

    async fn fresh(&self, folder: &str, overlay: Option<Value>) -> Result<String, String> {
        let plain = |error: &dyn std::fmt::Display| self.relative(&error.to_string());
        self.complete(folder).map_err(|error| plain(&error))?;
        let temporary;
        let path = match overlay {
            None => self.root.join(folder),
            Some(overlay) => {
                // kustomize refuses absolute paths, and paths out of its own folder but for other kustomizations.
                temporary = tempfile::tempdir_in(&self.root).map_err(|error| plain(&error))?;
                let file = temporary.path().join(FILE_NAMES[0]);
                fsx::write(&file, overlay.to_string()).map_err(|error| plain(&error))?;
                temporary.path().to_path_buf()
            }
        };
        kustomize::build(self.kubectl, &path).await.map_err(|error| match error {
            crate::flux::Error::Build { reason, .. } => plain(&reason),
            other => plain(&other),
        })
    }

    /// Writes the kustomization that Flux makes for a folder that has none: all manifests in it and below.
    fn complete(&self, folder: &str) -> fsx::Result<()> {
        let has = |name: &&str| self.source.get(&format!("{folder}/{name}")).is_some();
        if FILE_NAMES.iter().any(has) {
            return Ok(());
        }
        let manifests: Vec<String> = self
            .source
            .below(folder)
            .files()
            .map(|(path, _)| path.to_owned())
            .filter(|path| Path::new(path).extension().is_some_and(|end| end == "yaml" || end == "yml"))
            .collect();
        fsx::write(&self.root.join(folder).join(FILE_NAMES[0]), json!({"resources": manifests}).to_string())
    }

    /// A message without the folder that the source was written to.
    fn relative(&self, message: &str) -> String {
        let root = format!("{}/", self.root.display());
        message.replace(&root, "").trim_end_matches('.').to_owned()
    }

    /// The objects of a folder for a Kustomization's spec; `given` are the objects that it may take variables from.
    pub async fn cook(
        &self,
        component: &str,
        folder: &str,
        spec: &Value,
        given: &[DynamicObject],
    ) -> (Vec<DynamicObject>, Vec<Problem>) {
        let broken = |reason: String| {
            let remedy = format!("try it: kubectl kustomize {folder}");
            // kustomize begins with a file of the folder where it knows one.
            let (file, reason) = match reason.split_once(": ") {
                Some((file, rest)) if self.source.get(&format!("{folder}/{file}")).is_some() => {
                    (format!("{folder}/{file}"), rest.to_owned())
                }
                _ => (folder.to_owned(), reason),
            };
            (Vec::new(), vec![Problem::file(&file, None, format!("component {component}: {reason}"), remedy)])
        };
        let text = match self.build(folder, spec).await {
            Ok(text) => text,
            Err(reason) => return broken(reason),
        };
        let mut problems = Vec::new();
        let text = match variables(component, spec, given, &mut problems) {
            Some(variables) => substitute(component, folder, &text, &variables, &mut problems),
            None => text,
        };
        match self.cache.parse(&text, folder) {
            Ok(objects) => (objects, problems),
            Err(error) => broken(error.to_string()),
        }
    }
}

/// The kustomization in whose place Flux edits the folder's own; `None` when there is nothing to edit.
fn overlay(folder: &str, spec: &Value) -> Option<Value> {
    let mut overlay = json!({"resources": [format!("../{folder}")]});
    for (field, name) in FIELDS {
        match &spec[field] {
            Value::Null => {}
            Value::Array(paths) if field == "components" => {
                let path = |path: &Value| format!("../{folder}/{}", path.as_str().unwrap_or_default());
                overlay[name] = paths.iter().map(path).collect();
            }
            value => overlay[name] = value.clone(),
        }
    }
    let common = &spec["commonMetadata"];
    if let Some(labels) = common["labels"].as_object() {
        overlay["labels"] = json!([{"pairs": labels}]);
    }
    if let Some(annotations) = common["annotations"].as_object() {
        overlay["commonAnnotations"] = json!(annotations);
    }
    overlay.as_object().is_some_and(|fields| fields.len() > 1).then_some(overlay)
}

/// The variables of `postBuild`; `None` when nothing is replaced.
fn variables(
    component: &str,
    spec: &Value,
    given: &[DynamicObject],
    problems: &mut Vec<Problem>,
) -> Option<BTreeMap<String, String>> {
    let post = &spec["postBuild"];
    let mut all = BTreeMap::new();
    for from in post["substituteFrom"].as_array().into_iter().flatten() {
        let text = |field: &str| from[field].as_str().unwrap_or_default();
        let (kind, name) = (text("kind"), text("name"));
        let found = given.iter().find(|object| {
            let named = reference(object);
            named.kind == kind && named.name == name
        });
        match found {
            Some(object) => all.extend(environment::texts_of(object)),
            None if from["optional"] == true => {}
            None => problems.push(Problem::key(
                &["components", component, "spec", "postBuild", "substituteFrom"],
                format!("components.{component}.spec.postBuild.substituteFrom: there is no {kind} {name}"),
                "name one that the environment makes, or say optional: true",
            )),
        }
    }
    for (name, value) in post["substitute"].as_object().into_iter().flatten() {
        all.insert(name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    (!all.is_empty() || post["substituteStrategy"] == "Always").then_some(all)
}

/// Replaces the variables of every document; what has no value is a problem, where Flux would leave an empty text.
fn substitute(
    component: &str,
    folder: &str,
    text: &str,
    variables: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) -> String {
    let variables = Variables::of(variables.clone());
    let mut documents = Vec::new();
    for document in text.split("\n---\n") {
        // Most have none.
        if !document.contains("${") {
            documents.push(document.to_owned());
            continue;
        }
        // Before variables are replaced, a document is YAML all the same: they are plain text.
        let object: Option<DynamicObject> =
            yaml::from_str::<Value>(document, folder).ok().and_then(|value| serde_json::from_value(value).ok());
        let marked = |object: &DynamicObject| {
            let marks = [&object.metadata.annotations, &object.metadata.labels];
            marks.into_iter().flatten().any(|all| all.get(SUBSTITUTE).is_some_and(|value| value == "disabled"))
        };
        if object.as_ref().is_some_and(marked) {
            documents.push(document.to_owned());
            continue;
        }
        let named = object.as_ref().map(reference);
        match variables.replace(document, &named.as_ref().map_or_else(|| folder.to_owned(), ToString::to_string)) {
            Ok(replaced) => documents.push(replaced),
            Err(error) => {
                let mut found = String::new();
                let remedy = match &error {
                    environment::Error::Malformed { found: text, .. } => {
                        found.clone_from(text);
                        "write $${ for a ${ that is to stay".to_owned()
                    }
                    environment::Error::Undefined { name, .. } => {
                        found = format!("${{{name}");
                        format!(
                            "set components.{component}.spec.postBuild.substitute.{name}, or give it a default: ${{{name}:=default}}"
                        )
                    }
                    _ => String::new(),
                };
                let message = format!("component {component}: {error}");
                problems.push(match named {
                    Some(named) => Problem::object(folder, &named, found, message, remedy),
                    None => Problem::file(folder, None, message, remedy),
                });
            }
        }
    }
    documents.join("\n---\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Vec<DynamicObject> {
        k8s::parse(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {A: one}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata: {name: b}\ndata: {B: dHdv}\nstringData: {C: three}\n",
            "t",
        )
        .unwrap()
    }

    #[test]
    fn variables_come_from_objects_and_from_the_spec() {
        let spec = json!({"postBuild": {"substitute": {"A": "own", "N": 1},
            "substituteFrom": [{"kind": "ConfigMap", "name": "a"}, {"kind": "Secret", "name": "b"},
                {"kind": "Secret", "name": "c", "optional": true}, {"kind": "Secret", "name": "d"}]}});
        let mut problems = Vec::new();
        let found = variables("x", &spec, &given(), &mut problems).unwrap();
        let expected = [("A", "own"), ("B", "two"), ("C", "three"), ("N", "1")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].message, "components.x.spec.postBuild.substituteFrom: there is no Secret d");
        assert_eq!(variables("x", &json!({}), &given(), &mut problems), None);
        assert!(variables("x", &json!({"postBuild": {"substituteStrategy": "Always"}}), &[], &mut problems).is_some());
    }

    #[test]
    fn what_has_no_value_is_a_problem_and_marked_objects_stay() {
        let object = |name: &str, more: &str| {
            format!("apiVersion: v1\ndata:\n  x: ${{A:=d}}${{N}}\nkind: ConfigMap\nmetadata:\n{more}  name: {name}\n")
        };
        let marked = object("b", "  annotations:\n    kustomize.toolkit.fluxcd.io/substitute: disabled\n");
        let text = [object("a", ""), marked].join("---\n");
        let mut problems = Vec::new();
        let all = BTreeMap::from([("N".to_owned(), "1".to_owned())]);
        let replaced = substitute("x", "f", &text, &all, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        assert!(replaced.contains("x: d1\n") && replaced.contains("x: ${A:=d}${N}\n"), "{replaced}");
        substitute("x", "f", &text, &BTreeMap::new(), &mut problems);
        assert_eq!(problems[0].message, "component x: ConfigMap a: variable N is not defined");
    }

    #[test]
    fn flux_edits_become_an_overlay() {
        assert_eq!(overlay("a/b", &json!({"path": "./a/b", "wait": true})), None);
        let spec = json!({"targetNamespace": "n", "components": ["c"], "commonMetadata": {"labels": {"l": "m"}}});
        let expected = json!({"resources": ["../a/b"], "namespace": "n", "components": ["../a/b/c"],
            "labels": [{"pairs": {"l": "m"}}]});
        assert_eq!(overlay("a/b", &spec), Some(expected));
    }
}
