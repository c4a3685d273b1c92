//! Reads `bootstrap.toml`.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::{SETTINGS, Settings, Written, Wrong};
use super::{Error, Result};
use crate::fsx;

/// A file that is being read.
struct File<'a> {
    /// Its name, for errors.
    name: &'a str,
    text: &'a str,
}

/// The settings of all environments of a repository, and those that hold for any other; without a file the defaults hold.
pub(super) fn read(root: &Path, environments: &[String]) -> Result<(BTreeMap<String, Settings>, Settings)> {
    let text = fsx::read_text_if_present(&root.join(SETTINGS))?.unwrap_or_default();
    File { name: SETTINGS, text: &text }.parse(environments, Settings::default())
}

/// The settings of an environment that has a file of its own, `shown` to the user under that name, over those given.
pub(super) fn read_own(file: &Path, shown: &str, over: Settings) -> Result<Settings> {
    let Some(text) = fsx::read_text_if_present(file)? else { return Ok(over) };
    Ok(File { name: shown, text: &text }.parse(&[], over)?.1)
}

impl File<'_> {
    fn wrong(&self, at: Option<usize>, wrong: Wrong) -> Error {
        let place = at.map_or_else(String::new, |at| {
            let before = self.text.get(..at).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!(":{line}:{column}")
        });
        Error::Settings { at: format!("{}{place}", self.name), message: wrong.message, remedy: wrong.remedy }
    }

    fn table<'t, 'i>(&self, value: &'t Spanned<DeValue<'i>>, name: &str) -> Result<&'t DeTable<'i>> {
        let wrong = || Wrong { message: format!("{name}: it is no table"), remedy: format!("begin it with [{name}]") };
        value.get_ref().as_table().ok_or_else(|| self.wrong(Some(value.span().start), wrong()))
    }

    fn merge(&self, settings: &mut Settings, table: &DeTable<'_>) -> Result<()> {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            settings.set(name, &written(value.get_ref())).map_err(|wrong| {
                // An unknown key stands where it stands, a wrong value after the name of its key.
                let known = super::settings::names().contains(&name);
                let at = if known { value.span().start } else { key.span().start };
                let message = if known { format!("{name}: {}", wrong.message) } else { wrong.message };
                self.wrong(Some(at), Wrong { message, remedy: wrong.remedy })
            })?;
        }
        Ok(())
    }

    fn parse(&self, environments: &[String], over: Settings) -> Result<(BTreeMap<String, Settings>, Settings)> {
        let document = DeTable::parse(self.text).map_err(|error| {
            let wrong = Wrong { message: error.message().to_owned(), remedy: "correct the TOML".into() };
            self.wrong(error.span().map(|span| span.start), wrong)
        })?;
        let mut defaults = over;
        for (key, value) in document.get_ref() {
            match key.get_ref().as_ref() {
                "defaults" => self.merge(&mut defaults, self.table(value, "defaults")?)?,
                "environments" => {}
                other => {
                    let wrong = Wrong::unknown("table", other, &["defaults", "environments"]);
                    return Err(self.wrong(Some(key.span().start), wrong));
                }
            }
        }
        let mut all: BTreeMap<String, Settings> =
            environments.iter().map(|name| (name.clone(), defaults.clone())).collect();
        if let Some(tables) = document.get_ref().get("environments") {
            for (name, value) in self.table(tables, "environments")? {
                let known: Vec<&str> = environments.iter().map(String::as_str).collect();
                let Some(settings) = all.get_mut(name.get_ref().as_ref()) else {
                    let wrong = Wrong::unknown("environment", name.get_ref(), &known);
                    return Err(self.wrong(Some(name.span().start), wrong));
                };
                self.merge(settings, self.table(value, &format!("environments.{}", name.get_ref()))?)?;
            }
        }
        Ok((all, defaults))
    }
}

fn written(value: &DeValue<'_>) -> Written {
    if let Some(text) = value.as_str() {
        return Written::Text(text.to_owned());
    }
    if let Some(on) = value.as_bool() {
        return Written::Switch(on);
    }
    if let Some(number) = value.as_integer() {
        return Written::Number(number.as_str().to_owned());
    }
    let texts = |items: &toml::de::DeArray<'_>| {
        items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
    };
    value.as_array().and_then(texts).map_or(Written::Other, Written::List)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::failure::Failure;

    fn parse(text: &str) -> Result<BTreeMap<String, Settings>> {
        let file = File { name: SETTINGS, text };
        Ok(file.parse(&["local".into(), "rke2-capd".into()], Settings::default())?.0)
    }

    #[test]
    fn environments_override_the_defaults_key_by_key() {
        let all = parse("[defaults]\ndeadline = '30m'\npublish = ['.']\n[environments.local]\nno_progress = '1m30s'\n")
            .unwrap();
        assert_eq!(all["local"].deadline, Duration::from_mins(30));
        assert_eq!(all["local"].no_progress, Duration::from_secs(90));
        assert_eq!(all["rke2-capd"].no_progress, Settings::default().no_progress);
        assert_eq!(all["rke2-capd"].publish, ["."]);
        assert_eq!(parse("").unwrap()["local"], Settings::default());
    }

    #[test]
    fn mistakes_are_named_with_their_line_and_column() {
        let cases = [
            ("[defaults]\n\ndedline = '1m'\n", "bootstrap.toml:3:1: unknown key dedline", "did you mean deadline?"),
            (
                "[defaults]\nzzz = 1\n",
                "bootstrap.toml:2:1: unknown key zzz",
                "known: backend, machines, source, git_url, git_branch, git_follow, git_ca_file, git_known_hosts_file, kind_api_port, kind_feature_gates, kind_mounts, publish, deadline, no_progress, fence, skip_checks",
            ),
            ("[default]\n", "bootstrap.toml:1:2: unknown table default", "did you mean defaults?"),
            ("[environments.locl]\n", "bootstrap.toml:1:15: unknown environment locl", "did you mean local?"),
            (
                "[defaults]\ndeadline = 'soon'\n",
                "bootstrap.toml:2:12: deadline: \"soon\" is no duration",
                "write 90s, 45m or 1h30m",
            ),
            ("[defaults]\ndeadline = 5\n", "bootstrap.toml:2:12: deadline: it is no text", "write it in quotes"),
            (
                "[defaults]\nbackend = 'lokal'\n",
                "bootstrap.toml:2:11: backend: unknown value \"lokal\"",
                "did you mean local?",
            ),
            (
                "[defaults]\nskip_checks = ['disk', 'prots']\n",
                "bootstrap.toml:2:15: skip_checks: unknown preflight check prots",
                "did you mean ports?",
            ),
            (
                "[defaults]\npublish = ['a', 1]\n",
                "bootstrap.toml:2:11: publish: it is no list of texts",
                "write a list: [\"a\", \"b\"]",
            ),
            (
                "[defaults]\nkind_api_port = 70000\n",
                "bootstrap.toml:2:17: kind_api_port: 70000 is no port",
                "write a number up to 65535",
            ),
            (
                "[defaults]\nkind_api_port = '6443'\n",
                "bootstrap.toml:2:17: kind_api_port: it is no number",
                "write it without quotes",
            ),
            (
                "[defaults]\nkind_feature_gates = ['NodeSwap']\n",
                "bootstrap.toml:2:22: kind_feature_gates: \"NodeSwap\" is no feature gate",
                "write NAME=true or NAME=false",
            ),
            (
                "[defaults]\nkind_mounts = ['/srv', 'certs:/certs']\n",
                "bootstrap.toml:2:15: kind_mounts: \"/srv\" is no mount",
                "write /PATH/ON/HOST:/PATH/IN/NODE, with :ro behind it where nothing is to be written",
            ),
            ("defaults = 1\n", "bootstrap.toml:1:12: defaults: it is no table", "begin it with [defaults]"),
        ];
        for (text, message, remedy) in cases {
            let failure = Failure::from(parse(text).unwrap_err());
            assert_eq!((failure.to_string().as_str(), failure.hints[0].as_str()), (message, remedy));
        }
        assert!(parse("[defaults\n").unwrap_err().to_string().starts_with("bootstrap.toml:1:"));
    }
}
