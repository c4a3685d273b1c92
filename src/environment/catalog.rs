//! The environments of a repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::error::nearest;
use super::{Configuration, Error, Result, Settings, Variables};
use crate::flux::kustomize::{self, FILE_NAMES, References};
use crate::fsx;
use crate::k8s;

/// The folder that holds them.
pub const FOLDER: &str = "environment-values";

/// The folder that environments share, which is none itself.
const BASE: &str = "base";

/// One environment.
#[derive(Clone, Debug)]
pub struct Environment {
    name: String,
    root: PathBuf,
    settings: Settings,
}

impl Environment {
    /// The names of all environments of a repository, sorted.
    pub fn names(root: &Path) -> Result<Vec<String>> {
        let folder = root.join(FOLDER);
        let names = fsx::list(&folder)?;
        let is_environment = |name: &String| name != BASE && kustomization_in(&folder.join(name)).is_some();
        Ok(names.into_iter().filter(is_environment).collect())
    }

    /// Finds an environment by its name.
    pub fn find(root: &Path, name: &str) -> Result<Self> {
        let known = Self::names(root)?;
        if known.is_empty() {
            return Err(Error::None { folder: FOLDER.into() });
        }
        // Read even when the name is unknown to nobody else: a mistake in the file concerns all environments.
        let mut settings = Settings::read_all(root, &known)?;
        match settings.remove(name) {
            Some(settings) => Ok(Self { name: name.to_owned(), root: root.to_path_buf(), settings }),
            None => Err(Error::Unknown {
                name: name.to_owned(),
                nearest: nearest(name, known.iter().map(String::as_str)),
                known,
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its folder from the repository's root.
    pub fn folder(&self) -> String {
        format!("{FOLDER}/{}", self.name)
    }

    /// Renders its ConfigMap and Secrets. Files are read from the working tree, so that files which Git ignores may hold secrets.
    pub async fn configure(&self, kubectl: &Path, variables: &Variables) -> Result<Configuration> {
        for (file, text) in self.texts()? {
            variables.check(&text, &file)?;
        }
        let text = kustomize::build(kubectl, &self.root.join(self.folder())).await?;
        let objects = k8s::parse(&text, &self.folder())?;
        Configuration::read(&self.name, objects, variables)
    }

    /// The texts that kustomize puts together, by their paths from the root.
    fn texts(&self) -> Result<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut folders = vec![self.folder()];
        while let Some(folder) = folders.pop() {
            let Some(name) = kustomization_in(&self.root.join(&folder)) else { continue };
            if !seen.insert(folder.clone()) {
                continue;
            }
            let file = format!("{folder}/{name}");
            let text = fsx::read_text(&self.root.join(&file))?;
            let references = References::read(&text, &file)?;
            for entry in references.resources.iter().chain(&references.files) {
                let Some(path) = kustomize::join(&folder, entry) else { continue };
                let on_disk = self.root.join(&path);
                if on_disk.is_dir() {
                    folders.push(path);
                } else if on_disk.is_file() {
                    // What is no text has no variables. What does not exist, kustomize reports.
                    if let Ok(text) = String::from_utf8(fsx::read(&on_disk)?) {
                        texts.insert(path, text);
                    }
                }
            }
            // Comments of the kustomization itself do not get into what it makes; their lines are kept, for the numbers.
            let code = |line: &str| if line.trim_start().starts_with('#') { String::new() } else { line.to_owned() };
            texts.insert(file, text.lines().map(code).collect::<Vec<_>>().join("\n"));
        }
        Ok(texts)
    }
}

fn kustomization_in(folder: &Path) -> Option<&'static str> {
    FILE_NAMES.into_iter().find(|name| folder.join(name).is_file())
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
        let configure = async |variables| environment.configure(Path::new("/nonexistent/kubectl"), &variables).await;
        let error = configure(Variables::of([("HOST", "h")])).await.unwrap_err();
        assert_eq!(error.to_string(), "environment-values/base/kustomization.yaml:5: variable TOKEN is not defined");
        let error = configure(Variables::of([("TOKEN", "t")])).await.unwrap_err();
        assert_eq!(error.to_string(), "environment-values/local/v.yaml:2: variable HOST is not defined");
    }
}
