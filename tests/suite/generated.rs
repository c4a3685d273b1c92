//! What is generated and committed is what the code would write now.

use std::path::Path;

use cluster_init::{environment, fsx};

#[test]
fn committed_references_and_schema_are_those_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, text) in environment::generated(root).unwrap() {
        let committed = fsx::read_text(&root.join(&path)).unwrap_or_default();
        assert!(committed == text, "{path} is out of date: cluster-init generate");
    }
}
