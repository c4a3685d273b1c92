//! The machine that a node runs on, as its Node object describes it.

use std::path::Path;

use rustix::system::uname;

use crate::fsx;

/// Facts about the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Processors.
    pub cpus: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// Disk in bytes, of the file system that pods live on.
    pub disk: u64,
    /// Kernel's release.
    pub kernel: String,
    /// Kubernetes' name of the processor's architecture.
    pub architecture: String,
    /// Distribution's name.
    pub os_image: String,
    /// Id of the installed system.
    pub system_id: String,
    /// Id of this boot.
    pub boot_id: String,
}

impl Machine {
    /// Looks at this machine; `folder` is where pods live.
    pub fn look(folder: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let disk = rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_blocks * stat.f_frsize);
        Self {
            cpus,
            memory: memory_total(&text("/proc/meminfo")),
            disk,
            kernel: uname().release().to_string_lossy().into_owned(),
            architecture: architecture.to_owned(),
            os_image: pretty_name(&text("/etc/os-release")),
            system_id: text("/etc/machine-id").trim().to_owned(),
            boot_id: text("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        }
    }
}

/// A file's text, or nothing: every fact read here is for display.
fn text(path: &str) -> String {
    fsx::read_text(Path::new(path)).unwrap_or_default()
}

fn memory_total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(1 << 20) * 1024
}

fn pretty_name(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_parsed() {
        assert_eq!(memory_total("MemTotal:       2048 kB\nMemFree: 1 kB\n"), 2048 * 1024);
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Debian 13\"\n"), "Debian 13");
    }
}
