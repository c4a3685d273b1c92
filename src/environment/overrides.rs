//! Settings that are given otherwise than in `bootstrap.toml`: `--set KEY=VALUE`, and variables `CLUSTER_INIT_KEY`.

use serde::{Deserialize, Serialize};

use super::error::nearest;
use super::settings::{self, Settings, Written};
use super::{Error, Result};

/// What the names of all variables of the program begin with.
const PREFIX: &str = "CLUSTER_INIT_";

/// Variables of the program that are no settings, and what they are about.
pub const VARIABLES: [(&str, &str); 5] = [
    ("CLUSTER_INIT_HOME", "`--home`: the folder with clusters, runs and the default bundle."),
    ("CLUSTER_INIT_BUNDLE", "`--bundle`: the bundle."),
    ("CLUSTER_INIT_OUTPUT", "`--output`: how data is printed on standard output."),
    ("CLUSTER_INIT_LOG", "The program's own log on standard error, such as `cluster_init=debug`."),
    ("CLUSTER_INIT_CRASH_AT", "Where the program is to die, for tests of what happens then."),
];

/// One setting that is given otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Override {
    /// The flag or variable, for errors.
    from: String,
    key: String,
    value: String,
}

/// Settings that are given otherwise than in the file, the weakest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Overrides(Vec<Override>);

/// The variable that gives a key.
pub fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase())
}

impl Overrides {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of the process' own variables. One with a name that is nearly a key's is an error: a typo must not pass.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let known: Vec<(String, &str)> = settings::names().into_iter().map(|key| (variable(key), key)).collect();
        let mut found = Vec::new();
        for (from, value) in variables {
            if !from.starts_with(PREFIX) || value.is_empty() || VARIABLES.iter().any(|(name, _)| *name == from) {
                continue;
            }
            if let Some((_, key)) = known.iter().find(|(name, _)| *name == from) {
                found.push(Override { from, key: (*key).to_owned(), value });
                continue;
            }
            let written = from[PREFIX.len()..].to_lowercase();
            if let Some(near) = nearest(&written, settings::names()) {
                let remedy = format!("did you mean {}?", variable(&near));
                return Err(Error::Settings { at: from, message: format!("unknown key {written}"), remedy });
            }
        }
        // The order of a process' variables says nothing.
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Self(found).checked()
    }

    /// Puts flags over them, each `KEY=VALUE`.
    pub fn with_flags(mut self, flags: &[String]) -> Result<Self> {
        for flag in flags {
            let (key, value) = flag.split_once('=').ok_or_else(|| Error::Settings {
                at: format!("--set {flag}"),
                message: "it has no value".into(),
                remedy: format!("write --set {flag}=VALUE"),
            })?;
            self = self.with(&format!("--set {key}"), key, value)?;
        }
        Ok(self)
    }

    /// Puts one over them, which `from` gives.
    pub fn with(mut self, from: &str, key: &str, value: &str) -> Result<Self> {
        self.0.push(Override { from: from.into(), key: key.into(), value: value.into() });
        self.checked()
    }

    /// Puts others over them.
    #[must_use]
    pub fn over(mut self, others: &Self) -> Self {
        self.0.extend(others.0.iter().cloned());
        self
    }

    /// Mistakes are told before anything else is looked at.
    fn checked(self) -> Result<Self> {
        self.apply(&mut Settings::default())?;
        Ok(self)
    }

    /// Gives the settings their values.
    pub(super) fn apply(&self, settings: &mut Settings) -> Result<()> {
        for Override { from, key, value } in &self.0 {
            settings.set(key, &Written::Plain(value.clone())).map_err(|wrong| Error::Settings {
                at: from.clone(),
                message: wrong.message,
                remedy: wrong.remedy,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capi::Fence;
    use crate::environment::Backend;
    use crate::failure::Failure;

    fn variables(all: &[(&str, &str)]) -> Result<Overrides> {
        Overrides::from_variables(all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn flags_are_stronger_than_variables_and_both_than_the_file() {
        let mut settings = Settings { backend: Backend::Kind, fence: Fence::Stop, ..Settings::default() };
        let given = [
            ("CLUSTER_INIT_BACKEND", "local"),
            ("CLUSTER_INIT_DEADLINE", "1h"),
            ("CLUSTER_INIT_PUBLISH", "a, b"),
            ("CLUSTER_INIT_NO_PROGRESS", ""),
            ("CLUSTER_INIT_HOME", "/h"),
            ("HOME", "/h"),
        ];
        let all = variables(&given).unwrap().with_flags(&["deadline=2h".into(), "skip_checks=".into()]).unwrap();
        all.apply(&mut settings).unwrap();
        assert_eq!(settings.backend, Backend::Local);
        assert_eq!(settings.deadline, Duration::from_hours(2));
        assert_eq!(settings.publish, ["a", "b"]);
        assert_eq!(settings.no_progress, Settings::default().no_progress, "an empty variable is none");
        assert_eq!(settings.fence, Fence::Stop, "what is not given stays");
    }

    #[test]
    fn mistakes_are_named_by_flag_or_variable() {
        let said = |result: Result<Overrides>| {
            let failure = Failure::from(result.unwrap_err());
            format!("{failure} | {}", failure.hints.join("; "))
        };
        let flag = |text: &str| said(Overrides::default().with_flags(&[text.to_owned()]));
        assert_eq!(flag("dedline=1m"), "--set dedline: unknown key dedline | did you mean deadline?");
        assert_eq!(flag("deadline"), "--set deadline: it has no value | write --set deadline=VALUE");
        assert_eq!(flag("deadline=5"), "--set deadline: \"5\" is no duration | write 90s, 45m or 1h30m");
        assert_eq!(
            said(variables(&[("CLUSTER_INIT_BACKEND", "docker")])),
            "CLUSTER_INIT_BACKEND: unknown value \"docker\" | known: local, kind"
        );
        assert_eq!(
            said(variables(&[("CLUSTER_INIT_DEADLNE", "1m")])),
            "CLUSTER_INIT_DEADLNE: unknown key deadlne | did you mean CLUSTER_INIT_DEADLINE?"
        );
        assert!(variables(&[("CLUSTER_INIT_VERSION", "v1")]).unwrap().is_empty(), "others may have such variables");
    }

    #[test]
    fn no_setting_has_the_variable_of_something_else() {
        for key in settings::names() {
            assert!(VARIABLES.iter().all(|(name, _)| *name != variable(key)), "{key}");
        }
    }
}
