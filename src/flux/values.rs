//! The chart's values: one table, from which come the schema that Helm checks and the reference that people read.
//!
//! What components there are the chart's own values say, and their comments what each is. A component that is none of these must
//! name its repository: so a misspelt name is refused, and a new component is not.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{CHART, Result};
use crate::yaml;

/// What a key may hold.
enum Kind {
    /// A text.
    Text,
    /// A text, or nothing.
    MaybeText,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// true or false.
    Switch,
    /// yes, no and so on; YAML reads some of them as true and false.
    Enabled,
    /// A list of different texts.
    Texts,
    /// A map of texts by any name.
    TextMap,
    /// A map of lists of texts by any name.
    TextsMap,
    /// A map of anything.
    Free,
    /// A map of anything, or nothing.
    MaybeFree,
    /// These keys only.
    Keys(&'static [Key]),
    /// Any names, and below each these keys only. The text stands for a name.
    Each(&'static str, &'static [Key]),
    /// The components.
    Components(&'static [Key]),
}

/// A key.
struct Key {
    name: &'static str,
    kind: Kind,
    says: &'static str,
}

const fn key(name: &'static str, kind: Kind, says: &'static str) -> Key {
    Key { name, kind, says }
}

const AUTH: &[Key] = &[
    key("username", Kind::MaybeText, "User name for the repository."),
    key("password", Kind::MaybeText, "Password or token; it belongs into the environment's secrets."),
];

const FREE: &str = "Free for the templates in paths and specs of components.";

const VALUES: &[Key] = &[
    key(
        "phase",
        Kind::Choice(&["bootstrap", "management"]),
        "The cluster that the chart is released on. Set by bootstrap.values.yaml; not for environments.",
    ),
    key("component_default_enable", Kind::Enabled, "What a component is that does not say; a template."),
    key(
        "source",
        Kind::Choice(&["git", "oci"]),
        "Where components are fetched from: Git repositories, or, for repositories that stand in oci_repo_templates, artifacts.",
    ),
    key("current_commit", Kind::Text, "The commit that is deployed. Set by the HelmRelease; not for environments."),
    key(
        "component_kustomization_spec_defaults",
        Kind::Free,
        "The spec of each component's Kustomization, which the component's own spec overrides key by key.",
    ),
    key("git_repo_spec_default", Kind::Free, "The spec of each GitRepository, which the repository's own overrides."),
    key(
        "git_repo_templates",
        Kind::Each(
            "REPOSITORY",
            &[
                key("base_url", Kind::MaybeText, "The URL without the repository's name; instead of spec.url."),
                key("shared", Kind::Switch, "One GitRepository for all components that are read from it."),
                key("spec", Kind::MaybeFree, "The spec of the GitRepository; a template."),
                key("auth", Kind::Keys(AUTH), "Credentials, in place of git_auth_default."),
            ],
        ),
        "Git repositories by their names.",
    ),
    key("git_auth_default", Kind::Keys(AUTH), "Credentials of the repositories that have none of their own."),
    key(
        "oci_repo_templates",
        Kind::Each("REPOSITORY", &[key("spec", Kind::MaybeFree, "The spec of the OCIRepository; a template.")]),
        "Repositories that are fetched as artifacts where source is oci.",
    ),
    key(
        "components",
        Kind::Components(&[
            key(
                "enabled",
                Kind::Enabled,
                "yes, no, bootstrap-only or management-only; a template. Without it component_default_enable holds.",
            ),
            key("repo", Kind::Text, "A key of git_repo_templates or oci_repo_templates. New components must have it."),
            key(
                "path",
                Kind::Text,
                "Folder in the repository, without it ./kustomize-components/COMPONENT; a template.",
            ),
            key("depends_on", Kind::Texts, "Components that must be ready first."),
            key("labels", Kind::TextMap, "Labels of the Kustomization."),
            key("ref_override", Kind::Free, "Replaces the ref of the repository for this component."),
            key(
                "secrets",
                Kind::TextMap,
                "Variables of the component whose values are secret: they get into a Secret, not into the Kustomization; templates.",
            ),
            key("spec", Kind::Free, "Overrides component_kustomization_spec_defaults; a template."),
        ]),
        "The components; each becomes a Flux Kustomization.",
    ),
    key(
        "cluster",
        Kind::Free,
        "`cluster.name` is the management cluster's name, by which its containers and nodes are called. The rest is free for the templates in paths and specs of components.",
    ),
    key("capd", Kind::Free, FREE),
    key(
        "proxies",
        Kind::Keys(&[
            key("http_proxy", Kind::MaybeText, "A URL, with user and password where the proxy wants them."),
            key("https_proxy", Kind::MaybeText, "A URL, as http_proxy."),
            key("no_proxy", Kind::MaybeText, "Hosts and domains that are reached directly, with commas between them."),
        ]),
        "The site's proxy: what machines of a cloud pull images through, and what Flux reaches Git repositories of components through.",
    ),
    key(
        "registry_mirrors",
        Kind::TextsMap,
        "URLs of mirrors by the registry that they stand for, for machines of a cloud: `docker.io: [https://mirror.example.org]`.",
    ),
    key(
        "ca_certificates",
        Kind::MaybeText,
        "Certificates of the site's authority in PEM, which machines of a cloud trust.",
    ),
    key("debug_values", Kind::Switch, "Renders the merged values into the Secret debug-values."),
    key("global", Kind::Free, "Helm's own."),
];

/// The chart's own values, as they are committed.
pub struct Defaults {
    values: Value,
    components: Vec<Component>,
}

/// A component that the chart knows.
struct Component {
    name: String,
    says: String,
}

impl Defaults {
    /// Reads them from the texts of `values.yaml` and `bootstrap.values.yaml`.
    pub fn read(values: &str, bootstrap: &str) -> Result<Self> {
        let parsed: Value = yaml::from_str(values, &format!("{CHART}/values.yaml"))?;
        let on_bootstrap: Value = yaml::from_str(bootstrap, &format!("{CHART}/bootstrap.values.yaml"))?;
        let mut components = Vec::new();
        for (text, value) in [(values, &parsed), (bootstrap, &on_bootstrap)] {
            for name in value["components"].as_object().into_iter().flatten().map(|(name, _)| name) {
                if !components.iter().any(|known: &Component| known.name == *name) {
                    components.push(Component { name: name.clone(), says: comment(text, name) });
                }
            }
        }
        components.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { values: parsed, components })
    }

    /// The schema of the values, as it is committed in `values.schema.json`.
    pub fn schema(&self) -> String {
        let mut schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$comment": "Written by `cluster-init generate`: change the code, not this file.",
            "title": "Values of telco-cloud-init",
            "description": "Catches misspelt keys and components, and wrong types. What depends on other keys (repositories, dependencies) is checked by the templates, which name the key.",
        });
        let mut component = Value::Null;
        let top = self.keys(VALUES, &mut component);
        schema["type"] = "object".into();
        schema["additionalProperties"] = false.into();
        schema["properties"] = top["properties"].clone();
        schema["$defs"] = json!({"component": component});
        // Writing JSON to a String cannot fail.
        serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
    }

    fn keys(&self, keys: &[Key], component: &mut Value) -> Value {
        let properties: Map<String, Value> = keys
            .iter()
            .map(|key| {
                let mut schema = self.kind(&key.kind, component);
                schema["description"] = key.says.into();
                (key.name.to_owned(), schema)
            })
            .collect();
        json!({"type": "object", "additionalProperties": false, "properties": properties})
    }

    fn kind(&self, kind: &Kind, component: &mut Value) -> Value {
        match kind {
            Kind::Text => json!({"type": "string"}),
            Kind::MaybeText => json!({"type": ["string", "null"]}),
            Kind::Choice(choices) => json!({"type": "string", "enum": choices}),
            Kind::Switch => json!({"type": "boolean"}),
            Kind::Enabled => json!({"type": ["string", "boolean"]}),
            Kind::Texts => json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}),
            Kind::TextMap => json!({"type": "object", "additionalProperties": {"type": "string"}}),
            Kind::TextsMap => {
                json!({"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}})
            }
            Kind::Free => json!({"type": "object"}),
            Kind::MaybeFree => json!({"type": ["object", "null"]}),
            Kind::Keys(keys) => {
                let mut schema = self.keys(keys, component);
                schema["type"] = json!(["object", "null"]);
                schema
            }
            Kind::Each(_, keys) => json!({"type": "object", "additionalProperties": self.keys(keys, component)}),
            Kind::Components(keys) => {
                *component = self.keys(keys, &mut Value::Null);
                let one = json!({"$ref": "#/$defs/component"});
                let known: Map<String, Value> = self
                    .components
                    .iter()
                    .map(|Component { name, says }| {
                        let mut schema = one.clone();
                        if !says.is_empty() {
                            schema["description"] = says.as_str().into();
                        }
                        (name.clone(), schema)
                    })
                    .collect();
                let mut new = one;
                new["required"] = json!(["repo"]);
                json!({"type": "object", "properties": known, "additionalProperties": new})
            }
        }
    }

    /// The reference of the values, as it is committed in `docs/values.md`.
    pub fn reference(&self) -> String {
        let mut text = String::from(HEAD);
        self.rows(VALUES, &[], &mut text);
        text.push_str("\n## Components\n\n| component | what it is | enabled | after |\n|---|---|---|---|\n");
        for Component { name, says } in &self.components {
            let own = &self.values["components"][name];
            let enabled = match &own["enabled"] {
                _ if own.is_null() => "on the bootstrap cluster".into(),
                Value::String(text) if text.contains("{{") => "depends on the values".into(),
                Value::String(text) => text.clone(),
                _ => self.values["component_default_enable"].as_str().unwrap_or_default().to_owned(),
            };
            let after: Vec<&str> =
                own["depends_on"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| `{name}` | {says} | {enabled} | {} |", after.join(", "));
        }
        text
    }

    fn rows(&self, keys: &[Key], above: &[&str], text: &mut String) {
        for Key { name, kind, says } in keys {
            let path = [above, &[*name]].concat();
            let _ =
                writeln!(text, "| `{}` | {} | {} | {says} |", path.join("."), shown(kind), self.default(kind, &path));
            match kind {
                Kind::Keys(keys) => self.rows(keys, &path, text),
                Kind::Each(any, keys) => self.rows(keys, &[&path[..], &[*any]].concat(), text),
                Kind::Components(keys) => self.rows(keys, &[&path[..], &["COMPONENT"]].concat(), text),
                _ => {}
            }
        }
    }

    /// The chart's own value, where it is short enough to be shown.
    fn default(&self, kind: &Kind, path: &[&str]) -> String {
        let value = path.iter().fold(&self.values, |value, part| &value[*part]);
        match (kind, value) {
            (_, Value::Null) | (Kind::Keys(_), _) => String::new(),
            (_, Value::Object(_) | Value::Array(_)) => "see values.yaml".into(),
            (_, value) => format!("`{value}`"),
        }
    }
}

const HEAD: &str = "\
<!-- Written by `cluster-init generate`: change the code, not this file. -->

# Values

What an environment may say in its `values.yaml`. It is merged over the chart's own values (`charts/telco-cloud-init/values.yaml`, on the
bootstrap cluster `bootstrap.values.yaml` too), and the environment's secrets and infrastructure secrets over it: maps key by key, lists
whole. The same table is `values.schema.json`, which Helm, `cluster-init validate` and editors check values against. In an editor with a
YAML language server, this first line does it:

```yaml
# yaml-language-server: $schema=../../charts/telco-cloud-init/values.schema.json
```

| key | value | default | what it is about |
|---|---|---|---|
";

fn shown(kind: &Kind) -> String {
    match kind {
        Kind::Text | Kind::MaybeText => "a text".into(),
        Kind::Choice(choices) => choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(" or "),
        Kind::Switch => "`true` or `false`".into(),
        Kind::Enabled => "`yes`, `no`, `bootstrap-only` or `management-only`".into(),
        Kind::Texts => "a list of texts".into(),
        Kind::TextMap => "a map of texts".into(),
        Kind::TextsMap => "a map of lists of texts".into(),
        Kind::Free | Kind::MaybeFree | Kind::Keys(_) | Kind::Each(..) | Kind::Components(_) => "a map".into(),
    }
}

/// The comment above a component, or above the one before it when no empty line is between them.
fn comment(text: &str, component: &str) -> String {
    let wanted = format!("  {component}:");
    let mut found: Vec<&str> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        match line.strip_prefix("  # ") {
            Some(said) if open => found.push(said),
            Some(said) => {
                found = vec![said];
                open = true;
            }
            None if line == wanted => return found.join(" "),
            None => {
                open = false;
                if line.is_empty() {
                    found.clear();
                }
            }
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHART: &str = "\
phase: management
component_default_enable: \"yes\"
components:
  # What comes
  # first.
  first:
    repo: r
  second:
    enabled: \"no\"
    depends_on: [first]

  third: {}
";

    #[test]
    fn known_components_have_their_comment_and_new_ones_must_have_a_repository() {
        let defaults = Defaults::read(CHART, "components: {other: {}}\n").unwrap();
        let schema: Value = serde_json::from_str(&defaults.schema()).unwrap();
        let components = &schema["properties"]["components"];
        let names: Vec<&String> = components["properties"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["first", "other", "second", "third"]);
        assert_eq!(components["properties"]["first"]["description"], "What comes first.");
        assert_eq!(components["properties"]["second"]["description"], "What comes first.");
        assert_eq!(components["properties"]["third"]["description"], Value::Null);
        assert_eq!(components["additionalProperties"]["required"], json!(["repo"]));
        assert_eq!(schema["$defs"]["component"]["additionalProperties"], false);
        let reference = defaults.reference();
        assert!(reference.contains("| `second` | What comes first. | no | first |"), "{reference}");
        assert!(reference.contains("| `components.COMPONENT.repo` | a text |"), "{reference}");
        assert!(reference.contains("| `phase` | `bootstrap` or `management` | `\"management\"` |"), "{reference}");
    }
}
