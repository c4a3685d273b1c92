//! Environments: what a user names on the command line.
//!
//! An environment is a folder of `environment-values`. Kustomize renders it to one ConfigMap and two Secrets, variables are
//! replaced, and the result is what the chart's HelmRelease takes its values from ([`Configuration`]). Together with the
//! repository's revision, its source artifact and its chart it is what a cluster is given ([`Publication`]).

mod catalog;
mod check;
mod configuration;
mod error;
mod management;
mod overrides;
mod publication;
mod publish;
mod reference;
mod secret;
mod settings;
mod source;
mod ssh_key;
mod toml_file;
mod variables;

pub use catalog::{Environment, FOLDER, ValueFile};
pub use check::lacks;
pub use configuration::{Configuration, VALUES, texts_of};
pub use error::{Error, Result, nearest};
pub use management::{MANAGEMENT_CLUSTER, Management, Reached};
pub use overrides::Overrides;
pub use publication::{PHASES, Publication, Tools, Variant};
pub use reference::generated;
pub use secret::Secret;
pub use settings::{
    Backend, CHECKS, GitSettings, KindSettings, Machines, SETTINGS, Settings, Source, names as settings_names,
};
pub use source::GitSource;
pub use variables::Variables;
