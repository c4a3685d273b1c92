//! `--set`: settings in place of those of bootstrap.toml, for every command that reads them.

use crate::environment::{Overrides, settings_names};
use crate::failure::Result;

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
