//! The `cluster-init` library.
