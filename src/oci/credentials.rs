//! Users and passwords of registries, as the configuration of docker knows them: in itself, or from the programs it names.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

use super::error::{Error, Result};
use crate::exec::{self, Command};
use crate::fsx;

/// How long a program that keeps passwords may take; it may ask a person.
const HELPER: Duration = Duration::from_secs(30);
/// What docker calls its own registry.
const DOCKER_IO: &str = "https://index.docker.io/v1/";

/// User and password.
pub(super) type Credentials = (String, String);

/// Those that `docker login` keeps for a registry, if it does.
pub(super) async fn find(host: &str) -> Result<Option<Credentials>> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    let Some(path) = folder.map(|folder| folder.join("config.json")) else { return Ok(None) };
    let Some(text) = fsx::read_text_if_present(&path)? else { return Ok(None) };
    let config: Value =
        serde_json::from_str(&text).map_err(|source| Error::Json { what: path.display().to_string(), source })?;
    if let Some(name) = helper(&config, host)
        && let Some(found) = ask(&name, host).await?
    {
        return Ok(Some(found));
    }
    in_file(&config, host)
}

/// The name by which docker knows a registry.
fn server(host: &str) -> &str {
    if matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io") { DOCKER_IO } else { host }
}

/// The host in one of docker's names, which may be URLs.
fn host_of(name: &str) -> &str {
    let name = name.split_once("://").map_or(name, |(_, rest)| rest);
    name.split('/').next().unwrap_or(name)
}

/// The program that keeps the password: the registry's own, or that for all.
fn helper(config: &Value, host: &str) -> Option<String> {
    let helpers = config.get("credHelpers").and_then(Value::as_object);
    let own = helpers.and_then(|helpers| {
        helpers.iter().find(|(name, _)| host_of(name) == host_of(server(host))).map(|(_, helper)| helper)
    });
    own.or_else(|| config.get("credsStore"))?.as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// Asks such a program.
async fn ask(name: &str, host: &str) -> Result<Option<Credentials>> {
    let program = format!("docker-credential-{name}");
    let failed = |reason: String| Error::Password { host: host.to_owned(), reason };
    let output = match Command::new(&program).arg("get").input(server(host)).run(HELPER).await {
        Ok(output) => output.stdout,
        // Said on standard output, and the usual answer for a registry that nobody has logged in to.
        Err(exec::Error::Status { stdout, .. })
            if String::from_utf8_lossy(&stdout).contains("credentials not found") =>
        {
            return Ok(None);
        }
        Err(exec::Error::Status { stdout, status, .. }) => {
            let said = String::from_utf8_lossy(&stdout).lines().next().unwrap_or_default().trim().to_owned();
            return Err(failed(format!("{program} {status}: {said}")));
        }
        Err(error) => return Err(failed(error.to_string())),
    };
    let answer: Value = serde_json::from_slice(&output).map_err(|_| failed(format!("{program} answers no JSON")))?;
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    match (text("Username"), text("Secret")) {
        (user, _) if user == "<token>" => Err(identity_token(host)),
        (user, secret) if user.is_empty() && secret.is_empty() => Ok(None),
        found => Ok(Some(found)),
    }
}

/// What the file itself holds.
fn in_file(config: &Value, host: &str) -> Result<Option<Credentials>> {
    let auths = config.get("auths").and_then(Value::as_object);
    let wanted = host_of(server(host));
    let Some(entry) = auths.and_then(|auths| auths.iter().find(|(name, _)| host_of(name) == wanted)) else {
        return Ok(None);
    };
    let text = |key: &str| entry.1.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if text("identitytoken").is_some() {
        return Err(identity_token(host));
    }
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Ok(Some((user.to_owned(), password.to_owned())));
    }
    let Some(auth) = text("auth") else { return Ok(None) };
    let decoded = base64::engine::general_purpose::STANDARD.decode(auth).ok();
    let pair = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = pair.as_deref().and_then(|text| text.split_once(':'));
    match pair {
        Some((user, password)) => Ok(Some((user.to_owned(), password.to_owned()))),
        None => Err(Error::Password {
            host: host.to_owned(),
            reason: "the configuration of docker holds no user and password for it that can be read".into(),
        }),
    }
}

fn identity_token(host: &str) -> Error {
    let reason = "docker keeps an identity token for it; log in with a user and a password, or a token for them".into();
    Error::Password { host: host.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Value {
        // "user:pass:word"
        serde_json::json!({
            "auths": {
                "registry.example.org:5000": {"auth": "dXNlcjpwYXNzOndvcmQ="},
                "https://other.example.org/v2/": {"username": "u", "password": "p"},
                "https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNzOndvcmQ="},
                "azure": {"auth": "dXNlcjo=", "identitytoken": "x"},
                "empty": {},
                "broken": {"auth": "%"},
            },
            "credHelpers": {"gcr.io": "gcr"},
        })
    }

    #[test]
    fn credentials_are_those_of_docker() {
        let found = |host: &str| in_file(&config(), host).unwrap();
        let user = Some(("user".to_owned(), "pass:word".to_owned()));
        assert_eq!(found("registry.example.org:5000"), user);
        assert_eq!(found("docker.io"), user);
        assert_eq!(found("other.example.org"), Some(("u".into(), "p".into())));
        assert_eq!(found("registry.example.org"), None);
        assert_eq!(found("empty"), None);
        let error = in_file(&config(), "azure").unwrap_err().to_string();
        assert!(error.starts_with("the password for azure cannot be had: docker keeps an identity token"), "{error}");
        assert!(in_file(&config(), "broken").is_err());
    }

    #[test]
    fn a_registry_has_the_helper_of_its_own_or_that_of_all() {
        let mut config = config();
        assert_eq!(helper(&config, "gcr.io").as_deref(), Some("gcr"));
        assert_eq!(helper(&config, "quay.io"), None);
        config["credsStore"] = "secretservice".into();
        assert_eq!(helper(&config, "quay.io").as_deref(), Some("secretservice"));
    }
}
