//! Everything that is tested from outside: one program, because linking one is faster than linking ten.
//!
//! Tests that need a cluster make it from the suite's bundle, each in a home of its own (see [`support`]).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's way to fail")]
#![allow(
    clippy::print_stderr,
    clippy::new_without_default,
    missing_docs,
    reason = "told to whoever reads the test's output"
)]

mod apply;
mod arena;
mod authority;
mod bad_input;
mod bundle;
mod cleanup;
mod cli;
mod content;
mod copies;
mod cutter;
mod docker;
mod elsewhere;
mod generated;
mod git;
mod git_server;
mod git_ssh;
mod junit;
mod kill_matrix;
mod local;
mod newborn;
mod pivot;
mod pivot_trouble;
mod plan;
mod provider;
mod publish;
mod pull;
mod push;
mod registry;
mod seed;
mod story;
mod support;
mod upstream;
mod yaml;
