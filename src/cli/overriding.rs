//! What several commands take: settings in place of those of bootstrap.toml, and what is deployed.

use std::path::{Path, PathBuf};

use crate::bootstrap::Subject;
use crate::environment::{Overrides, settings_names};
use crate::failure::{Failure, Result};

/// Settings in place of those of bootstrap.toml.
#[derive(Debug, Default, clap::Args)]
pub struct Overriding {
    #[arg(short, long, value_name = "KEY=VALUE", help = help())]
    set: Vec<String>,
}

fn help() -> String {
    format!(
        "Another value for a key of bootstrap.toml ({}), as the variable CLUSTER_INIT_KEY gives one; may be given several times",
        settings_names().join(", ")
    )
}

impl Overriding {
    /// The flags over the process' variables.
    pub fn all(&self) -> Result<Overrides> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Ok(Overrides::from_variables(std::env::vars_os().filter_map(text))?.with_flags(&self.set)?)
    }

    /// The flags alone, for what has taken over variables before.
    pub fn flags(&self) -> Result<Overrides> {
        Ok(Overrides::default().with_flags(&self.set)?)
    }
}

/// What is deployed: the options that `bootstrap` and `apply` share.
#[derive(Debug, clap::Args)]
pub struct Deployed {
    /// The environment: a folder of environment-values, or the path of one elsewhere.
    env: String,
    /// Deploy the working tree although it holds changes that are not committed.
    #[arg(long)]
    dirty: bool,
    /// Leave a preflight check out; may be given several times, in place of those of bootstrap.toml.
    #[arg(long, value_name = "NAME")]
    skip_check: Vec<String>,
    #[command(flatten)]
    overriding: Overriding,
    /// The repository's folder.
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
}

impl Deployed {
    /// The subject of a story that makes its clusters and takes the first one away at its end.
    pub fn subject(self) -> Result<Subject> {
        let mut overrides = self.overriding.all()?;
        if !self.skip_check.is_empty() {
            overrides = overrides.with("--skip-check", "skip_checks", &self.skip_check.join(","))?;
        }
        let (environment, repository) = (self.env, absolute(&self.repo)?);
        Ok(Subject { environment, repository, dirty: self.dirty, keep: false, overrides, kubeconfig: None })
    }
}

/// A path that holds wherever the process goes.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("there is no {}", path.display())).caused_by(error))
}
