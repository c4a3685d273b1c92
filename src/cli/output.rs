//! Standard output: data, as text or JSON.

use std::io::Write;

use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::yaml;

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// The same as YAML; a plan as manifests.
    Yaml,
}

/// Prints data on standard output; a closed pipe is no error.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    format: Format,
}

impl Printer {
    /// A printer for the given format.
    pub const fn new(format: Format) -> Self {
        Self { format }
    }

    /// The format asked for.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Prints a value: its JSON, or the text that `text` makes of it.
    pub fn value<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let mut out = match self.format {
            Format::Text => text(value),
            Format::Json => serde_json::to_string_pretty(value).map_err(Failure::from_error)?,
            Format::Yaml => yaml::to_string(value)?,
        };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        self.raw(out.as_bytes())
    }

    /// Prints a result after a stream of events: in JSON one more line of the stream.
    pub fn last<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        match self.format {
            Format::Text | Format::Yaml => self.value(value, text),
            Format::Json => {
                let line = serde_json::to_string(value).map_err(Failure::from_error)? + "\n";
                self.raw(line.as_bytes())
            }
        }
    }

    /// Prints bytes as they are.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        let mut out = std::io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::failed("failed to write to standard output").caused_by(error))
            }
            _ => Ok(()),
        }
    }
}

/// Lays rows out as a table whose columns are as wide as their widest cell.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("   ").trim_end().to_owned()
    };
    let mut lines = vec![line(header.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".into(), "running".into()], vec!["longer".into(), "x".into()]];
        assert_eq!(table(&["NAME", "STATE"], &rows), "NAME     STATE\na        running\nlonger   x");
    }
}
