//! What a Kustomization makes of its folder: kustomize's build, then the variables of `postBuild`, as Flux does both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::Problem;
use super::cache::{Built, Cache, Document, documents};
use crate::environment::{self, Variables};
use crate::flux::kustomize::{self, FILE_NAMES};
use crate::git::Tree;
use crate::k8s::{DynamicObject, reference};
use crate::{fsx, yaml};

/// The annotation or label that keeps Flux from replacing variables in an object.
const SUBSTITUTE: &str = "kustomize.toolkit.fluxcd.io/substitute";

/// The program's version: another one may read differently what an earlier one has built.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Fields of a Kustomization's spec that kustomize itself understands, by their names there.
const FIELDS: [(&str, &str); 6] = [
    ("targetNamespace", "namespace"),
    ("namePrefix", "namePrefix"),
    ("nameSuffix", "nameSuffix"),
    ("patches", "patches"),
    ("images", "images"),
    ("components", "components"),
];

/// Builds folders of a source.
pub(super) struct Kitchen<'a> {
    kustomize: &'a Path,
    source: &'a Tree,
    cache: &'a Cache,
    /// Where the source lies, once something has to be built.
    written: OnceCell<(TempDir, PathBuf)>,
}

impl<'a> Kitchen<'a> {
    /// Builds folders of a source, or remembers what was built of them.
    pub fn new(kustomize: &'a Path, source: &'a Tree, cache: &'a Cache) -> Self {
        Self { kustomize, source, cache, written: OnceCell::new() }
    }

    /// What kustomize makes of a folder of the source for a Kustomization's spec.
    async fn build(&self, folder: &str, spec: &Value) -> Arc<Built> {
        let overlay = overlay(folder, spec);
        let content = self.source.digest_within(&kustomize::closure(self.source, folder));
        let edits = overlay.as_ref().map(Value::to_string).unwrap_or_default();
        let cell = self.cache.cell(format!("{folder} {content} {edits}"));
        cell.get_or_init(async || {
            // What the spec edits in may be secret: that stays in memory.
            let key = edits.is_empty().then(|| format!("{VERSION} {} {content}", self.kustomize.display()));
            if let Some(documents) = key.as_ref().and_then(|key| self.cache.recall(folder, key)) {
                return Arc::new(Ok(documents));
            }
            let built = self.fresh(folder, overlay).await;
            let built = built.and_then(|text| documents(&text, folder).map_err(|error| error.to_string()));
            if let (Some(key), Ok(documents)) = (key, &built) {
                self.cache.keep(folder, &key, documents);
            }
            Arc::new(built)
        })
        .await
        .clone()
    }

    /// The folder that the source was written to, and its real path, by which kustomize names files.
    async fn root(&self) -> crate::flux::Result<&Path> {
        let write = async || {
            let folder = crate::flux::temporary()?;
            self.source.write_to(folder.path())?;
            let real = folder.path().canonicalize().unwrap_or_else(|_| folder.path().to_path_buf());
            Ok::<_, crate::flux::Error>((folder, real))
        };
        Ok(&self.written.get_or_try_init(write).await?.1)
    }

    async fn fresh(&self, folder: &str, overlay: Option<Value>) -> Result<String, String> {
        let root = self.root().await.map_err(|error| error.to_string())?;
        let plain = |error: &dyn std::fmt::Display| relative(root, &error.to_string());
        self.complete(root, folder).map_err(|error| plain(&error))?;
        let temporary;
        let path = match overlay {
            None => root.join(folder),
            Some(overlay) => {
                // kustomize refuses absolute paths, and paths out of its own folder but for other kustomizations.
                temporary = tempfile::tempdir_in(root).map_err(|error| plain(&error))?;
                let file = temporary.path().join(FILE_NAMES[0]);
                fsx::write_scratch(&file, overlay.to_string(), 0o644).map_err(|error| plain(&error))?;
                temporary.path().to_path_buf()
            }
        };
        kustomize::build(self.kustomize, &path).await.map_err(|error| match error {
            crate::flux::Error::Build { reason, .. } => plain(&reason),
            other => plain(&other),
        })
    }

    /// Writes the kustomization that Flux makes for a folder that has none: all manifests in it and below.
    fn complete(&self, root: &Path, folder: &str) -> fsx::Result<()> {
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
        let text = json!({"resources": manifests}).to_string();
        fsx::write_scratch(&root.join(folder).join(FILE_NAMES[0]), text, 0o644)
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
        let built = self.build(folder, spec).await;
        let documents = match built.as_ref() {
            Ok(documents) => documents,
            Err(reason) => return broken(reason.clone()),
        };
        let mut problems = Vec::new();
        let variables = variables(component, spec, given, &mut problems).map(Variables::of);
        let mut objects = Vec::new();
        for document in documents {
            match document {
                Document::Objects(read) => objects.extend(read.iter().cloned()),
                Document::Text(text) => {
                    let replaced =
                        variables.as_ref().map(|all| substitute(component, folder, text, all, &mut problems));
                    match self.cache.parse(replaced.as_ref().unwrap_or(text), folder) {
                        Ok(read) => objects.extend(read),
                        Err(error) => return broken(error.to_string()),
                    }
                }
            }
        }
        (objects, problems)
    }
}

/// A message without the folder that the source was written to.
fn relative(root: &Path, message: &str) -> String {
    let root = format!("{}/", root.display());
    message.replace(&root, "").trim_end_matches('.').to_owned()
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

/// Replaces the variables of a document; what has no value is a problem, where Flux would leave an empty text.
fn substitute(
    component: &str,
    folder: &str,
    document: &str,
    variables: &Variables,
    problems: &mut Vec<Problem>,
) -> String {
    // Before variables are replaced, a document is YAML all the same: they are plain text.
    let object: Option<DynamicObject> =
        yaml::from_str::<Value>(document, folder).ok().and_then(|value| serde_json::from_value(value).ok());
    let marked = |object: &DynamicObject| {
        let marks = [&object.metadata.annotations, &object.metadata.labels];
        marks.into_iter().flatten().any(|all| all.get(SUBSTITUTE).is_some_and(|value| value == "disabled"))
    };
    if object.as_ref().is_some_and(marked) {
        return document.to_owned();
    }
    let named = object.as_ref().map(reference);
    match variables.replace(document, &named.as_ref().map_or_else(|| folder.to_owned(), ToString::to_string)) {
        Ok(replaced) => replaced,
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
            // What is wrong is told; nothing is made of the rest.
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s;

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
        let mut problems = Vec::new();
        let all = Variables::of([("N", "1")]);
        let replaced = substitute("x", "f", &object("a", ""), &all, &mut problems);
        assert!(replaced.contains("x: d1\n"), "{replaced}");
        assert_eq!(substitute("x", "f", &marked, &all, &mut problems), marked);
        assert!(problems.is_empty(), "{problems:?}");
        substitute("x", "f", &object("a", ""), &Variables::default(), &mut problems);
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
