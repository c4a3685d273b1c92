//! From what is wrong to where it stands.

use std::path::Path;

use super::Finding;
use crate::environment::ValueFile;
use crate::flux::CHART;
use crate::flux::kustomize::{FILE_NAMES, References, join, line_of};
use crate::fsx;
use crate::git::Tree;
use crate::k8s::ObjectRef;
use crate::plan::{At, Problem};
use crate::yaml::{self, Spot, Spots};

/// Files whose keys have places: the environment's values, the chart's, the components.
pub struct Locator<'a> {
    /// What overrides comes first.
    values: Vec<(String, Spots)>,
    source: Option<&'a Tree>,
}

impl<'a> Locator<'a> {
    /// Knows the values of an environment and of the chart.
    pub fn new(root: &Path, files: &[ValueFile]) -> Self {
        let own = files.iter().rev().map(|file| (file.path.clone(), file.text.clone()));
        let chart = ["bootstrap.values.yaml", "values.yaml"].into_iter().filter_map(|name| {
            let file = format!("{CHART}/{name}");
            let text = fsx::read_text(&root.join(&file)).ok()?;
            Some((file, text))
        });
        // A file that is no YAML has no places; it is reported for that.
        let spots = |(file, text): (String, String)| Some((file.clone(), Spots::read(&text, &file).ok()?));
        Self { values: own.chain(chart).filter_map(spots).collect(), source: None }
    }

    /// Knows the components, too.
    #[must_use]
    pub fn with_source(self, source: &'a Tree) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Finds the place of a problem.
    pub fn find(&self, problem: Problem) -> Finding {
        let at = match &problem.at {
            At::Nowhere => String::new(),
            At::Key(path) => self.key(path),
            At::File(file, spot) => place(file, *spot),
            At::Object { folder, object, field } => self.object(folder, object, field),
        };
        Finding { at, message: problem.message, remedy: problem.remedy }
    }

    /// Finds the place of a problem in one file with values.
    pub fn find_in(&self, file: &str, problem: Problem) -> Finding {
        let spot = match &problem.at {
            At::Key(path) => {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                let spots = self.values.iter().find(|(name, _)| name == file);
                spots.and_then(|(_, spots)| spots.nearest(&path))
            }
            _ => None,
        };
        Finding { at: place(file, spot), message: problem.message, remedy: problem.remedy }
    }

    /// The file that says the most of a path, what overrides before what is overridden.
    fn key(&self, path: &[String]) -> String {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        for length in (1..=path.len()).rev() {
            for (file, spots) in &self.values {
                if let Some(spot) = spots.exact(&path[..length]) {
                    return place(file, Some(spot));
                }
            }
        }
        String::new()
    }

    /// The file of a component that holds an object.
    fn object(&self, folder: &str, object: &ObjectRef, field: &str) -> String {
        let Some(source) = self.source else { return folder.to_owned() };
        let text_of_it = field.starts_with('$').then_some(field);
        let field: Vec<&str> = field.split('.').filter(|part| !part.is_empty()).collect();
        let mut folders = vec![folder.to_owned()];
        let mut seen = Vec::new();
        while let Some(folder) = folders.pop() {
            if seen.contains(&folder) {
                continue;
            }
            let Some((file, text)) = kustomization(source, &folder) else { continue };
            seen.push(folder.clone());
            let Ok(References { resources, .. }) = References::read(&text, &file) else { continue };
            for entry in resources {
                let Some(path) = join(&folder, &entry) else { continue };
                let Some(found) = source.get(&path) else {
                    folders.push(path);
                    continue;
                };
                let content = String::from_utf8_lossy(&found.content);
                let Some(spot) = in_file(&content, object, &field) else { continue };
                let spot = text_of_it.and_then(|wanted| after(&content, spot, wanted)).unwrap_or(spot);
                // Upstream's file is not in the repository: the line that refers to it is what can be changed.
                if entry.starts_with("upstream-") {
                    return format!("{file}:{}", line_of(&text, &entry));
                }
                return place(&path, Some(spot));
            }
        }
        folder.to_owned()
    }
}

fn kustomization(source: &Tree, folder: &str) -> Option<(String, String)> {
    FILE_NAMES.into_iter().find_map(|name| {
        let file = format!("{folder}/{name}");
        let text = String::from_utf8_lossy(&source.get(&file)?.content).into_owned();
        Some((file, text))
    })
}

/// Where an object and its field stand in a file with manifests.
fn in_file(text: &str, object: &ObjectRef, field: &[&str]) -> Option<Spot> {
    // Most files do not hold it, and reading megabytes of CRDs takes time.
    if !text.contains(&object.kind) || !(text.contains(&object.name) || text.contains("${")) {
        return None;
    }
    let documents = yaml::located(text, "manifest").ok()?;
    let named = |value: &serde_json::Value| {
        value["kind"] == object.kind.as_str()
            && value["metadata"]["name"].as_str().is_some_and(|written| may_become(written, &object.name))
    };
    let (_, spots) = documents.iter().find(|(value, _)| named(value))?;
    spots.nearest(field)
}

/// Whether a name as it is written, perhaps with variables, can have become another one.
fn may_become(written: &str, name: &str) -> bool {
    let (first, variables) = written.split_once("${").map_or((written, None), |(first, rest)| (first, Some(rest)));
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(variables) = variables else { return rest.is_empty() };
    let mut literals: Vec<&str> =
        variables.split("${").map(|piece| piece.split_once('}').map_or("", |(_, literal)| literal)).collect();
    let last = literals.pop().unwrap_or_default();
    for literal in literals {
        let Some(at) = rest.find(literal) else { return false };
        rest = &rest[at + literal.len()..];
    }
    rest.ends_with(last)
}

/// Where a text stands, from a place on.
fn after(content: &str, from: Spot, wanted: &str) -> Option<Spot> {
    let skipped = usize::try_from(from.line.saturating_sub(1)).ok()?;
    let (index, line) = content.lines().enumerate().skip(skipped).find(|(_, line)| line.contains(wanted))?;
    Some(Spot { line: index as u64 + 1, column: line.find(wanted)? as u64 + 1 })
}

fn place(file: &str, spot: Option<Spot>) -> String {
    spot.map_or_else(|| file.to_owned(), |spot| format!("{file}:{spot}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_in_a_name_may_be_anything() {
        for (written, name, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("${CLUSTER_NAME}-md-0", "second-md-0", true),
            ("${CLUSTER_NAME}-md-0", "second-md-1", false),
            ("a-${X}", "a-b", true),
            ("a-${X}", "b-b", false),
            ("${A}-x${B}-x", "1-x2-x", true),
            ("${A}", "anything", true),
        ] {
            assert_eq!(may_become(written, name), expected, "{written} {name}");
        }
    }
}
