//! What a person sees while something runs: reporters that draw from events, on standard error.

mod plain;
mod terminal;

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use crate::event::{Event, Events, Sink};
use crate::failure::Failure;

pub use plain::Plain;
pub use terminal::Terminal;

/// Which reporter draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A live view, for terminals.
    Live,
    /// One line a change, for logs and pipelines.
    Plain,
    /// One JSON object an event, on standard output.
    Ndjson,
}

/// The style that fits: NDJSON when JSON was asked for, live in a terminal outside CI, else plain lines.
pub fn style(json: bool) -> Style {
    let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
    if json {
        Style::Ndjson
    } else if std::io::stderr().is_terminal() && std::env::var_os("CI").is_none() && !dumb {
        Style::Live
    } else {
        Style::Plain
    }
}

/// Events drawn in the given style, and taken by further sinks (a run's own log).
pub fn events(style: Style, more: Vec<Arc<dyn Sink>>) -> Events {
    let mut sinks = more;
    sinks.push(match style {
        Style::Live => Arc::new(Terminal::new()) as Arc<dyn Sink>,
        Style::Plain => Arc::new(Plain::new()),
        Style::Ndjson => Arc::new(Ndjson),
    });
    Events::to(sinks)
}

/// One JSON object a line on standard output.
struct Ndjson;

impl Sink for Ndjson {
    fn take(&self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            // A reader that went away does not stop the run.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }
}

/// Writes one line to standard error.
pub(crate) fn narrate(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether standard error may carry colour.
pub fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal()
}

/// Prints a failure: what and why, then what to do.
pub fn print_failure(failure: &Failure) {
    let (red, cyan, reset) = if colour() { ("\x1b[31;1m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
    let mut chain = failure.chain().into_iter();
    narrate(&format!("{red}error{reset}: {}", chain.next().unwrap_or_default()));
    for cause in chain {
        narrate(&format!("  caused by: {cause}"));
    }
    for hint in &failure.hints {
        narrate(&format!("  {cyan}hint{reset}: {hint}"));
    }
}

/// Sends the program's own log to standard error when `CLUSTER_INIT_LOG` asks for it.
pub fn init_tracing(default: &str) {
    let filter = std::env::var("CLUSTER_INIT_LOG").unwrap_or_else(|_| default.into());
    let filter =
        tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    // A subscriber that a test has installed stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}
