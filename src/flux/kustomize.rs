//! Kustomizations as files: what they refer to, and what kustomize makes of them.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{Error, Result};
use crate::exec::{self, Command};
use crate::git::Tree;
use crate::yaml;

/// The names under which kustomize looks for its file in a folder.
pub const FILE_NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// How long one build may take.
const LIMIT: Duration = Duration::from_mins(1);

/// Builds a folder with kustomize. Its own program takes a fifth of the time that kubectl takes for the same: most of that is kubectl's
/// start.
pub async fn build(kustomize: &Path, folder: &Path) -> Result<String> {
    let run = Command::new(kustomize).arg("build").arg(folder).run(LIMIT).await;
    match run {
        Ok(output) => Ok(output.text()),
        Err(exec::Error::Status { stderr, .. }) => {
            Err(Error::Build { folder: folder.display().to_string(), reason: plain(&stderr) })
        }
        Err(error) => Err(error.into()),
    }
}

/// What kustomize says, without the ways on which it did not find out: it tries a file as a folder, too, and tells both.
fn plain(stderr: &str) -> String {
    let mut said = stderr.trim().trim_start_matches("Error: ");
    if let Some((_, rest)) = said.split_once("accumulation err='") {
        said = rest.split("': must build at directory").next().unwrap_or(rest);
    }
    while let Some(rest) = said.strip_prefix("accumulating resources: ") {
        said = rest;
    }
    for doing in ["accumulating resources from '", "merging resources from '"] {
        if let Some((file, reason)) = said.strip_prefix(doing).and_then(|rest| rest.split_once("': ")) {
            return format!("{file}: {}", reason.trim_end_matches('.'));
        }
    }
    said.trim_end_matches('.').to_owned()
}

/// What a kustomization file refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Manifests, folders and URLs: `resources`, `components`, `bases`, `crds`.
    pub resources: Vec<String>,
    /// Plain files whose content goes into generated ConfigMaps and Secrets.
    pub files: Vec<String>,
    /// Kustomizations that change what is made: `generators`, `transformers`, `validators`; or such, written out.
    pub plugins: Vec<String>,
}

impl References {
    /// Reads them from a kustomization file's text; `origin` is its name, for errors.
    pub fn read(text: &str, origin: &str) -> Result<Self> {
        let value: Value = yaml::from_str(text, origin)?;
        let mut found = Self::default();
        for field in ["resources", "components", "bases", "crds"] {
            found.resources.extend(strings(&value[field]));
        }
        for field in ["generators", "transformers", "validators"] {
            found.plugins.extend(strings(&value[field]));
        }
        for field in ["configMapGenerator", "secretGenerator"] {
            for generator in value[field].as_array().into_iter().flatten() {
                // An entry of `files` may be `key=path`.
                let path = |entry: String| entry.split_once('=').map_or(entry.clone(), |(_, path)| path.to_owned());
                found.files.extend(strings(&generator["files"]).map(path));
                found.files.extend(strings(&generator["envs"]));
                found.files.extend(generator["env"].as_str().map(str::to_owned));
            }
        }
        Ok(found)
    }
}

fn strings(value: &Value) -> impl Iterator<Item = String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

/// A folder and the folders that its kustomization builds on.
pub fn closure(source: &Tree, folder: &str) -> Vec<String> {
    let mut folders = vec![folder.to_owned()];
    let mut known = 0;
    while let Some(folder) = folders.get(known).cloned() {
        known += 1;
        let file = FILE_NAMES.iter().find_map(|name| source.get(&format!("{folder}/{name}")));
        let Some(text) = file.map(|file| String::from_utf8_lossy(&file.content)) else { continue };
        let Ok(references) = References::read(&text, &folder) else { continue };
        let entries = references.resources.iter().chain(&references.plugins);
        for path in entries.filter_map(|entry| join(&folder, entry)) {
            if source.has_folder(&path) && !folders.contains(&path) {
                folders.push(path);
            }
        }
    }
    folders
}

/// Whether kustomize would fetch an entry over HTTP.
pub fn is_url(entry: &str) -> bool {
    entry.starts_with("https://") || entry.starts_with("http://")
}

/// The line (from 1) on which `entry` stands as a whole word; 1 when it is not found.
pub fn line_of(text: &str, entry: &str) -> usize {
    text.lines().position(|line| occurrences(line, entry).next().is_some()).map_or(1, |index| index + 1)
}

/// Where `entry` stands as a whole word, not as a part of a longer path.
pub(super) fn occurrences<'a>(text: &'a str, entry: &'a str) -> impl Iterator<Item = usize> + 'a {
    let delimits = |c: Option<char>| c.is_none_or(|c| c.is_whitespace() || "\"',[]{}#=".contains(c));
    text.match_indices(entry).map(|(at, _)| at).filter(move |at| {
        delimits(text[..*at].chars().next_back()) && delimits(text[at + entry.len()..].chars().next())
    })
}

/// A path relative to a folder, without `.` and `..`; `None` when it leads out of the repository.
pub fn join(folder: &str, entry: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    if entry.starts_with('/') {
        return None;
    }
    for part in entry.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found() {
        let text = "resources: [a.yaml, ../base, 'https://x/y.yaml']\ncomponents: [c]\nconfigMapGenerator:\n- name: a\n  files: [values=values.yaml, plain.txt]\n  envs: [x.env]\n";
        let found = References::read(text, "k").unwrap();
        assert_eq!(found.resources, ["a.yaml", "../base", "https://x/y.yaml", "c"]);
        assert_eq!(found.files, ["values.yaml", "plain.txt", "x.env"]);
    }

    #[test]
    fn what_kustomize_says_is_made_short() {
        let cases = [
            (
                "Error: accumulating resources: accumulation err='accumulating resources from 'a.yaml': missing metadata.name in object': must build at directory: '/x/a.yaml': file is not directory\n",
                "a.yaml: missing metadata.name in object",
            ),
            (
                "Error: accumulating resources: accumulating resources from 'a.yaml': MalformedYAMLError: yaml: line 1: x\n",
                "a.yaml: MalformedYAMLError: yaml: line 1: x",
            ),
            (
                "Error: invalid Kustomization: json: unknown field \"x\"",
                "invalid Kustomization: json: unknown field \"x\"",
            ),
        ];
        for (said, expected) in cases {
            assert_eq!(plain(said), expected);
        }
    }

    #[test]
    fn lines_are_those_of_whole_words() {
        let text = "resources:\n- https://x/a.yaml.old\n- https://x/a.yaml # comment\n";
        assert_eq!(line_of(text, "https://x/a.yaml"), 3);
    }

    #[test]
    fn paths_stay_in_the_repository() {
        assert_eq!(join("a/b", "../c/./d.yaml").as_deref(), Some("a/c/d.yaml"));
        assert_eq!(join("a", "../.."), None);
        assert_eq!(join("a", "/etc"), None);
    }
}
