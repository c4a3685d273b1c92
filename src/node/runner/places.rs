//! Where a container's paths and ports really are: a process has no mount and no network namespace of its own.

use std::path::{Path, PathBuf};

use super::ports::PodPorts;

/// Maps a container's paths to the host's.
#[derive(Clone, Debug, Default)]
pub struct PathMap {
    /// Mount paths with the real paths behind them, longest first.
    mounts: Vec<(String, PathBuf)>,
    /// The image's unpacked root.
    image: PathBuf,
    /// Stands for everything else that the container may write.
    scratch: PathBuf,
}

impl PathMap {
    /// A map of the given mounts over an image.
    pub fn new(mounts: Vec<(String, PathBuf)>, image: PathBuf, scratch: PathBuf) -> Self {
        let mut mounts: Vec<_> = mounts
            .into_iter()
            .map(|(path, real)| (path.trim_end_matches('/').to_owned(), real))
            .filter(|(path, _)| path.starts_with('/'))
            .collect();
        mounts.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then(a.cmp(b)));
        Self { mounts, image, scratch }
    }

    /// The image's unpacked root.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The real path of a mounted path.
    pub fn mounted(&self, path: &Path) -> Option<PathBuf> {
        self.mounts.iter().find_map(|(mount, real)| {
            let rest = path.strip_prefix(mount).ok()?;
            Some(if rest.as_os_str().is_empty() { real.clone() } else { real.join(rest) })
        })
    }

    /// The real path of any path: a mount's, else the image's own if it holds one, else one in the scratch folder.
    pub fn path(&self, path: &Path) -> PathBuf {
        let inner = path.strip_prefix("/").unwrap_or(path);
        self.mounted(path).unwrap_or_else(|| {
            let own = self.image.join(inner);
            if own.exists() { own } else { self.scratch.join(inner) }
        })
    }

    /// Rewrites every mounted path in a text, and the text itself when it names a file of the image.
    pub fn rewrite(&self, text: &str) -> String {
        let whole = Path::new(text);
        if whole.is_absolute() && self.mounted(whole).is_none() {
            let own = self.image.join(whole.strip_prefix("/").unwrap_or(whole));
            if whole != Path::new("/") && own.is_file() {
                return own.to_string_lossy().into_owned();
            }
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            if rest.starts_with('/')
                && starts_a_path(&out)
                && let Some((mount, real)) = self.mounts.iter().find(|(mount, _)| is_path_prefix(mount, rest))
            {
                out.push_str(&real.to_string_lossy());
                // The rest of this path stays as it is.
                let end = rest[mount.len()..].find(|c: char| !in_path(c)).map_or(rest.len(), |i| mount.len() + i);
                out.push_str(&rest[mount.len()..end]);
                rest = &rest[end..];
            } else {
                let next = rest.chars().next().map_or(1, char::len_utf8);
                out.push_str(&rest[..next]);
                rest = &rest[next..];
            }
        }
        out
    }
}

fn in_path(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '@' | '%')
}

/// Whether a path may begin after `before`: not in the middle of another path or of a URL's.
fn starts_a_path(before: &str) -> bool {
    before.is_empty() || before.ends_with("file://") || !before.ends_with(in_path)
}

fn is_path_prefix(mount: &str, text: &str) -> bool {
    text.strip_prefix(mount).is_some_and(|tail| tail.is_empty() || tail.starts_with('/') || !tail.starts_with(in_path))
}

/// Rewrites the pod's own ports in an argument or a variable: `:PORT` after an own or no host, and the bare number
/// where the name says that it is a port or an address. Returns the container ports that it found as well.
pub fn rewrite_ports(name: &str, value: &str, ports: &PodPorts) -> (String, Vec<u16>) {
    let mut found = Vec::new();
    let name = name.to_ascii_lowercase();
    if ["port", "addr", "listen", "bind"].iter().any(|word| name.contains(word))
        && let Ok(number) = value.parse::<u16>()
        && let Some(real) = ports.real(number)
    {
        return (real.to_string(), vec![number]);
    }
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once(':') {
        out.push_str(before);
        let host_start = out.rfind(|c: char| !is_host(c)).map_or(0, |i| i + 1);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let real = after[..digits].parse().ok().and_then(|number| Some((number, ports.real(number)?)));
        match real {
            // A number that goes on as a name (an image's tag) and a port of another host are not ours.
            Some((number, real)) if is_own(&out[host_start..]) && !after[digits..].starts_with(is_host) => {
                found.push(number);
                if &out[host_start..] != "localhost" {
                    out.truncate(host_start);
                    out.push_str("127.0.0.1");
                }
                out.push(':');
                out.push_str(&real.to_string());
            }
            _ => {
                out.push(':');
                out.push_str(&after[..digits]);
            }
        }
        rest = &after[digits..];
    }
    out.push_str(rest);
    (out, found)
}

fn is_host(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']')
}

fn is_own(host: &str) -> bool {
    matches!(host, "" | "0.0.0.0" | "127.0.0.1" | "localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> PathMap {
        let mounts = vec![
            ("/tmp".to_owned(), PathBuf::from("/p/volumes/tmp")),
            ("/tmp/certs/".to_owned(), PathBuf::from("/p/volumes/certs")),
            ("/data".to_owned(), PathBuf::from("/p/volumes/data")),
        ];
        PathMap::new(mounts, PathBuf::from("/nonexistent/image"), PathBuf::from("/p/scratch"))
    }

    #[test]
    fn mounted_paths_are_rewritten_wherever_they_begin() {
        let cases = [
            ("/data", "/p/volumes/data"),
            ("--dir=/data/x", "--dir=/p/volumes/data/x"),
            ("/tmp/certs/tls.crt", "/p/volumes/certs/tls.crt"),
            ("/tmp/certs2", "/p/volumes/tmp/certs2"),
            ("a=/data,b=/tmp", "a=/p/volumes/data,b=/p/volumes/tmp"),
            ("file:///data/x", "file:///p/volumes/data/x"),
            ("cat /data/a; ls /tmp", "cat /p/volumes/data/a; ls /p/volumes/tmp"),
            ("/database", "/database"),
            ("http://host/data", "http://host/data"),
            ("./data", "./data"),
            ("/mnt/data", "/mnt/data"),
            ("/data/tmp", "/p/volumes/data/tmp"),
        ];
        for (from, to) in cases {
            assert_eq!(map().rewrite(from), to);
        }
    }

    #[test]
    fn other_paths_fall_to_the_image_or_the_scratch_folder() {
        let image = tempfile::tempdir().unwrap();
        crate::fsx::create_dir(&image.path().join("etc")).unwrap();
        crate::fsx::write(&image.path().join("etc/config.yml"), "x").unwrap();
        let map = PathMap::new(Vec::new(), image.path().to_path_buf(), PathBuf::from("/s"));
        let own = image.path().join("etc/config.yml");
        assert_eq!(map.path(Path::new("/etc/config.yml")), own);
        assert_eq!(map.path(Path::new("/var/lib/x")), Path::new("/s/var/lib/x"));
        assert_eq!(map.rewrite("/etc/config.yml"), own.to_string_lossy());
        assert_eq!(map.rewrite("/etc"), "/etc");
        assert_eq!(map.rewrite("/"), "/");
    }

    #[test]
    fn ports_are_rewritten_where_they_are_ours() {
        let ports = PodPorts::fixed([(8080, 40_001), (9443, 40_002), (80, 40_003)]);
        let cases = [
            ("--addr", ":8080", "127.0.0.1:40001"),
            ("--addr", "0.0.0.0:8080", "127.0.0.1:40001"),
            ("--url", "http://localhost:8080/x", "http://localhost:40001/x"),
            ("--webhook-port", "9443", "40002"),
            ("--concurrent", "80", "80"),
            ("--url", "http://example.org:80/x", "http://example.org:80/x"),
            ("--addr", ":80801", ":80801"),
            ("--addr", "[::]:8080", "[::]:8080"),
            ("--image", "a/b:8080-alpine", "a/b:8080-alpine"),
            ("--time", "12:80:30", "12:80:30"),
        ];
        for (name, from, to) in cases {
            assert_eq!(rewrite_ports(name, from, &ports).0, to, "{name} {from}");
        }
        assert_eq!(rewrite_ports("--addr", ":8080", &ports).1, [8080]);
    }
}
