//! YAML, read as kubectl reads it: the only module that knows which library does it.

#[cfg(test)]
mod fuzz;
mod spots;

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_saphyr::{DuplicateKeyPolicy, Options};

use crate::failure::Failure;
use crate::fsx;

pub use spots::{Spot, Spots};

/// Text that is not the YAML that was expected.
#[derive(Debug, thiserror::Error)]
#[error("{origin}{}: {message}", at(*line, *column))]
pub struct Error {
    /// The file, or what the text is.
    pub origin: String,
    /// Line, from 1; 0 when unknown.
    pub line: u64,
    /// Column, from 1; 0 when unknown.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

fn at(line: u64, column: u64) -> String {
    if line == 0 { String::new() } else { format!(":{line}:{column}") }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::usage(error.to_string()).hint("correct the YAML")
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        // kubectl reads YAML 1.1: 0755 is a number, yes and on are booleans, the last of two equal keys counts.
        legacy_octal_numbers: true,
        strict_booleans: false,
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            // Rendered component manifests hold megabytes of CRDs.
            max_nodes: 4_000_000,
            max_events: 12_000_000,
            max_depth: 256,
        },
    }
}

fn error(origin: &str, error: &serde_saphyr::Error) -> Error {
    let location = error.location();
    let (line, column) = location.map_or((0, 0), |l| (l.line(), l.column()));
    let full = error.to_string();
    // The library ends its sentence with the position, which stands before it here.
    let message = full.split(" at line ").next().unwrap_or(&full).trim().to_owned();
    Error { origin: origin.to_owned(), line, column, message }
}

/// Reads one document; `origin` is the file's name, for errors.
pub fn from_str<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, Error> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|e| error(origin, &e))
}

/// Reads all documents of a stream, leaving out empty ones.
pub fn documents(text: &str, origin: &str) -> Result<Vec<serde_json::Value>, Error> {
    let all: Vec<serde_json::Value> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|e| error(origin, &e))?;
    Ok(all.into_iter().filter(|doc| !doc.is_null()).collect())
}

/// Reads all documents of a stream with the places of their keys, leaving out empty ones.
pub fn located(text: &str, origin: &str) -> Result<Vec<(serde_json::Value, Spots)>, Error> {
    let all: Vec<serde_json::Value> =
        serde_saphyr::from_multiple_with_options(text, options()).map_err(|e| error(origin, &e))?;
    let spots = Spots::documents(text, origin)?;
    Ok(all.into_iter().zip(spots).filter(|(doc, _)| !doc.is_null()).collect())
}

/// Reads a file that holds one document.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = fsx::read_text(path)?;
    Ok(from_str(&text, &path.display().to_string())?)
}

/// Writes a value as one document.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|e| Error {
        origin: "value".into(),
        line: 0,
        column: 0,
        message: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn reads_as_kubectl_does() {
        let cases = [
            ("a: 0755", json!({"a": 493})),
            ("a: yes", json!({"a": true})),
            ("a: off", json!({"a": false})),
            ("a: 1\na: 2", json!({"a": 2})),
            ("a: '0755'", json!({"a": "0755"})),
            ("a: ~", json!({"a": null})),
            ("a: 1.20", json!({"a": 1.2})),
            ("a: &x {b: 1}\nc: *x", json!({"a": {"b": 1}, "c": {"b": 1}})),
            ("a: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
        ];
        for (text, expected) in cases {
            assert_eq!(from_str::<Value>(text, "test").unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn documents_leave_out_empty_ones() {
        let docs = documents("---\na: 1\n---\n# nothing\n---\nb: 2\n", "test").unwrap();
        assert_eq!(docs, [json!({"a": 1}), json!({"b": 2})]);
    }

    #[test]
    fn errors_name_file_line_and_column() {
        let error = from_str::<Value>("a: 1\nb: [1\n", "values.yaml").unwrap_err();
        assert!(error.to_string().starts_with("values.yaml:"), "{error}");
        assert!(error.line > 0);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({"a": "yes", "b": "0755", "c": "1", "d": [1, "x\ny"], "e": {}, "f": null, "g": "on", "h": "~", "i": "1e3"});
        assert_eq!(from_str::<Value>(&to_string(&value).unwrap(), "test").unwrap(), value);
    }
}
