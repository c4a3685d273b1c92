//! `cluster-init vendor`: upstream's manifests in a working tree, for sites whose Git is all that their clusters can reach.

use std::path::PathBuf;

use serde::Serialize;

use super::bootstrap::places;
use super::{Global, Printer};
use crate::bundle::Bundle;
use crate::failure::Result;
use crate::flux;
use crate::fsx;
use crate::git::Repository;
use crate::ui;

/// Writes the content of every upstream URL that a component refers to beside it, and has the component refer to that. Commit
/// the result where clusters cannot reach the network; everywhere else the URLs are better. Only the working tree is changed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The repository's folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
    /// The folders to look in, from the repository's root.
    #[arg(long, value_name = "FOLDER", default_value = flux::COMPONENTS)]
    folder: Vec<String>,
}

/// What was done.
#[derive(Serialize)]
struct Report {
    /// Files that were written.
    written: Vec<String>,
    /// URLs that stay, because the bundle does not hold their content.
    left: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args, global: &Global, printer: Printer) -> Result<()> {
    let (home, folder) = places(global)?;
    let repository = Repository::discover(&args.repo)?;
    let bundle = Bundle::open(&folder, &home.unpacked())?;
    let (_, tree) = repository.snapshot(&args.folder, true)?;
    let (assembled, missing) = flux::assemble_available(&tree, &|url| Ok(bundle.manifest(url)?))?;
    let mut report = Report { written: Vec::new(), left: Vec::new() };
    for missing in &missing {
        report.left.push(missing.url.clone());
        ui::narrate(&format!("left as it is: {}", missing.error()));
    }
    for (path, file) in assembled.files() {
        // A kustomization that lacks something stays whole as it is.
        let lacks = missing.iter().any(|missing| path.starts_with(&format!("{}/", missing.folder)));
        if !lacks && tree.get(path) != Some(file) {
            fsx::write(&repository.root().join(path), &file.content)?;
            report.written.push(path.to_owned());
        }
    }
    printer.value(&report, |report| {
        format!("{} files written, {} URLs left: git diff shows them", report.written.len(), report.left.len())
    })
}
