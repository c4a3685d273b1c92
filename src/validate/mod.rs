//! `validate`: everything that can be known to be wrong with an environment without a cluster of the user's.
//!
//! ```text
//! bootstrap.toml ► variables ► YAML ► keys ► chart ► components ► references ► images ► a real API server
//! ```
//!
//! Each stage looks at everything and reports all that it finds; the next one begins when there was nothing. What is found
//! has a place (file, line, column) and a remedy.

mod images;
mod keys;
mod locate;
mod memory;
mod server;

use serde::Serialize;

use crate::bundle::Bundle;
use crate::clock::Stopwatch;
use crate::environment::{self, Environment, Overrides, Publication, Tools, ValueFile, Variables};
use crate::failure::Failure;
use crate::flux;
use crate::git::Repository;
use crate::plan::{self, Plan, Problem};
use crate::yaml;

use locate::Locator;
pub use server::Server;

/// One thing that is wrong, with its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// File, line and column, as far as they are known.
    pub at: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.at.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.at, self.message) }
    }
}

/// What was found in one environment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Checked {
    /// The environment.
    pub environment: String,
    /// The digest of what would be deployed; empty when it cannot be rendered.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// How many components it has.
    pub components: usize,
    /// How many objects they make.
    pub objects: usize,
    /// How many objects an API server has accepted.
    pub accepted: usize,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub notes: Vec<String>,
    /// Milliseconds that it took.
    pub elapsed_ms: u64,
}

/// Checks environments of one repository.
#[derive(Clone, Copy, Debug)]
pub struct Validator<'a> {
    /// The repository; its working tree is looked at, with what is not committed.
    pub repository: &'a Repository,
    /// The bundle and the tools in it; without them nothing can be rendered.
    pub bundle: Option<(&'a Bundle, Tools<'a>)>,
    /// The variables that the environment's files may use.
    pub variables: &'a Variables,
    /// Settings that are given otherwise than in bootstrap.toml.
    pub overrides: &'a Overrides,
    /// What environments have in common is built once.
    pub cache: &'a plan::Cache,
}

impl Validator<'_> {
    /// Checks one environment; with a server, its objects too.
    pub async fn check(&self, name: &str, server: Option<&Server>) -> Checked {
        let watch = Stopwatch::start();
        let mut checked = Checked { environment: name.to_owned(), ..Checked::default() };
        if let Err(failure) = self.stages(name, server, &mut checked).await {
            checked.findings.push(of_failure(&failure));
        }
        checked.findings.sort();
        checked.findings.dedup();
        checked.elapsed_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
        checked
    }

    async fn stages(&self, name: &str, server: Option<&Server>, checked: &mut Checked) -> Result<(), Failure> {
        let root = self.repository.root();
        let environment = Environment::find(root, name)?.overridden(self.overrides)?;
        let own = environment.variables(self.variables.clone())?;
        let unknown = environment.unknown_secrets(&own)?;
        if !unknown.is_empty() {
            checked.notes.push(format!("secrets were looked at with stand-ins for {}", unknown.join(", ")));
        }
        let own = own.with_stand_ins(&unknown);
        let variables = own.clone().with("CURRENT_COMMIT", "0".repeat(40));
        let files = environment.value_files(&variables)?;
        let locator = Locator::new(root, &files);
        let problems = values(root, &files, &locator)?;
        if !problems.is_empty() {
            checked.findings = problems;
            return Ok(());
        }
        let Some((bundle, tools)) = self.bundle else {
            checked.notes.push("without a bundle nothing was rendered: cluster-init bundle build".into());
            return Ok(());
        };
        let upstream = |url: &str| bundle.manifest(url).map_err(Failure::from);
        let prepared = Publication::prepare(self.repository, &environment, tools, &upstream, &own, true).await?;
        let publication = &prepared;
        let locator = locator.with_source(&publication.source);
        let plan = match plan::compose(publication, environment.settings().backend, tools, self.cache).await {
            Ok(plan) => plan,
            Err(environment::Error::Flux(flux::Error::Values { reason, .. })) => {
                checked.findings = match template(&reason, &files) {
                    Some(finding) => vec![finding],
                    None => chart(&reason).into_iter().map(|problem| locator.find(problem)).collect(),
                };
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        checked.notes.extend(plan.notes.iter().map(|note| format!("{note}: it was not looked at")));
        checked.digest.clone_from(&plan.digest);
        checked.components = plan.parts.iter().filter(|part| !part.folder.is_empty()).count();
        checked.objects = plan.parts.iter().map(|part| part.objects.len()).sum();
        for part in plan.parts.iter().filter(|part| part.elsewhere.is_some()) {
            let from = part.elsewhere.as_deref().unwrap_or_default();
            checked.notes.push(format!("component {} comes from {from}: it was not looked at", part.name));
        }
        let problems = objects(&plan, bundle, checked);
        if !problems.is_empty() {
            checked.findings = problems.into_iter().map(|problem| locator.find(problem)).collect();
            return Ok(());
        }
        if let Some(server) = server {
            let answer = server.ask(&plan, &plan::Mask::of(&publication.configuration)).await?;
            checked.accepted = answer.accepted;
            checked.notes.extend(answer.notes);
            checked.findings = answer.problems.into_iter().map(|problem| locator.find(problem)).collect();
        }
        Ok(())
    }
}

/// What is wrong with the objects by themselves.
fn objects(plan: &Plan, bundle: &Bundle, checked: &mut Checked) -> Vec<Problem> {
    let mut problems = plan.problems.clone();
    // What could not be rendered would be missed by what refers to it.
    if problems.is_empty() {
        problems.extend(plan::check_references(plan));
    }
    let (wrong, notes) = images::check(plan, bundle);
    problems.extend(wrong);
    checked.notes.extend(notes);
    problems
}

/// Variables, YAML and keys of the files with values.
fn values(root: &std::path::Path, files: &[ValueFile], locator: &Locator<'_>) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let mut parsed = Vec::new();
    for file in files {
        if let Some(error) = &file.problem {
            findings.push(of_variable(error));
            continue;
        }
        match yaml::from_str::<serde_json::Value>(&file.text, &file.path) {
            Ok(value) => parsed.push((file, value)),
            Err(error) => {
                // The library's message may quote the text.
                let message = if file.secret { "it is no YAML".to_owned() } else { error.message.clone() };
                let at = format!("{}:{}:{}", file.path, error.line, error.column);
                findings.push(Finding { at, message, remedy: "correct the YAML".into() });
            }
        }
    }
    if findings.is_empty() {
        let layers: Vec<&serde_json::Value> = parsed.iter().map(|(_, value)| value).collect();
        let known = keys::Known::read(root, &layers)?;
        for (file, value) in &parsed {
            for problem in known.check(value) {
                findings.push(locator.find_in(&file.path, problem));
            }
        }
    }
    Ok(findings)
}

/// What the chart says, with the keys that it names.
fn chart(reason: &str) -> Vec<Problem> {
    let said = reason.split("; ");
    said.map(|message| {
        let path: Vec<&str> = message.split(": ").next().unwrap_or_default().split('.').collect();
        Problem::key(&path, message, "correct the environment's values.yaml, or the chart's own values")
    })
    .collect()
}

/// A template in the values that Helm cannot read: Helm quotes the whole text that it stands in, and the line in that.
fn template(reason: &str, files: &[ValueFile]) -> Option<Finding> {
    let (_, rest) = reason.split_once("cannot parse template \"")?;
    let (quoted, said) = rest.rsplit_once("\": template: gotpl:")?;
    let (number, said) = said.split_once(": ")?;
    let line = quoted.split("\\n").nth(number.parse::<usize>().ok()?.checked_sub(1)?)?;
    let (_, expression) = line.split_once("{{")?;
    let expression = format!("{{{{{}", expression.trim_end_matches(['\'', '"']));
    let at = files.iter().rev().find_map(|file| {
        let (number, text) = file.text.lines().enumerate().find(|(_, text)| text.contains(&expression))?;
        let column = text.find(&expression)?;
        Some(format!("{}:{}:{}", file.path, number + 1, column + 1))
    });
    Some(Finding {
        at: at.unwrap_or_default(),
        message: format!("{expression} is no template: {said}"),
        remedy: "correct the template: {{ .Values.KEY }}".into(),
    })
}

fn of_variable(error: &environment::Error) -> Finding {
    let (at, message) = match error {
        environment::Error::Undefined { at, name } => (at.clone(), format!("variable {name} is not defined")),
        environment::Error::Malformed { at, found } => (at.clone(), format!("{found:?} is not a variable")),
        other => (String::new(), other.to_string()),
    };
    let remedy = match error {
        environment::Error::Undefined { name, .. } => format!("set it, or give it a default: ${{{name}:-default}}"),
        _ => "write $${ for a ${ that is to stay".into(),
    };
    Finding { at, message, remedy }
}

/// Takes a message that begins with a file and a line apart.
fn of_failure(failure: &Failure) -> Finding {
    let text = failure.to_string();
    let remedy = failure.hints.join("; ");
    let begins_with_place = |at: &str| {
        let mut parts = at.split(':');
        let file = parts.next().unwrap_or_default();
        let numbers: Vec<&str> = parts.collect();
        !file.contains(' ') && file.contains('.') && numbers.iter().all(|part| part.parse::<u64>().is_ok())
    };
    match text.split_once(": ") {
        Some((at, message)) if begins_with_place(at) => {
            Finding { at: at.to_owned(), message: message.to_owned(), remedy }
        }
        _ => Finding { at: String::new(), message: text, remedy },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::At;

    #[test]
    fn places_are_taken_out_of_messages() {
        let found = of_failure(&Failure::usage("bootstrap.toml:3:1: unknown key x").hint("a").hint("b"));
        assert_eq!(found.to_string(), "bootstrap.toml:3:1: unknown key x");
        assert_eq!((found.at.as_str(), found.remedy.as_str()), ("bootstrap.toml:3:1", "a; b"));
        let found = of_failure(&Failure::usage("environment local: no"));
        assert_eq!((found.at.as_str(), found.message.as_str()), ("", "environment local: no"));
    }

    #[test]
    fn what_the_chart_says_has_a_key() {
        let problems = chart("components.capi: a; source: b");
        let paths: Vec<&At> = problems.iter().map(|problem| &problem.at).collect();
        assert_eq!(paths, [&At::Key(vec!["components".into(), "capi".into()]), &At::Key(vec!["source".into()])]);
    }
}
