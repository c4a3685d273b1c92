//! `cluster-init publish` where it cannot: messages and exit codes.

use crate::support;

use std::path::Path;
use std::time::Duration;

use crate::support::{Ended, Home, ended};

async fn publish(home: &Home, folder: &Path, args: &[&str]) -> Ended {
    let command = home.command(["publish"].iter().chain(args)).folder(folder);
    ended(command.run(Duration::from_mins(1)).await)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn an_unknown_environment_names_the_known_ones() {
    let ended = publish(&Home::new(), root(), &["locla"]).await;
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("unknown environment \"locla\" (known: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("did you mean local?"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_folder_that_is_no_repository_is_named() {
    let home = Home::new();
    let ended = publish(&home, home.path(), &["local"]).await;
    assert_eq!(ended.code, 2);
    let said = format!("{} is not in a Git repository", home.path().display());
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
}

#[tokio::test]
async fn without_a_management_cluster_it_says_how_to_make_one() {
    let home = Home::new();
    support::bundle();
    let ended = publish(&home, root(), &["local", "--dirty"]).await;
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("local was never bootstrapped here"), "{}", ended.stderr);
    assert!(ended.stderr.contains("cluster-init bootstrap local"), "{}", ended.stderr);
}
