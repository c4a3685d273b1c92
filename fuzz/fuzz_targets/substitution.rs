//! Variables in any text are replaced, or refused with a place; checking and replacing agree; nothing else changes.
#![no_main]

use cluster_init::environment::Variables;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let variables = Variables::of([("A", "1"), ("EMPTY", ""), ("DOLLAR", "${A}$${A}")]);
    let (checked, replaced) = (variables.check(text, "x"), variables.replace(text, "x"));
    assert_eq!(checked.is_ok(), replaced.is_ok(), "{checked:?} {replaced:?}");
    if let Err(error) = &checked {
        let lines = text.split('\n').count();
        let said = error.to_string();
        let line = said.strip_prefix("x:").and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
        assert!(line.is_some_and(|line| line >= 1 && line <= lines), "{said}");
    }
    if !text.contains("${") {
        assert_eq!(replaced.ok().as_deref(), Some(text), "what holds no variable stays");
    } else if !text.contains("$${") {
        // Every `${` is escaped; a dollar sign before it stays in front.
        assert_eq!(variables.replace(&text.replace("${", "$${"), "x").ok().as_deref(), Some(text));
    }
    // The same text as a file of variables.
    if let Err(error) = variables.beneath(text, ".env") {
        assert!(error.to_string().starts_with(".env"), "{error}");
    }
});
