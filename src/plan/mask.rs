//! Secrets are taken out of a plan before anybody sees it.

use serde_json::{Map, Value, json};

use crate::environment::Configuration;
use crate::k8s::DynamicObject;
use crate::yaml;

/// What stands in a secret's place.
const MASK: &str = "***";

/// Shorter texts are no secrets, and would be found everywhere.
const SHORTEST: usize = 6;

/// Knows what must not be shown.
#[derive(Clone, Default)]
pub struct Mask {
    texts: Vec<String>,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({} texts)", self.texts.len())
    }
}

impl Mask {
    /// Masks the secrets of an environment wherever they have got to.
    pub fn of(configuration: &Configuration) -> Self {
        let mut texts = vec![configuration.password.expose().to_owned()];
        for layer in [&configuration.secrets, &configuration.infra_secrets] {
            // What is no YAML was refused before.
            if let Ok(value) = yaml::from_str::<Value>(layer.expose(), "secrets") {
                leaves(&value, &mut texts);
            }
        }
        texts.retain(|text| text.len() >= SHORTEST);
        // A text that holds another one goes first.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self { texts }
    }

    /// Takes every secret out of an object.
    pub fn apply(&self, object: &mut DynamicObject) {
        if object.types.as_ref().is_some_and(|types| types.kind == "Secret" && types.api_version == "v1") {
            hide_data(&mut object.data);
        }
        self.text(&mut object.data);
        let metadata = &mut object.metadata;
        for value in
            [&mut metadata.annotations, &mut metadata.labels].into_iter().flatten().flat_map(|m| m.values_mut())
        {
            *value = self.replace(value);
        }
    }

    fn text(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.replace(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.text(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.text(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// A text without secrets.
    pub fn replace(&self, text: &str) -> String {
        self.texts.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
    }
}

/// Keeps the keys of a Secret. As `stringData`, so that what is printed is still a Secret that an API server accepts.
fn hide_data(data: &mut Value) {
    let mut hidden = Map::new();
    for field in ["data", "stringData"] {
        for key in data[field].as_object().into_iter().flat_map(Map::keys) {
            hidden.insert(key.clone(), json!(MASK));
        }
    }
    if let Some(fields) = data.as_object_mut() {
        fields.remove("data");
        fields.insert("stringData".into(), Value::Object(hidden));
    }
}

fn leaves(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, texts)),
        Value::Object(fields) => fields.values().for_each(|field| leaves(field, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Secret;

    #[test]
    fn secrets_are_masked_wherever_they_are() {
        let configuration = Configuration {
            secrets: Secret::new("a: {b: hunter2hunter2, c: hunter2}\n"),
            password: Secret::new("glpat-123"),
            ..Configuration::default()
        };
        let mask = Mask::of(&configuration);
        let mut object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "annotations": {"x": "is glpat-123"}},
            "data": {"list": ["hunter2hunter2 and hunter2", "a"], "short": "b"},
        }))
        .unwrap();
        mask.apply(&mut object);
        assert_eq!(object.data["data"], json!({"list": ["*** and ***", "a"], "short": "b"}));
        assert_eq!(object.metadata.annotations.unwrap()["x"], "is ***");
        assert!(!format!("{mask:?}").contains("hunter"));
    }

    #[test]
    fn a_secret_keeps_its_keys_only() {
        let mut object: DynamicObject = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "a"}, "type": "Opaque", "data": {"b": "eA=="}, "stringData": {"c": "x"}}))
        .unwrap();
        Mask::default().apply(&mut object);
        assert_eq!(object.data, json!({"type": "Opaque", "stringData": {"b": "***", "c": "***"}}));
    }
}
