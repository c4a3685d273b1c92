//! A folder for Unix sockets, whose paths may have 107 bytes at most.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::socket::LONGEST_PATH;

/// Room for the longest socket name with its separator.
const NAME: usize = "/apiserver-egress.sock".len();

/// The node's own folder where sockets' paths stay short enough, else a folder under the user's runtime folder.
pub fn choose(folder: &Path) -> PathBuf {
    if folder.as_os_str().len() + NAME <= LONGEST_PATH {
        return folder.to_path_buf();
    }
    let digest = Sha256::digest(folder.as_os_str().as_bytes());
    let short = digest.iter().take(6).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty() && dir.len() < 60).map(PathBuf::from);
    let base = base.filter(|base| base.is_dir()).unwrap_or_else(|| PathBuf::from("/tmp"));
    base.join(format!("cluster-init-{}-{short:012x}", rustix::process::getuid().as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_folders_get_a_short_one() {
        let short = Path::new("/home/a/nodes/b");
        assert_eq!(choose(short), short);
        let long = PathBuf::from(format!("/{}", "x".repeat(120)));
        let chosen = choose(&long);
        assert!(chosen.as_os_str().len() + NAME <= LONGEST_PATH, "{}", chosen.display());
        assert_eq!(choose(&long), chosen);
        assert_ne!(choose(Path::new(&format!("/{}", "y".repeat(120)))), chosen);
    }
}
