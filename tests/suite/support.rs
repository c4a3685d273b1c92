//! What the tests share: a home of their own, the program as a user runs it, and the proof that nothing is left behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_init::exec;
use cluster_init::fsx;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_cluster-init");

/// The bundle that tools/test builds before any test runs; tests that need one call [`bundle`].
fn bundle_path() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let data =
        || var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share"))).map(|d| d.join("cluster-init"));
    let home = || var("CLUSTER_INIT_HOME").or_else(data).expect("HOME is set");
    var("CLUSTER_INIT_BUNDLE").unwrap_or_else(|| home().join("bundle"))
}

/// The suite's bundle; a test that needs it fails, and says how to make it, when it is not there.
pub fn bundle() -> PathBuf {
    let path = bundle_path();
    assert!(path.join("index.json").exists(), "no bundle in {}: run `cluster-init bundle build` first", path.display());
    path
}

/// How a command of ours ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).expect("standard output is JSON")
    }
}

/// A home folder for one test; what runs in it ends with it.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    /// A fresh home below the system's temporary folder: sockets need short paths. Unpacked images are shared, for they are
    /// found by their content.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("ci-").tempdir().expect("a temporary folder");
        let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unpacked");
        fsx::create_private_dir(&shared).expect("the shared folder");
        fsx::create_private_dir(&folder.path().join("cache")).expect("the cache");
        fsx::symlink(&shared, &folder.path().join("cache/unpacked")).expect("a link to the shared folder");
        Self { folder }
    }

    /// Where images are unpacked.
    pub fn unpacked(&self) -> PathBuf {
        self.path().join("cache/unpacked")
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program with this home and the suite's bundle.
    pub fn command<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> exec::Command {
        exec::Command::new(PROGRAM)
            .args(args)
            .env("CLUSTER_INIT_HOME", self.path())
            .env("CLUSTER_INIT_BUNDLE", bundle_path())
            .env("NO_COLOR", "1")
            .env("CI", "true")
            .env_remove("CLUSTER_INIT_OUTPUT")
    }

    /// Runs it to its end, whatever its exit code.
    pub async fn run<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ended {
        ended(self.command(args).run(Duration::from_mins(5)).await)
    }

    /// The pids of processes that have this home's path in their command line.
    pub fn processes(&self) -> Vec<u32> {
        let needle = self.path().display().to_string();
        let mut pids = Vec::new();
        for name in fsx::list(Path::new("/proc")).expect("/proc") {
            let Ok(pid) = name.parse::<u32>() else { continue };
            let Ok(line) = fsx::read(Path::new(&format!("/proc/{pid}/cmdline"))) else { continue };
            if String::from_utf8_lossy(&line).contains(&needle) && pid != std::process::id() {
                pids.push(pid);
            }
        }
        pids
    }
}

/// Reads how a command ended.
pub fn ended(result: exec::Result<exec::Output>) -> Ended {
    match result {
        Ok(output) => Ended { code: 0, stdout: output.text(), stderr: output.stderr },
        Err(exec::Error::Status { code: Some(code), stdout, stderr, .. }) => {
            Ended { code, stdout: String::from_utf8_lossy(&stdout).into_owned(), stderr }
        }
        Err(error) => panic!("{error}"),
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let nodes = fsx::list(&self.path().join("nodes")).unwrap_or_default();
        if nodes.is_empty() && self.processes().is_empty() {
            return;
        }
        if std::thread::panicking() {
            // What a failed test left is kept for the reader; its processes are not.
            let kept = self.folder.path().with_extension("failed");
            let _ = fsx::rename(self.folder.path(), &kept);
            #[allow(clippy::print_stderr, reason = "told to whoever reads the test's output")]
            {
                eprintln!("the test's home is kept in {}", kept.display());
            }
        }
        for pid in self.processes() {
            exec::signal(pid, rustix::process::Signal::TERM);
        }
        let begin = std::time::Instant::now();
        while !self.processes().is_empty() {
            if begin.elapsed() > Duration::from_secs(20) {
                for pid in self.processes() {
                    exec::signal(pid, rustix::process::Signal::KILL);
                }
                assert!(std::thread::panicking(), "processes of the test had to be killed");
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
