//! Keys and types of the values, by the chart's schema; names of components and repositories, by the chart's own values.
//!
//! Helm checks the merged values against the same schema. Here each file is looked at by itself, so that what is wrong has
//! a place, and the word that was meant is known.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::environment::nearest;
use crate::failure::Failure;
use crate::flux::CHART;
use crate::plan::Problem;
use crate::{fsx, yaml};

/// What the chart knows.
pub struct Known {
    schema: Value,
    components: BTreeSet<String>,
    repositories: BTreeSet<String>,
}

impl Known {
    /// Reads the chart of a repository; `layers` are the environment's values, which may add components and repositories.
    pub fn read(root: &Path, layers: &[&Value]) -> Result<Self, Failure> {
        let schema = format!("{CHART}/values.schema.json");
        let schema = match fsx::read_text_if_present(&root.join(&schema))? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|error| Failure::usage(format!("{schema}:{}: {error}", error.line())))?,
            // A chart without schema allows everything; its templates check the rest.
            None => Value::Bool(true),
        };
        let mut known = Self { schema, components: BTreeSet::new(), repositories: BTreeSet::new() };
        for name in ["values.yaml", "bootstrap.values.yaml"] {
            let file = format!("{CHART}/{name}");
            if let Some(text) = fsx::read_text_if_present(&root.join(&file))? {
                let value: Value = yaml::from_str(&text, &file)?;
                known.components.extend(keys(&value["components"]));
                known.repositories(&value);
            }
        }
        for layer in layers {
            known.repositories(layer);
            // A component that says its repository is a new one.
            let new = layer["components"]
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, component)| component["repo"].is_string());
            known.components.extend(new.map(|(name, _)| name.clone()));
        }
        Ok(known)
    }

    fn repositories(&mut self, values: &Value) {
        for field in ["git_repo_templates", "oci_repo_templates"] {
            self.repositories.extend(keys(&values[field]));
        }
    }

    /// Everything that is wrong with one file's values.
    pub fn check(&self, values: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        match values {
            Value::Null => {}
            Value::Object(_) => {
                self.shape(values, &self.schema, &mut Vec::new(), &mut problems);
                if problems.is_empty() {
                    self.names(values, &mut problems);
                }
            }
            _ => problems.push(Problem::key(&[], "it is no map of values", "write keys and values: key: value")),
        }
        problems
    }

    /// Keys and types.
    fn shape<'v>(&'v self, value: &'v Value, schema: &'v Value, path: &mut Vec<&'v str>, problems: &mut Vec<Problem>) {
        let schema = self.resolve(schema);
        if let Some(wanted) = wrong_type(value, &schema["type"]) {
            let at = if path.is_empty() { "the values".to_owned() } else { path.join(".") };
            let message = format!("{at}: is {}, must be {wanted}", kind(value));
            problems.push(Problem::key(path, message, "correct the type: quote a text, begin a list item with a dash"));
            return;
        }
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    path.push(name);
                    match (schema["properties"].get(name), &schema["additionalProperties"]) {
                        (Some(below), _) => self.shape(field, below, path, problems),
                        (None, Value::Bool(false)) => problems.push(unknown_key(path, &schema["properties"])),
                        (None, below) if below.is_object() => self.shape(field, below, path, problems),
                        _ => {}
                    }
                    path.pop();
                }
            }
            Value::Array(items) if schema["items"].is_object() => {
                let numbers = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
                for (index, item) in items.iter().enumerate() {
                    // Ten places are enough for a message; the rest has the list's own.
                    path.extend(numbers.get(index));
                    self.shape(item, &schema["items"], path, problems);
                    if index < numbers.len() {
                        path.pop();
                    }
                }
            }
            Value::String(text) => {
                let choices: Vec<&str> =
                    schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                if !choices.is_empty() && !choices.contains(&text.as_str()) {
                    let message = format!("{}: unknown value {text:?}: use {}", path.join("."), choices.join(" or "));
                    problems.push(Problem::key(path, message, did_you_mean(text, choices.iter().copied())));
                }
            }
            _ => {}
        }
    }

    fn resolve<'v>(&'v self, schema: &'v Value) -> &'v Value {
        let named = schema["$ref"].as_str().and_then(|to| self.schema.pointer(to.trim_start_matches('#')));
        named.unwrap_or(schema)
    }

    /// Names of components and repositories.
    fn names(&self, values: &Value, problems: &mut Vec<Problem>) {
        let components = || self.components.iter().map(String::as_str);
        for (name, component) in values["components"].as_object().into_iter().flatten() {
            if !self.components.contains(name) {
                let remedy = match nearest(name, components()) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("a new component must say its repository: components.{name}.repo"),
                };
                let message = format!("components.{name}: unknown component {name}");
                problems.push(Problem::key(&["components", name], message, remedy));
                continue;
            }
            if let Some(repo) = component["repo"].as_str().filter(|repo| !self.repositories.contains(*repo)) {
                let known = self.repositories.iter().map(String::as_str);
                let message = format!("components.{name}.repo: unknown repository {repo}");
                problems.push(Problem::key(&["components", name, "repo"], message, did_you_mean(repo, known)));
            }
            for (index, other) in component["depends_on"].as_array().into_iter().flatten().enumerate() {
                let Some(other) = other.as_str().filter(|other| !self.components.contains(*other)) else { continue };
                let message = format!("components.{name}.depends_on: unknown component {other}");
                let path = ["components", name, "depends_on", &index.to_string()];
                problems.push(Problem::key(&path, message, did_you_mean(other, components())));
            }
        }
    }
}

fn keys(value: &Value) -> impl Iterator<Item = String> {
    value.as_object().into_iter().flatten().map(|(name, _)| name.clone())
}

fn unknown_key(path: &[&str], properties: &Value) -> Problem {
    let name = path.last().copied().unwrap_or_default();
    let known: Vec<String> = keys(properties).collect();
    let parent = path[..path.len().saturating_sub(1)].join(".");
    let parent = if parent.is_empty() { parent } else { format!("{parent}: ") };
    Problem::key(path, format!("{parent}unknown key {name}"), did_you_mean(name, known.iter().map(String::as_str)))
}

fn did_you_mean<'a>(written: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    match nearest(written, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known: {}", known.join(", ")),
    }
}

/// The types that a schema wants, when the value has none of them.
fn wrong_type(value: &Value, wanted: &Value) -> Option<String> {
    let wanted: Vec<&str> = match wanted {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    let fits = |name: &&str| match *name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    // Helm takes a key away where its value is null.
    if wanted.iter().any(fits) || value.is_null() {
        return None;
    }
    let name = |name: &str| match name {
        "object" => "a map",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "integer" | "number" => "a number",
        _ => "nothing",
    };
    Some(wanted.into_iter().filter(|name| *name != "null").map(name).collect::<Vec<_>>().join(" or "))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
