//! Variables in an environment's files: `${NAME}`, `${NAME:-default}`, and `$${` for a `${` that stays.
//!
//! Other than envsubst, `$NAME` without braces is plain text (passwords hold dollar signs), what is undefined is an error,
//! and a value is never looked at again.

use std::collections::BTreeMap;

use super::{Error, Result};

/// The variables that files may use.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secrets.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Variables {
    /// The variables of this process' own environment.
    pub fn from_process() -> Self {
        Self(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect())
    }

    /// Adds the variables of a file `.env`, as far as they are not defined already. As in a shell, single quotes keep dollar
    /// signs as they are.
    pub fn beneath(mut self, text: &str, file: &str) -> Result<Self> {
        for pair in dotenvy::from_read_iter(text.as_bytes()) {
            let (name, value) = pair.map_err(|error| {
                // The line may hold a secret: its number must do.
                let wrong = match &error {
                    dotenvy::Error::LineParse(line, _) => text.lines().position(|other| other.trim() == line.trim()),
                    _ => None,
                };
                let at = wrong.map_or_else(|| file.to_owned(), |index| format!("{file}:{}", index + 1));
                Error::EnvFile { at }
            })?;
            self.0.entry(name).or_insert(value);
        }
        Ok(self)
    }

    /// The given variables.
    pub fn of<K: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// Sets one.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Gives variables a value that nobody takes for theirs.
    #[must_use]
    pub fn with_stand_ins(self, names: &[String]) -> Self {
        names.iter().fold(self, |all, name| all.with(name, format!("stand-in-for-{}", name.to_lowercase())))
    }

    /// Replaces the variables of a text; `at` says where it stands, for errors.
    pub fn replace(&self, text: &str, at: &str) -> Result<String> {
        let mut out = String::with_capacity(text.len());
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Use(used) => out.push_str(self.value(&used).ok_or_else(|| used.undefined(at.to_owned()))?),
                Piece::Malformed { found, .. } => {
                    return Err(Error::Malformed { at: at.to_owned(), found: found.to_owned() });
                }
            }
        }
        Ok(out)
    }

    /// Checks that every variable of a file is defined; errors name file and line.
    pub fn check(&self, text: &str, file: &str) -> Result<()> {
        let at = |offset: usize| format!("{file}:{}", text[..offset].matches('\n').count() + 1);
        for piece in pieces(text) {
            match piece {
                Piece::Use(used) if self.value(&used).is_none() => return Err(used.undefined(at(used.offset))),
                Piece::Malformed { found, offset } => {
                    return Err(Error::Malformed { at: at(offset), found: found.to_owned() });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn value<'a>(&'a self, used: &Use<'a>) -> Option<&'a str> {
        let value = self.0.get(used.name).map(String::as_str);
        match used.default {
            // An empty variable counts as none where there is a default.
            Some(default) => Some(value.filter(|value| !value.is_empty()).unwrap_or(default)),
            None => value,
        }
    }
}

/// A use of a variable.
struct Use<'a> {
    name: &'a str,
    default: Option<&'a str>,
    offset: usize,
}

impl Use<'_> {
    fn undefined(&self, at: String) -> Error {
        Error::Undefined { at, name: self.name.to_owned() }
    }
}

/// A part of a text.
enum Piece<'a> {
    Text(&'a str),
    Use(Use<'a>),
    Malformed { found: &'a str, offset: usize },
}

/// Takes a text apart.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &text[at..];
        if rest.is_empty() {
            return None;
        }
        if rest.starts_with("$${") {
            at += 3;
            return Some(Piece::Text("${"));
        }
        if let Some(inner) = rest.strip_prefix("${") {
            let offset = at;
            // Variables do not span lines.
            let line = inner.lines().next().unwrap_or_default();
            let Some(end) = line.find('}') else {
                at = text.len();
                let shown = rest.char_indices().nth(20).map_or(line.len() + 2, |(end, _)| end.min(line.len() + 2));
                return Some(Piece::Malformed { found: &rest[..shown], offset });
            };
            at += 2 + end + 1;
            let body = &line[..end];
            let (name, default) = match [body.find(":-"), body.find(":=")].into_iter().flatten().min() {
                Some(colon) => (&body[..colon], Some(&body[colon + 2..])),
                None => (body, None),
            };
            if !is_name(name) {
                return Some(Piece::Malformed { found: &rest[..end + 3], offset });
            }
            return Some(Piece::Use(Use { name, default, offset }));
        }
        let next = [rest.find("$${"), rest.find("${")].into_iter().flatten().min().unwrap_or(rest.len());
        at += next;
        Some(Piece::Text(&rest[..next]))
    })
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
        && letters.all(|c| c == '_' || c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn variables() -> Variables {
        Variables::of([("A", "1"), ("EMPTY", ""), ("DOLLAR", "${A}$${A}")])
    }

    #[test]
    fn variables_are_replaced() {
        let cases = [
            ("a ${A} b", "a 1 b"),
            ("${A}${A}", "11"),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${NONE:-}", ""),
            ("${NONE:=x:-y}", "x:-y"),
            ("${A:-x}", "1"),
            ("${DOLLAR}", "${A}$${A}"),
            ("$${A} $A $ $$ }", "${A} $A $ $$ }"),
            ("$$${A}", "$${A}"),
        ];
        for (text, expected) in cases {
            assert_eq!(variables().replace(text, "t").unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_file_adds_what_is_not_defined() {
        let text = "# comment\nA=other\nexport B='p$a ss'\n\nC=\"x y\"\n";
        let all = Variables::of([("A", "1")]).beneath(text, ".env").unwrap();
        assert_eq!(all.replace("${A} ${B} ${C}", "t").unwrap(), "1 p$a ss x y");
        let error = Variables::default().beneath("A=1\nhunter2 is no line\n", "e/.env").unwrap_err().to_string();
        assert_eq!(error, "e/.env:2: it is no variable");
    }

    #[test]
    fn what_is_undefined_is_named_with_file_and_line() {
        let error = variables().check("a: ${A}\nb: ${NONE:-x}\n\nc: ${NONE}\n", "env/values.yaml").unwrap_err();
        assert_eq!(error.to_string(), "env/values.yaml:4: variable NONE is not defined");
        let error = variables().check("a: ${A}\nb: ${1X}\n", "env/values.yaml").unwrap_err();
        assert_eq!(error.to_string(), "env/values.yaml:2: \"${1X}\" is not a variable");
        let error = variables().replace("x ${A", "key values").unwrap_err();
        assert_eq!(error.to_string(), "key values: \"${A\" is not a variable");
    }

    proptest! {
        #[test]
        fn text_without_variables_stays(text in "[^$]*|(\\$[^{$]|[a-z\n])*") {
            prop_assert_eq!(variables().replace(&text, "t").unwrap(), text);
        }

        #[test]
        fn an_escaped_text_comes_back(text in "([${}A\n:-]|\\$\\{A\\})*") {
            // Every `${` is escaped; a dollar sign before it stays in front.
            let escaped = text.replace("${", "$${");
            prop_assume!(!text.contains("$${"));
            prop_assert_eq!(variables().replace(&escaped, "t").unwrap(), text);
        }

        #[test]
        fn values_are_inserted_as_they_are(before in "[a-z\n]*", value in ".*", after in "[a-z\n]*") {
            let all = Variables::of([("V", value.as_str())]);
            let text = format!("{before}${{V}}{after}");
            prop_assert_eq!(all.replace(&text, "t").unwrap(), format!("{before}{value}{after}"));
        }

        #[test]
        fn checking_and_replacing_agree(text in "([${}AX:\n-]|\\$\\{A\\}|\\$\\{X:-1\\})*") {
            prop_assert_eq!(variables().check(&text, "t").is_ok(), variables().replace(&text, "t").is_ok());
        }
    }
}
