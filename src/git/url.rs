//! URLs of Git servers.

/// Whether a URL is read over SSH.
pub fn is_ssh(url: &str) -> bool {
    url.starts_with("ssh://")
}

/// A URL as everything reads it that is not git itself: `git@host:path` is short for `ssh://git@host/path`.
pub fn spelled_out(url: &str) -> String {
    match url.split_once(':') {
        // A slash before the colon makes it a path; a scheme has its own slashes after it.
        Some((host, path)) if !host.is_empty() && !host.contains('/') && !path.starts_with("//") => {
            format!("ssh://{host}/{}", path.trim_start_matches('/'))
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_urls_of_ssh_are_spelled_out() {
        for (url, expected) in [
            ("git@git.x:team/site.git", "ssh://git@git.x/team/site.git"),
            ("git@git.x:/srv/site.git", "ssh://git@git.x/srv/site.git"),
            ("ssh://git@git.x:2222/site.git", "ssh://git@git.x:2222/site.git"),
            ("https://git.x:8443/site.git", "https://git.x:8443/site.git"),
            ("/srv/a:b.git", "/srv/a:b.git"),
            ("site", "site"),
        ] {
            assert_eq!(spelled_out(url), expected);
        }
    }
}
