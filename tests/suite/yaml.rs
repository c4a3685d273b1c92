//! YAML is read as kubectl reads it: each case is read by the bundle's kubectl too.

use std::fmt::Write as _;
use std::time::Duration;

use cluster_init::bundle::Bundle;
use cluster_init::exec::Command;
use cluster_init::{fsx, yaml};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{Home, bundle, ended};

/// What is told apart only by how it is read: each is the value of a field of an object.
const VALUES: &[&str] = &[
    "0755",
    "0o755",
    "0x1F",
    "0b11",
    "-0755",
    "08",
    "1_000",
    "1e3",
    "1.20",
    "+1",
    ".5",
    "1.",
    "1:30",
    "1:30:00",
    "12e03",
    "1e",
    "9223372036854775807",
    "18446744073709551615",
    "yes",
    "Yes",
    "YES",
    "no",
    "on",
    "On",
    "off",
    "OFF",
    "y",
    "n",
    "Y",
    "true",
    "True",
    "TRUE",
    "tRUE",
    "~",
    "null",
    "Null",
    "",
    "nil",
    "'yes'",
    "\"0755\"",
    "2001-01-01",
    "2001-12-14t21:59:43.10-05:00",
    "1.2.3",
    "v1.2",
    "1.10.0",
    "10.0.0.1",
    "\"a\\tb\\u00e9\\x41\"",
    "'it''s'",
    "!!str 1",
    "!!int \"7\"",
    "!!float 1",
    "!!bool \"yes\"",
    "!!null x",
    "!!binary aGVsbG8=",
    "plain # comment",
    "a#b",
    "a: b",
    "{a: 1, b: [x, y]}",
    "[a, b, ]",
    "{a, b: }",
    "{1: x, true: y, 1.5: z, ~: n}",
    "{yes: x, 010: y}",
    "{a: 1, a: 2}",
    "|\n    x\n    y\n",
    "|-\n    x\n\n    y\n\n",
    "|+\n    x\n\n",
    "|2\n     x\n    y\n",
    ">\n    x\n    y\n\n    z\n",
    ">-\n    x\n    y\n",
    "x\n    y\n\n    z",
    "\"x\n    y\"",
    "\"x \\\n    y\"",
    "&a {x: 1}\n  other: *a",
    "&a {x: 1, y: 2}\n  other: {<<: *a, y: 3}",
    "&a {x: 1}\n  b: &b {y: 2}\n  other: {<<: [*a, *b], z: 3}",
    "&a [1, 2]\n  other: [*a, *a]",
    "*a",
    "{<<: 1}",
    "\n  - a\n  - b",
    "\n  - - a\n    - b\n  - c: d\n    e: f",
    "\n    ? a\n    : b",
    "\n    ? [a, b]\n    : c",
    "\n\tx: 1",
    "\n    x: 1\n\ty: 2",
    "\tx",
    "x\t# comment",
    "[a,\tb]",
    "\"a\tb\"",
    "a\u{a0}b",
    "\u{e9}\u{4e16}\u{1f600}",
    "%x",
    "@x",
    "`x",
    "-",
    "- x",
    "?x",
    ":x",
    "x:",
    "!x y",
    "[",
    "}",
    "'x",
    "\"\\q\"",
    ".inf",
    "-.Inf",
    ".nan",
    "0x",
    "0.1e-5",
    "1__0",
    "_1",
    "0_7",
    "=",
    "<<",
];

/// What is known to be read otherwise, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("a thousand levels", "refused: no manifest is that deep, and what reads it afterwards might have no stack for it"),
    ("a directive", "taken, where kubectl refuses a document before it"),
    ("tRUE", "the library reads true and false in any case"),
    ("!!null x", "taken as null, where kubectl refuses it"),
    ("!x y", "the library does not stop at a tag of somebody's own"),
    ("1__0", "a text: two underscores in a number"),
    ("{yes: x, 010: y}", "keys are texts as they stand: kubectl makes true and 8 of these"),
    ("&a {x: 1, y: 2}\n  other: {<<: *a, y: 3}", "the same: kubectl makes true of the key y"),
    ("&a {x: 1}\n  b: &b {y: 2}\n  other: {<<: [*a, *b], z: 3}", "the same"),
];

/// Whole streams.
fn streams() -> Vec<(&'static str, String)> {
    let object = |name: &str| format!("apiVersion: example.org/v1\nkind: Widget\nmetadata:\n  name: {name}\n");
    let (a, b) = (object("a"), object("b"));
    let deep = |depth: usize| format!("{a}spec: {}{}\n", "{x: ".repeat(depth), "}".repeat(depth));
    let laughs = |levels: usize| {
        let mut text = format!("{a}spec:\n  l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..levels {
            let above = vec![format!("*l{}", level - 1); 10].join(", ");
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  l{level}: &l{level} [{above}]");
        }
        text
    };
    let line = "x".repeat(99);
    let big: Vec<String> = (0..50_000).map(|n| format!("  k{n}: {line}\n")).collect();
    vec![
        ("two documents", format!("{a}---\n{b}")),
        ("documents with a comment", format!("---\n# one\n{a}\n--- # two\n{b}")),
        ("empty documents", format!("---\n---\n{a}---\n---\n# nothing\n---\n{b}---\n")),
        ("an end of a document", format!("{a}...\n---\n{b}...\n")),
        ("Windows' line ends", format!("{a}---\n{b}").replace('\n', "\r\n")),
        ("a byte order mark", format!("\u{feff}{a}")),
        ("a directive", format!("%YAML 1.1\n---\n{a}")),
        ("an anchor of another document", format!("{a}spec: &x 1\n---\n{b}spec: *x\n")),
        ("equal keys", format!("{a}spec: 1\nspec: 2\n")),
        ("no end of line", a.trim_end().to_owned()),
        ("space at the ends", format!("\n\n{}   \n", a.replace('\n', "   \n"))),
        ("a separator in a text", format!("{a}spec: |\n  x\n  ---\n  y\n")),
        ("JSON", json!({"apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "a"}}).to_string()),
        ("five megabytes", format!("{a}spec:\n{}", big.concat())),
        ("a hundred levels", deep(100)),
        ("a thousand levels", deep(1000)),
        ("twenty thousand levels", deep(20_000)),
        ("a small laugh", laughs(3)),
        ("a billion laughs", laughs(9)),
    ]
}

/// Numbers as one type, so that 1 and 1.0 are the same.
fn plain(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, field)| (name, plain(field))).collect(),
        other => other,
    }
}

/// What kubectl makes of a text; `None` when it refuses it.
async fn by_kubectl(kubectl: &std::path::Path, text: &str) -> Option<Vec<Value>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    fsx::write(&file, text).unwrap();
    let args = ["label", "--local", "--dry-run=client", "--output", "json", "--filename"];
    let command = Command::new(kubectl).args(args).arg(&file).arg("seen=yes").env("KUBECONFIG", "/dev/null");
    let ended = ended(command.run(Duration::from_mins(2)).await);
    if ended.code != 0 {
        return None;
    }
    let stream = serde_json::Deserializer::from_str(&ended.stdout).into_iter::<Value>();
    let read = stream.map(|object| {
        // What is too deep for this reader of JSON is told apart from what was refused.
        let Ok(mut object) = object else { return Value::from("too deep") };
        object["metadata"].as_object_mut().unwrap().remove("labels");
        plain(object)
    });
    Some(read.collect())
}

fn by_us(text: &str) -> Option<Vec<Value>> {
    Some(yaml::documents(text, "x.yaml").ok()?.into_iter().map(plain).collect())
}

fn short(value: Option<&Vec<Value>>) -> String {
    let text = value.map_or("refused".to_owned(), |all| json!(all).to_string());
    text.chars().take(200).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn yaml_is_read_as_kubectl_reads_it() {
    let bundle = Bundle::open(&bundle(), &Home::new().unpacked()).unwrap();
    let kubectl = bundle.tool("kubectl").unwrap();
    let object = |value: &&str| {
        let text = format!("apiVersion: example.org/v1\nkind: Widget\nmetadata: {{name: a}}\nspec:\n  v: {value}\n");
        ((*value).to_owned(), text)
    };
    let values = VALUES.iter().map(object);
    let cases: Vec<(String, String)> =
        values.chain(streams().into_iter().map(|(name, text)| (name.to_owned(), text))).collect();
    let theirs: Vec<Option<Vec<Value>>> =
        futures::stream::iter(cases.iter().map(|(_, text)| by_kubectl(&kubectl, text))).buffered(4).collect().await;
    let mut wrong = Vec::new();
    for ((name, text), theirs) in cases.iter().zip(&theirs) {
        let ours = by_us(text);
        let known = DIFFERENT.iter().any(|(different, _)| different == name);
        if (ours != *theirs) != known {
            wrong.push(format!("{name:?}\n  kubectl {}\n  ours    {}", short(theirs.as_ref()), short(ours.as_ref())));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
