//! The environments of a repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::nearest;
use super::settings::SETTINGS;
use super::{Configuration, Error, Overrides, Result, Settings, Variables, toml_file};
use crate::flux::kustomize::{self, FILE_NAMES, References};
use crate::{flux, fsx, k8s, yaml};

/// The folder that holds them.
pub const FOLDER: &str = "environment-values";

/// The folder that environments share, which is none itself.
const BASE: &str = "base";

/// One environment.
#[derive(Clone, Debug)]
pub struct Environment {
    name: String,
    root: PathBuf,
    /// What its folder is relative to: the repository's root, or that of the file system.
    base: PathBuf,
    folder: String,
    settings: Settings,
}

/// Whether what names an environment is the path of a folder.
fn is_path(named: &str) -> bool {
    named.contains('/') || named == "." || named == ".."
}

impl Environment {
    /// The names of all environments of a repository, sorted.
    pub fn names(root: &Path) -> Result<Vec<String>> {
        environments_in(&root.join(FOLDER))
    }

    /// The name of the environment that a name or a path means.
    pub fn name_of(named: &str) -> String {
        let path = std::path::absolute(named).unwrap_or_default();
        let path = path.canonicalize().unwrap_or(path);
        let last = path.file_name().map(|name| name.to_string_lossy().into_owned());
        last.filter(|_| is_path(named)).unwrap_or_else(|| named.to_owned())
    }

    /// Finds an environment by its name, or by the path of its folder, which may lie outside of the repository.
    pub fn find(root: &Path, named: &str) -> Result<Self> {
        let known = Self::names(root)?;
        if is_path(named) {
            return Self::at(root, named, &known);
        }
        if known.is_empty() {
            return Err(Error::None { folder: FOLDER.into() });
        }
        // Read even when the name is unknown to nobody else: a mistake in the file concerns all environments.
        let (mut settings, _) = toml_file::read(root, &known)?;
        match settings.remove(named) {
            Some(settings) => Ok(Self {
                name: named.to_owned(),
                root: root.to_path_buf(),
                base: root.to_path_buf(),
                folder: format!("{FOLDER}/{named}"),
                settings,
            }),
            None => Err(Error::Unknown {
                name: named.to_owned(),
                nearest: nearest(named, known.iter().map(String::as_str)),
                known,
            }),
        }
    }

    /// The environment in a folder.
    fn at(root: &Path, path: &str, known: &[String]) -> Result<Self> {
        let no = |reason: &str, remedy: String| {
            Err(Error::NoEnvironment { path: path.into(), reason: reason.into(), remedy })
        };
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let folder = real(&std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)));
        let own = real(root);
        let base = format!(
            "an environment is a folder whose kustomization builds on {}",
            own.join(FOLDER).join(BASE).display()
        );
        if folder.is_file() {
            let parent = Path::new(path).parent().map(|parent| parent.display().to_string());
            let named = folder.file_name().is_some_and(|name| FILE_NAMES.iter().any(|known| name == *known));
            return no(
                "it is a file",
                parent.filter(|_| named).map_or(base, |parent| format!("name its folder: {parent}")),
            );
        }
        if !folder.is_dir() {
            let near = beside(&folder)
                .and_then(|near| Some(format!("did you mean {}?", Path::new(path).parent()?.join(near).display())));
            return no("there is no such folder", near.unwrap_or(base));
        }
        if folder == own.join(FOLDER).join(BASE) {
            return no("it is what environments share", format!("name one of {}", known.join(", ")));
        }
        if kustomization_in(&folder).is_none() {
            let below: Vec<String> =
                environments_in(&folder)?.iter().map(|name| Path::new(path).join(name).display().to_string()).collect();
            let remedy = if below.is_empty() { base } else { format!("did you mean {}?", below.join(" or ")) };
            return no("it has no kustomization.yaml", remedy);
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if known.contains(&name) {
            // The same, written as a path.
            if folder == real(&root.join(FOLDER).join(&name)) {
                return Self::find(root, &name);
            }
            return Err(Error::NameTaken { path: path.into(), name });
        }
        let (_, settings) = toml_file::read(root, known)?;
        let (base, inner) = match folder.strip_prefix(&own) {
            Ok(inner) => (root.to_path_buf(), inner.to_path_buf()),
            Err(_) => (PathBuf::from("/"), folder.strip_prefix("/").unwrap_or(&folder).to_path_buf()),
        };
        let inner = inner.to_string_lossy().into_owned();
        let mut found = Self { name, root: root.to_path_buf(), base, folder: inner, settings: settings.clone() };
        found.settings = toml_file::read_own(
            &folder.join(SETTINGS),
            &found.shown(&format!("{}/{SETTINGS}", found.folder)),
            settings,
        )?;
        Ok(found)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What finds it again from anywhere: its name, or its path when it is not one of the repository's own.
    pub fn reference(&self) -> String {
        let own = self.folder == format!("{FOLDER}/{}", self.name);
        if own { self.name.clone() } else { self.base.join(&self.folder).display().to_string() }
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Has settings that are given otherwise override its own.
    pub fn overridden(mut self, overrides: &Overrides) -> Result<Self> {
        overrides.apply(&mut self.settings)?;
        Ok(self)
    }

    /// Its folder from the repository's root, when it is in the repository.
    pub fn folder(&self) -> Option<&str> {
        (self.base == self.root).then_some(&self.folder)
    }

    /// A path as errors name it.
    fn shown(&self, path: &str) -> String {
        if self.base == self.root { path.to_owned() } else { format!("/{path}") }
    }

    /// Renders its ConfigMap and Secrets. Files are read from the working tree, so that files which Git ignores may hold secrets.
    pub async fn configure(&self, kustomize: &Path, variables: &Variables) -> Result<Configuration> {
        for (file, text) in self.texts()? {
            variables.check(&text, &file)?;
        }
        let built = kustomize::build(kustomize, &self.base.join(&self.folder)).await;
        let text = built.map_err(|error| match error {
            flux::Error::Build { reason, .. } => {
                let root = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
                let reason = reason.replace(&format!("{}/", root.display()), "");
                flux::Error::Build { folder: self.shown(&self.folder), reason }
            }
            other => other,
        })?;
        let objects = k8s::parse(&text, &self.shown(&self.folder))?;
        Configuration::read(&self.name, objects, variables)
    }

    /// The texts that kustomize puts together, by their paths from the root.
    fn texts(&self) -> Result<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        for kustomization in self.kustomizations()? {
            let References { resources, files, .. } = &kustomization.references;
            for entry in resources.iter().chain(files) {
                let Some(path) = kustomize::join(&kustomization.folder, entry) else { continue };
                let on_disk = self.base.join(&path);
                // What is no text has no variables. What does not exist, kustomize reports.
                if on_disk.is_file()
                    && let Ok(text) = String::from_utf8(fsx::read(&on_disk)?)
                {
                    texts.insert(self.shown(&path), text);
                }
            }
            // Comments of the kustomization itself do not get into what it makes; their lines are kept, for the numbers.
            let code = |line: &str| if line.trim_start().starts_with('#') { String::new() } else { line.to_owned() };
            texts.insert(kustomization.file, kustomization.text.lines().map(code).collect::<Vec<_>>().join("\n"));
        }
        Ok(texts)
    }

    /// The environment's kustomization and those that it builds on, itself first.
    fn kustomizations(&self) -> Result<Vec<Kustomization>> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            let Some(name) = kustomization_in(&self.base.join(&folder)) else { continue };
            if !seen.insert(folder.clone()) {
                continue;
            }
            let path = format!("{folder}/{name}");
            let text = fsx::read_text(&self.base.join(&path))?;
            let file = self.shown(&path);
            let references = References::read(&text, &file)?;
            let below = references.resources.iter().filter_map(|entry| kustomize::join(&folder, entry));
            folders.extend(below.filter(|path| self.base.join(path).is_dir()));
            found.push(Kustomization { folder, file, text, references });
        }
        Ok(found)
    }

    /// The variables that its files may use: the given ones, then those of a file `.env` beside its kustomization, then those
    /// of one in the repository's root.
    pub fn variables(&self, given: Variables) -> Result<Variables> {
        let mut all = given;
        let own = format!("{}/.env", self.folder);
        for (base, file, shown) in [(&self.base, &own, &self.shown(&own)), (&self.root, &".env".into(), &".env".into())]
        {
            if let Some(text) = fsx::read_text_if_present(&base.join(file))? {
                all = all.beneath(&text, shown)?;
            }
        }
        Ok(all)
    }

    /// Variables that only secret files use and that have no value: whoever looks at the environment need not know them.
    pub fn unknown_secrets(&self, variables: &Variables) -> Result<Vec<String>> {
        let mut known = variables.clone();
        let mut names = Vec::new();
        for file in self.value_files(variables)?.into_iter().filter(|file| file.secret) {
            while let Err(Error::Undefined { name, .. }) = known.check(&file.text, &file.path) {
                known = known.with(&name, "");
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The files that hold the chart's values, in the order in which they are merged, with what is wrong with their variables.
    pub fn value_files(&self, variables: &Variables) -> Result<Vec<ValueFile>> {
        let mut found = BTreeMap::new();
        for kustomization in self.kustomizations()? {
            for (object, key, path) in generated(&yaml::from_str(&kustomization.text, &kustomization.file)?) {
                let layer = LAYERS.iter().position(|layer| (layer.0, layer.1) == (object.as_str(), key.as_str()));
                let (Some(layer), Some(path)) = (layer, kustomize::join(&kustomization.folder, &path)) else {
                    continue;
                };
                // What builds on another kustomization comes first here, and overrides it.
                if !found.contains_key(&layer) && self.base.join(&path).is_file() {
                    let text = fsx::read_text(&self.base.join(&path))?;
                    let path = self.shown(&path);
                    let problem = variables.check(&text, &path).err();
                    let text = if problem.is_none() { variables.replace(&text, &path)? } else { text };
                    found.insert(layer, ValueFile { path, text, secret: LAYERS[layer].2, problem });
                }
            }
        }
        Ok(found.into_values().collect())
    }
}

/// A kustomization of an environment.
struct Kustomization {
    folder: String,
    file: String,
    text: String,
    references: References,
}

/// A file that holds values of the chart.
#[derive(Debug)]
pub struct ValueFile {
    /// Its path from the repository's root.
    pub path: String,
    /// Its text, with variables replaced unless there is a problem with them.
    pub text: String,
    /// Whether nothing of it may be shown.
    pub secret: bool,
    /// A variable that has no value.
    pub problem: Option<Error>,
}

/// Object, key, and whether it is secret: what the HelmRelease merges, in its order.
const LAYERS: [(&str, &str, bool); 4] = [
    (super::VALUES, "base_values", false),
    (super::VALUES, "values", false),
    (super::configuration::SECRETS, "secrets", true),
    (super::configuration::INFRA_SECRETS, "infra-secrets", true),
];

/// Name of the object, key and path of every file that a kustomization puts into a ConfigMap or Secret.
fn generated(kustomization: &Value) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for field in ["configMapGenerator", "secretGenerator"] {
        for generator in kustomization[field].as_array().into_iter().flatten() {
            let name = generator["name"].as_str().unwrap_or_default();
            for entry in generator["files"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let (key, path) = entry.split_once('=').unwrap_or((entry.rsplit('/').next().unwrap_or(entry), entry));
                all.push((name.to_owned(), key.to_owned(), path.to_owned()));
            }
        }
    }
    all
}

fn kustomization_in(folder: &Path) -> Option<&'static str> {
    FILE_NAMES.into_iter().find(|name| folder.join(name).is_file())
}

/// The folders of a folder that are environments.
fn environments_in(folder: &Path) -> Result<Vec<String>> {
    let names = fsx::list(folder)?;
    Ok(names.into_iter().filter(|name| name != BASE && kustomization_in(&folder.join(name)).is_some()).collect())
}

/// The environment beside a folder that does not exist whose name is most like its own.
fn beside(folder: &Path) -> Option<String> {
    let names = environments_in(folder.parent()?).ok()?;
    nearest(&folder.file_name()?.to_string_lossy(), names.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fsx::create_dir(path.parent().unwrap()).unwrap();
            fsx::write(&path, text).unwrap();
        }
        folder
    }

    #[test]
    fn an_unknown_environment_names_the_known_ones() {
        let kustomization = "resources: []\n";
        let root = repository(&[
            ("environment-values/base/kustomization.yaml", kustomization),
            ("environment-values/local/kustomization.yaml", kustomization),
            ("environment-values/rke2-capd/kustomization.yaml", kustomization),
            ("environment-values/notes/readme.md", ""),
        ]);
        assert_eq!(Environment::names(root.path()).unwrap(), ["local", "rke2-capd"]);
        let error = Environment::find(root.path(), "loca").unwrap_err();
        assert_eq!(error.to_string(), "unknown environment \"loca\" (known: local, rke2-capd)");
        assert_eq!(Failure::from(error).hints, ["did you mean local?"]);
        assert!(Environment::find(root.path(), "base").is_err(), "what is shared is no environment");
        let empty = repository(&[]);
        let error = Environment::find(empty.path(), "local").unwrap_err();
        assert_eq!(error.to_string(), "environment-values holds no environment: no folder with a kustomization");
    }

    #[tokio::test]
    async fn an_undefined_variable_is_named_with_its_file_and_line() {
        let root = repository(&[
            (
                "environment-values/base/kustomization.yaml",
                "# ${COMMENT}\nsecretGenerator:\n- name: a\n  literals:\n  - x=${TOKEN}\n",
            ),
            (
                "environment-values/local/kustomization.yaml",
                "resources: [../base]\nconfigMapGenerator:\n- name: b\n  files: [values=v.yaml]\n",
            ),
            ("environment-values/local/v.yaml", "a: 1\nb: ${HOST}\n"),
        ]);
        let environment = Environment::find(root.path(), "local").unwrap();
        let configure = async |variables| environment.configure(Path::new("/nonexistent/kustomize"), &variables).await;
        let error = configure(Variables::of([("HOST", "h")])).await.unwrap_err();
        assert_eq!(error.to_string(), "environment-values/base/kustomization.yaml:5: variable TOKEN is not defined");
        let error = configure(Variables::of([("TOKEN", "t")])).await.unwrap_err();
        assert_eq!(error.to_string(), "environment-values/local/v.yaml:2: variable HOST is not defined");
    }
}
