//! What is written from the code and committed: the references of settings and values, and the values' schema.

use std::fmt::Write as _;
use std::path::Path;

use super::Result;
use crate::flux::{CHART, Defaults};
use crate::fsx;

use super::overrides::{VARIABLES, variable};
use super::settings::{KEYS, SETTINGS, Settings};

const HEAD: &str = "\
<!-- Written by `cluster-init generate`: change the code, not this file. -->

# Settings

What a bootstrap does and how long it may take. Of several places the first one that has a key counts:

1. a flag: `--set KEY=VALUE`, short `-s`, of `bootstrap`, `resume`, `cleanup`, `plan`, `validate` and `publish` (for some keys there is one of their
   own: `--backend`, `--skip-check`),
2. a variable: `CLUSTER_INIT_` and the key in capital letters,
3. `bootstrap.toml` in the environment's own folder, table `[defaults]`, when that folder is outside of `environment-values`,
4. `bootstrap.toml` in the repository's root, table `[environments.NAME]`,
5. the same file, table `[defaults]`.

A duration is written `90s`, `45m` or `1h30m`. A list is one of TOML in the file; in a flag or a variable its items have commas between
them. A resumed run keeps the flags and variables that it was begun with; `resume --set` goes over them.

";

/// The paths of all such files in a repository, with their texts.
pub fn generated(root: &Path) -> Result<Vec<(String, String)>> {
    let text = |name: &str| fsx::read_text(&root.join(CHART).join(name));
    let values = Defaults::read(&text("values.yaml")?, &text("bootstrap.values.yaml")?)?;
    Ok(vec![
        ("docs/settings.md".into(), settings()),
        ("docs/values.md".into(), values.reference()),
        (format!("{CHART}/values.schema.json"), values.schema()),
    ])
}

/// The reference of all settings.
fn settings() -> String {
    let mut text = format!("{HEAD}| key | variable | value | default | what it is about |\n|---|---|---|---|---|\n");
    for key in KEYS {
        let (name, default) = (key.name, (key.get)(&Settings::default()));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{name}` | `{}` | {} | `{default}` | {} |", variable(name), key.takes, key.says);
    }
    let _ = write!(
        text,
        "\n## Other variables\n\nThese are no keys of `{SETTINGS}`.\n\n| variable | what it is about |\n|---|---|\n"
    );
    for (name, says) in VARIABLES {
        let _ = writeln!(text, "| `{name}` | {says} |");
    }
    text
}
