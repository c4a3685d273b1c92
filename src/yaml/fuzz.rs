//! Texts that nobody would write. `PROPTEST_CASES=1000000 cargo test --lib fuzz` looks longer.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::Value;

use super::{documents, from_str, located, to_string};

/// Texts of what has a meaning in YAML.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[-:?,{}\\[\\]&*!|>'\"#%@` \n\t~.<=$\\\\]",
        "[a-c0-9]{1,3}",
        Just("\n  ".to_owned()),
        Just("\n- ".to_owned()),
        Just(": ".to_owned()),
        Just("\n---\n".to_owned()),
        Just("&a ".to_owned()),
        Just("*a ".to_owned()),
        Just("<<: ".to_owned()),
        Just("!!str ".to_owned()),
        Just("\u{feff}".to_owned()),
        Just("\r\n".to_owned()),
        any::<char>().prop_map(String::from),
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Any value of JSON.
fn value() -> impl Strategy<Value = Value> {
    let word = prop_oneof![text(), "[a-z]{0,5}", "(yes|no|on|off|null|~|0755|1e3|0x1f|\\.inf|-|\\?|<<|=)"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(word.clone(), inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn fuzz_any_text_is_read_or_refused(text in text()) {
        let read = documents(&text, "x");
        match located(&text, "x") {
            Ok(all) => {
                let lines: Vec<&str> = text.split('\n').collect();
                for (_, spots) in &all {
                    for spot in spots.all() {
                        prop_assert!(spot.line >= 1 && spot.line <= lines.len() as u64 + 1, "{spot}");
                    }
                }
                prop_assert_eq!(read.unwrap(), all.into_iter().map(|(value, _)| value).collect::<Vec<_>>());
            }
            // A place and a reason.
            Err(error) => prop_assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error}"),
        }
    }

    #[test]
    fn fuzz_what_is_written_is_read_back(value in value()) {
        let text = to_string(&value).unwrap();
        prop_assert_eq!(from_str::<Value>(&text, "x").unwrap(), value, "{}", text);
    }
}
