//! The command line as a user meets it: help, exit codes, messages.

use crate::support::Home;

#[tokio::test]
async fn help_names_every_exit_code() {
    let ended = Home::new().run(["--help"]).await.ok();
    for kind in cluster_init::failure::Kind::ALL {
        let line = format!("  {}  {}", kind.exit_code(), kind.meaning());
        assert!(ended.stdout.contains(&line), "missing: {line}\n{}", ended.stdout);
    }
}

#[tokio::test]
async fn an_unknown_command_is_a_usage_error() {
    let ended = Home::new().run(["bootstap"]).await;
    assert_eq!(ended.code, 2);
    assert!(ended.stderr.contains("unrecognized subcommand 'bootstap'"), "{}", ended.stderr);
}

#[tokio::test]
async fn completions_are_printed() {
    let ended = Home::new().run(["completions", "bash"]).await.ok();
    assert!(ended.stdout.contains("complete -F _cluster__init"), "{}", ended.stdout);
}
