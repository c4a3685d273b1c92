//! The `cluster-init` program: everything is in the library.
use std::process::ExitCode;

fn main() -> ExitCode {
    cluster_init::cli::main()
}
