//! The private key that a Git server is read with.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::fsx;

/// How OpenSSH's own format begins when nothing is encrypted.
const PLAIN: &[u8] = b"openssh-key-v1\0\0\0\0\x04none";

/// The private key that a text is, or the path of its file, as GitLab hands over a variable that is a file. Else what is wrong, and
/// what to do; a text that is no key is not quoted, for it may be one that was torn.
pub(super) fn private_key(text: &str) -> Result<String, (&'static str, &'static str)> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(String::new());
    }
    let read;
    let key = if text.contains("-----BEGIN") {
        text
    } else {
        let remedy =
            "set GITLAB_SSH_KEY to the key with all its lines, or to the path of its file from the root: /PATH/KEY";
        let no_file = |_| ("it is neither a private key nor the path of a file with one", remedy);
        read = fsx::read_text(Path::new(text)).map_err(no_file)?;
        read.trim()
    };
    if !key.starts_with("-----BEGIN") || !key.contains("PRIVATE KEY-----") {
        return Err((
            "it is no private key",
            "take the file beside the one that ends with .pub, which belongs to the server",
        ));
    }
    let body: String = key.lines().filter(|line| !line.starts_with("-----")).flat_map(str::split_whitespace).collect();
    let openssh = key.starts_with("-----BEGIN OPENSSH");
    if key.contains("ENCRYPTED") || (openssh && !STANDARD.decode(body).unwrap_or_default().starts_with(PLAIN)) {
        let remedy = "make one without: ssh-keygen -t ed25519 -N '' -f KEY";
        return Err(("it has a passphrase, for which no cluster can ask", remedy));
    }
    // OpenSSH reads no key whose last line does not end.
    Ok(format!("{key}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_text_or_a_file() {
        let body = STANDARD.encode([PLAIN, b" and the rest"].concat());
        let key = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----");
        assert_eq!(private_key(&key).unwrap(), format!("{key}\n"));
        let file = tempfile::NamedTempFile::new().unwrap();
        fsx::write(file.path(), &key).unwrap();
        assert_eq!(private_key(&format!("{}\n", file.path().display())).unwrap(), format!("{key}\n"));
        assert_eq!(private_key(" \n").unwrap(), "");
    }

    #[test]
    fn what_is_no_usable_key_is_told() {
        let locked = STANDARD.encode(b"openssh-key-v1\0\0\0\0\x0aaes256-ctr");
        let locked = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{locked}\n-----END OPENSSH PRIVATE KEY-----\n");
        for (text, said) in [
            (locked.as_str(), "it has a passphrase, for which no cluster can ask"),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA", "it has a passphrase, for which no cluster can ask"),
            ("-----BEGIN CERTIFICATE-----\nAAAA", "it is no private key"),
            ("ssh-ed25519 AAAA", "it is neither a private key nor the path of a file with one"),
        ] {
            assert_eq!(private_key(text).unwrap_err().0, said);
        }
    }
}
