//! The Go toolchain: found, asked, and run for many programs at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result};
use super::parts::Program;
use super::target::{Target, module_path};
use crate::event::{Events, What};
use crate::exec::{self, Command};
use crate::{clock, fsx};

/// Asking the toolchain something takes this long at most; it may have to fetch itself in the version that go.mod names.
const ASK: Duration = Duration::from_mins(5);
/// Downloading all modules, and building all programs on a slow machine with others beside.
const BUILD: Duration = Duration::from_hours(2);
/// How often the finished programs are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// What an interrupted toolchain gets to clean up after itself.
const GRACE: Duration = Duration::from_secs(5);
/// Lines of the compiler's output that an error shows.
const LINES: usize = 20;

/// A Go toolchain.
#[derive(Clone, Debug)]
pub(super) struct Toolchain {
    program: PathBuf,
    modules: PathBuf,
    facts: Facts,
    memory: u64,
}

/// What `go env` says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Facts {
    goversion: String,
    gocache: PathBuf,
    gomodcache: PathBuf,
}

/// One module, as `go mod download -json` describes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    dir: PathBuf,
}

impl Toolchain {
    /// Finds the toolchain; `modules` is the folder with the modules' files.
    pub(super) async fn find(modules: &Path) -> Result<Self> {
        let program = exec::find("go").ok_or(Error::NoGo)?;
        let command =
            Command::new(&program).folder(modules).args(["env", "-json", "GOVERSION", "GOCACHE", "GOMODCACHE"]);
        let output =
            command.env("GOWORK", "off").run(ASK).await.map_err(|error| Error::OldGo { output: error.to_string() })?;
        let facts = serde_json::from_slice(&output.stdout)
            .map_err(|error| Error::Go { action: "ask go for its environment".into(), output: error.to_string() })?;
        Ok(Self { program, modules: modules.to_owned(), facts, memory: memory_limit() })
    }

    /// The version: `go1.26.8`.
    pub(super) fn version(&self) -> &str {
        &self.facts.goversion
    }

    /// The folder with the modules' files.
    pub(super) fn modules(&self) -> &Path {
        &self.modules
    }

    /// The folder of compiled packages.
    pub(super) fn cache(&self) -> &Path {
        &self.facts.gocache
    }

    /// The folder of modules' sources.
    pub(super) fn module_cache(&self) -> &Path {
        &self.facts.gomodcache
    }

    /// Processor as Go names it.
    pub(super) fn architecture() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }

    /// A command whose result depends on nothing that the user has set but the proxies and the caches.
    fn command(&self, module: &str) -> Command {
        Command::new(&self.program)
            .folder(self.modules.join(module))
            .env("GOFLAGS", "")
            .env("GOWORK", "off")
            .env("GOOS", "linux")
            .env("GOARCH", Self::architecture())
            .env("GOAMD64", "v1")
            .env("GOARM64", "v8.0")
            .env("GOEXPERIMENT", "")
            .env("CGO_ENABLED", "0")
            // The compilers end sooner than their garbage would matter, as long as memory is there.
            .env("GOGC", "off")
            .env("GOMEMLIMIT", self.memory.to_string())
    }

    /// The folder with a module's sources, fetched and compared with go.sum when it is not there.
    pub(super) async fn module_folder(&self, module: &str, path: &str) -> Result<PathBuf> {
        let command = self.command(module).args(["mod", "download", "-json", path]);
        let output = command.run(BUILD).await?;
        let found: Downloaded = serde_json::from_slice(&output.stdout)
            .map_err(|error| Error::Go { action: format!("find the module {path}"), output: error.to_string() })?;
        Ok(found.dir)
    }

    /// Has a go.mod take a module from a folder.
    pub(super) async fn replace(&self, module: &str, file: &Path, from: &str, folder: &str) -> Result<()> {
        let command = self.command(module).args(["mod", "edit"]).arg(format!("-replace={from}={folder}")).arg(file);
        command.run(ASK).await.map(|_| ()).map_err(Error::from)
    }

    /// Builds targets of one module, with the given go.mod, into `out`, and gives each to `done` as soon as it is linked.
    pub(super) async fn build(
        &self,
        targets: &[Target<'_>],
        modfile: &Path,
        out: &Path,
        events: &Events,
        cancel: &CancellationToken,
        mut done: impl AsyncFnMut(&Target<'_>, &Path) -> Result<()>,
    ) -> Result<()> {
        let module = targets.first().map_or("", |target| target.module);
        let path = module_path(&fsx::read_text(modfile)?);
        fsx::remove_dir(out)?;
        let work = out.join("work");
        fsx::create_dir(&work)?;
        let mut command = self.command(module);
        // On the same file system as `out`, so that a linked program is moved there in one step.
        command = command.env("GOTMPDIR", &work);
        command = command.args(["build", "-v", "-mod=readonly", "-buildvcs=false", "-pgo=off", "-trimpath"]);
        command = command.arg(format!("-modfile={}", modfile.display()));
        // No debugger will look at them, and a tenth of the compilers' time goes into what it would need.
        command = command.arg("-gcflags=all=-dwarf=false");
        let mut waiting = BTreeMap::new();
        let mut packages = Vec::new();
        for target in targets {
            let package = target.package(&path);
            command = command.arg(format!("-ldflags={package}={}", flags(&target.members)));
            waiting.insert(binary_name(&package).to_owned(), target);
            packages.push(package);
        }
        let total = self.count(module, modfile, &packages, events, cancel).await?;
        let bin = out.join("bin");
        fsx::create_dir(&bin)?;
        command = command.arg("-o").arg(format!("{}/", bin.display())).args(&packages);
        let mut said: Vec<String> = Vec::new();
        let mut compiled = 0;
        let report = |state: &str, done| {
            let (subject, state) = ("packages".into(), state.into());
            events.send(What::Progress { subject, state, done: Some(done), total: Some(total) });
        };
        let status = follow(
            command,
            cancel,
            |_, line| {
                if line.contains([' ', '\t']) {
                    said.push(line);
                } else {
                    compiled += 1;
                    // What the cache holds is not compiled, and the end is reported when it is reached.
                    report("compiling", compiled.min(total.saturating_sub(1)));
                }
            },
            async || collect(&bin, &mut waiting, &mut done).await,
        )
        .await;
        if matches!(status, Err(Error::Interrupted)) {
            // An interrupted go leaves its work behind: gigabytes that are of no use to anybody.
            fsx::remove_dir(out)?;
        }
        let status = status?;
        if !status.success() {
            let names: Vec<String> = waiting.values().flat_map(|target| target.names()).collect();
            return Err(Error::Go { action: format!("build {}", names.join(", ")), output: last(&said) });
        }
        if let Some(name) = waiting.into_keys().next() {
            return Err(Error::Go { action: format!("build {name}"), output: "go made no program".into() });
        }
        report("compiled", total);
        fsx::remove_dir(out)?;
        Ok(())
    }

    /// Number of packages that programs are made of; fetches the modules that they need.
    async fn count(
        &self,
        module: &str,
        modfile: &Path,
        packages: &[String],
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<u64> {
        let command = self.command(module).args(["list", "-mod=readonly", "-deps"]);
        let command = command.arg(format!("-modfile={}", modfile.display())).args(packages);
        let mut said: Vec<String> = Vec::new();
        let (mut count, mut fetched) = (0, 0);
        let status = follow(
            command,
            cancel,
            |source, line| match source {
                Source::Out => count += 1,
                Source::Error if line.starts_with("go: downloading ") => {
                    fetched += 1;
                    let (subject, state) = ("modules".into(), "downloading".into());
                    events.send(What::Progress { subject, state, done: Some(fetched), total: None });
                }
                Source::Error => said.push(line),
            },
            async || Ok(()),
        )
        .await?;
        if status.success() {
            Ok(count)
        } else {
            Err(Error::Go { action: "fetch the modules".into(), output: last(&said) })
        }
    }
}

/// Which of a command's two streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Out,
    Error,
}

/// Runs a command to its end, gives its lines to `line`, and calls `look` now and then and once after it has ended.
async fn follow(
    command: Command,
    cancel: &CancellationToken,
    mut line: impl FnMut(Source, String),
    mut look: impl AsyncFnMut() -> Result<()>,
) -> Result<ExitStatus> {
    let name = command.name();
    let mut child = command.spawn_piped()?;
    let broken = |source| exec::Error::Pipe { program: name.clone(), source };
    let mut out = child.stdout().map(|pipe| BufReader::new(pipe).lines());
    let mut err = child.stderr().map(|pipe| BufReader::new(pipe).lines());
    let deadline = clock::Deadline::after(BUILD);
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while out.is_some() || err.is_some() {
        tokio::select! {
            next = next_line(&mut out) => match next.map_err(&broken)? {
                Some(text) => line(Source::Out, text),
                None => out = None,
            },
            next = next_line(&mut err) => match next.map_err(&broken)? {
                Some(text) => line(Source::Error, text),
                None => err = None,
            },
            _ = ticks.tick() => look().await?,
            () = cancel.cancelled() => {
                child.stop(GRACE).await?;
                return Err(Error::Interrupted);
            }
            () = tokio::time::sleep(deadline.left()) => {
                child.stop(GRACE).await?;
                return Err(exec::Error::Timeout { program: name.clone(), limit: BUILD, stderr: String::new() }.into());
            }
        }
    }
    let status = child.wait().await?;
    look().await?;
    Ok(status)
}

/// The next line of a stream; one that has ended has none, and never again.
async fn next_line<R: tokio::io::AsyncRead + Unpin>(
    lines: &mut Option<Lines<BufReader<R>>>,
) -> std::io::Result<Option<String>> {
    match lines {
        Some(lines) => lines.next_line().await,
        None => std::future::pending().await,
    }
}

/// Hands finished programs over.
async fn collect<'a, 'b>(
    bin: &Path,
    waiting: &mut BTreeMap<String, &'a Target<'b>>,
    done: &mut impl AsyncFnMut(&Target<'_>, &Path) -> Result<()>,
) -> Result<()> {
    for name in fsx::list(bin)? {
        if let Some(target) = waiting.remove(&name) {
            let path = bin.join(name);
            done(target, &path).await?;
            fsx::remove_file(&path)?;
        }
    }
    Ok(())
}

fn last(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// The name that Go gives the program of a package: the last name of its path that is no major version.
pub(super) fn binary_name(package: &str) -> &str {
    let is_version = |name: &&str| name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok());
    package.rsplit('/').find(|name| !is_version(name)).unwrap_or(package)
}

/// The linker's flags of the programs of one file.
fn flags(programs: &[&Program]) -> String {
    let mut variables = BTreeMap::new();
    for program in programs {
        if let Some(package) = &program.stamp {
            let mut numbers = program.version.trim_start_matches('v').split('.');
            variables.insert(format!("{package}.gitVersion"), program.version.as_str());
            variables.insert(format!("{package}.gitMajor"), numbers.next().unwrap_or_default());
            variables.insert(format!("{package}.gitMinor"), numbers.next().unwrap_or_default());
            variables.insert(format!("{package}.gitTreeState"), "clean");
        }
        if let Some(variable) = &program.variable {
            variables.insert(variable.clone(), &program.version);
        }
    }
    let set: Vec<String> = variables.into_iter().map(|(variable, value)| format!(" -X {variable}={value}")).collect();
    format!("-s -w{}", set.concat())
}

/// How much one compiler may use before it collects garbage: half of what is free, shared by as many as run at a time.
fn memory_limit() -> u64 {
    const LEAST: u64 = 512 << 20;
    const MOST: u64 = 2560 << 20;
    let free = fsx::read_text(Path::new("/proc/meminfo")).ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    });
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    (free.unwrap_or_default() * 1024 / 2 / processors).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::super::parts::Parts;
    use super::*;

    #[test]
    fn programs_are_named_as_go_names_them() {
        let cases =
            [("helm.sh/helm/v4/cmd/helm", "helm"), ("sigs.k8s.io/kustomize/kustomize/v5", "kustomize"), ("a/v", "v")];
        for (package, name) in cases {
            assert_eq!(binary_name(package), name);
        }
    }

    #[test]
    fn versions_are_stamped() {
        let parts = Parts::own().unwrap().all;
        let flags_of = |name: &str| flags(&[parts.iter().find(|p| p.name() == name).unwrap().go_program().unwrap()]);
        assert_eq!(flags_of("etcd"), "-s -w");
        let kubectl = flags_of("kubectl");
        for set in ["gitVersion=v1.36.1", "gitMajor=1", "gitMinor=36", "gitTreeState=clean"] {
            assert!(kubectl.contains(&format!(" -X k8s.io/component-base/version.{set}")), "{kubectl}");
        }
        assert_eq!(flags_of("helm"), "-s -w -X helm.sh/helm/v4/internal/version.version=v4.2.2");
    }

    #[test]
    fn memory_is_limited() {
        assert!((512 << 20..=2560 << 20).contains(&memory_limit()));
    }
}
