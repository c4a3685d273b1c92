//! Any text is read, or refused with a reason; the readers agree; what was read can be written, and is read back the same.
#![no_main]

use cluster_init::yaml;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let read = yaml::documents(text, "x");
    let located = match yaml::located(text, "x") {
        Ok(located) => located,
        Err(error) => {
            assert!(!error.message.is_empty() && !error.message.contains('\n'), "{error}");
            return;
        }
    };
    // Whoever looks for places reads the same.
    let values: Vec<&Value> = located.iter().map(|(value, _)| value).collect();
    assert_eq!(read.as_ref().map(|all| all.iter().collect::<Vec<_>>()).ok(), Some(values));
    // YAML knows more ends of a line than most.
    let lines = 1 + text.matches(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() as u64;
    for (value, spots) in &located {
        for key in value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()) {
            if let Some(spot) = spots.exact(&[key]) {
                assert!(spot.line >= 1 && spot.line <= lines + 1, "{key:?} at {spot}");
            }
        }
        let written = yaml::to_string(value).expect("what was read can be written");
        let again: Value = yaml::from_str(&written, "written").expect("what was written can be read");
        assert_eq!(again, *value, "{written}");
    }
});
