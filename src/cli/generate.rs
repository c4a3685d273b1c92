//! `cluster-init generate`: what is written from the code and from the chart's own values.

use std::path::PathBuf;

use super::Printer;
use crate::environment;
use crate::failure::Result;
use crate::fsx;
use crate::git::Repository;

/// Writes the references of settings and values, and the values' schema, into the repository: after the chart got a component, so that
/// its name is known, and after a change of the program.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The repository's folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args, printer: Printer) -> Result<()> {
    let repository = Repository::discover(&args.repo)?;
    let mut written = Vec::new();
    for (path, text) in environment::generated(repository.root())? {
        let file = repository.root().join(&path);
        if fsx::read_text_if_present(&file)?.is_some_and(|old| old == text) {
            continue;
        }
        fsx::create_dir(file.parent().unwrap_or(repository.root()))?;
        fsx::write(&file, text)?;
        written.push(path);
    }
    printer.value(&written, |written| match written.as_slice() {
        [] => "everything is up to date".into(),
        written => written.join("\n"),
    })
}
