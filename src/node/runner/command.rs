//! From a container's specification to the command that really runs: image, variables, profile, paths, ports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;

use super::places::{PathMap, rewrite_ports};
use super::ports::PodPorts;
use crate::node::profiles::{Places, Profile, fill, remove_flag};
use crate::oci::ImageConfig;

/// Where every pod's program finds the host's own tools, after those of its image.
const HOST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The program's file.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where it is started.
    pub folder: PathBuf,
    /// The container ports that it was told of.
    pub ports: BTreeSet<u16>,
}

/// Why a command cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The image does not say what to run, nor does the pod.
    #[error("the image {image} has no entry point, and the container names no command")]
    NoCommand {
        /// The image.
        image: String,
    },
    /// The program is not in the image.
    #[error("the image {image} holds no program {program}")]
    NoProgram {
        /// The image.
        image: String,
        /// The program's path or name.
        program: String,
    },
    /// The program cannot be told that it has another port.
    #[error(
        "the program of {image} cannot be told that its port {port} is another one on this host: it is in no argument and no variable; write a profile for the image that says which flag or variable carries {{port:{port}}}, and name its file when the cluster is made"
    )]
    Port {
        /// The image.
        image: String,
        /// The container port.
        port: u16,
    },
    /// The profile cannot be applied.
    #[error("{0}")]
    Profile(String),
}

/// What a command is made from, beside the container.
pub struct Inputs<'a> {
    /// How the image's program is started.
    pub image: &'a ImageConfig,
    /// The image's profile, if it has one.
    pub profile: Option<&'a Profile>,
    /// Where the container's paths are.
    pub paths: &'a PathMap,
    /// Variables, as Kubernetes defines them.
    pub env: BTreeMap<String, String>,
    /// Variables that the runner sets for every container.
    pub runner_env: BTreeMap<String, String>,
    /// Other placeholders of profiles.
    pub named: BTreeMap<&'static str, String>,
    /// The container's own folder.
    pub folder: &'a Path,
}

struct Filling<'a> {
    ports: &'a mut PodPorts,
    told: &'a mut BTreeSet<u16>,
    paths: &'a PathMap,
    named: &'a BTreeMap<&'static str, String>,
}

impl Places for Filling<'_> {
    fn port(&mut self, container_port: u16) -> Result<u16, String> {
        self.told.insert(container_port);
        self.ports.assign(container_port)
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.paths.path(path)
    }

    fn named(&self, name: &str) -> Option<String> {
        self.named.get(name).cloned()
    }
}

/// Command and arguments as Kubernetes defines them, variables filled in.
pub fn words(container: &Container, image: &ImageConfig, env: &BTreeMap<String, String>) -> Vec<String> {
    let given = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|word| super::env::expand(word, env)).collect())
    };
    let args = given(&container.args);
    if let Some(mut command) = given(&container.command) {
        command.extend(args.into_iter().flatten());
        return command;
    }
    image.entrypoint.iter().cloned().chain(args.unwrap_or_else(|| image.cmd.clone())).collect()
}

/// Makes the command of a container.
pub fn prepare(container: &Container, inputs: Inputs<'_>, ports: &mut PodPorts) -> Result<Prepared, Error> {
    let image = container.image.clone().unwrap_or_default();
    let Inputs { image: config, profile, paths, mut env, runner_env, named, folder } = inputs;
    let mut args = words(container, config, &env);
    if args.is_empty() {
        return Err(Error::NoCommand { image });
    }
    let program = args.remove(0);
    let program = match paths.mounted(Path::new(&program)) {
        // A program may come from a volume, too.
        Some(mounted) => mounted,
        None => config.find(paths.image(), &program).ok_or(Error::NoProgram { image: image.clone(), program })?,
    };
    let declared: BTreeSet<u16> = container
        .ports
        .iter()
        .flatten()
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|port| u16::try_from(port.container_port).ok())
        .collect();
    for port in &declared {
        ports.assign(*port).map_err(Error::Profile)?;
    }
    let mut told = BTreeSet::new();

    // What the profile sets is right already and must not be rewritten again.
    let mut set_args = Vec::new();
    let mut set_env = BTreeMap::new();
    if let Some(profile) = profile {
        let mut places = Filling { ports: &mut *ports, told: &mut told, paths, named: &named };
        for flag in profile.flags.keys().chain(&profile.remove) {
            remove_flag(&mut args, flag);
        }
        for (flag, template) in &profile.flags {
            set_args.push(format!("{flag}={}", fill(template, &mut places).map_err(Error::Profile)?));
        }
        for template in &profile.append {
            set_args.push(fill(template, &mut places).map_err(Error::Profile)?);
        }
        for (name, template) in &profile.env {
            set_env.insert(name.clone(), fill(template, &mut places).map_err(Error::Profile)?);
        }
        for (name, value) in &env {
            if let Some(template) = profile.values.get(value) {
                set_env.insert(name.clone(), fill(template, &mut places).map_err(Error::Profile)?);
            }
        }
    }

    let mut before = String::new();
    for arg in &mut args {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) if name.starts_with('-') => (Some(name), value),
            _ => (None, arg.as_str()),
        };
        let (value, found) = rewrite_ports(name.unwrap_or(&before), value, ports);
        told.extend(found);
        let rewritten = name.map_or_else(|| value.clone(), |name| format!("{name}={value}"));
        before = std::mem::replace(arg, paths.rewrite(&rewritten));
    }
    for (name, value) in &mut env {
        let (rewritten, found) = rewrite_ports(name, value, ports);
        told.extend(found);
        *value = if name == "PATH" { search_path(&rewritten, paths) } else { paths.rewrite(&rewritten) };
    }
    let silent = |port: &&u16| !told.contains(port) && !profile.is_some_and(|p| p.unused_ports.contains(port));
    if let Some(port) = declared.iter().find(silent) {
        return Err(Error::Port { image, port: *port });
    }

    args.extend(set_args);
    if !env.contains_key("PATH") {
        env.insert("PATH".into(), HOST_PATH.into());
    }
    let own_folder = container.working_dir.as_deref().filter(|dir| !dir.is_empty()).unwrap_or(&config.working_dir);
    let start = match own_folder {
        "" | "/" => folder.to_path_buf(),
        path => Some(paths.path(Path::new(path))).filter(|path| path.is_dir()).unwrap_or_else(|| folder.to_path_buf()),
    };
    for (name, value) in runner_env {
        env.entry(name).or_insert(value);
    }
    env.extend(set_env);
    Ok(Prepared { program, args, env, folder: start, ports: told })
}

/// PATH in the image, then the host's: the image's programs may need a shell or git.
fn search_path(image: &str, paths: &PathMap) -> String {
    let own = image.split(':').map(|folder| paths.path(Path::new(folder))).filter(|folder| folder.is_dir());
    let mut all: Vec<String> = own.map(|folder| folder.to_string_lossy().into_owned()).collect();
    all.push(HOST_PATH.into());
    all.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fsx;
    use serde_json::json;

    struct Fixture {
        _folder: tempfile::TempDir,
        paths: PathMap,
        image: ImageConfig,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fsx::create_dir(&root.join("bin")).unwrap();
        fsx::write_mode(&root.join("manager"), "x", 0o755).unwrap();
        let mounts = vec![("/tmp/certs".to_owned(), folder.path().join("volumes/cert"))];
        let paths = PathMap::new(mounts, root, folder.path().join("scratch"));
        let image = ImageConfig {
            entrypoint: vec!["/manager".into()],
            cmd: vec!["--default".into()],
            ..ImageConfig::default()
        };
        Fixture { _folder: folder, paths, image }
    }

    fn run(
        fixture: &Fixture,
        container: serde_json::Value,
        profile: Option<&Profile>,
        ports: &mut PodPorts,
    ) -> Result<Prepared, Error> {
        let container: Container = serde_json::from_value(container).unwrap();
        let inputs = Inputs {
            image: &fixture.image,
            profile,
            paths: &fixture.paths,
            env: BTreeMap::from([("NS".to_owned(), "flux".to_owned()), ("CERTS".to_owned(), "/tmp/certs".to_owned())]),
            runner_env: BTreeMap::from([("KUBECONFIG".to_owned(), "/k".to_owned())]),
            named: BTreeMap::from([("kubeconfig", "/k".to_owned())]),
            folder: Path::new("/own"),
        };
        prepare(&container, inputs, ports)
    }

    #[test]
    fn the_profile_wins_over_the_pods_flags() {
        let fixture = fixture();
        let profile = Profile {
            flags: BTreeMap::from([
                ("--webhook-port".to_owned(), "{port:9443}".to_owned()),
                ("--webhook-cert-dir".to_owned(), "{path:/tmp/certs}".to_owned()),
                ("--kubeconfig".to_owned(), "{kubeconfig}".to_owned()),
            ]),
            ..Profile::default()
        };
        let mut ports = PodPorts::fixed([(9443, 12_345), (8080, 12_346)]);
        let container = json!({
            "name": "c", "image": "i", "ports": [{"containerPort": 9443}, {"containerPort": 8080}],
            "args": ["--webhook-port=9443", "--ns=$(NS)", "--metrics", ":8080", "--cert=/tmp/certs/tls.crt"]
        });
        let prepared = run(&fixture, container, Some(&profile), &mut ports).unwrap();
        let certs = fixture.paths.path(Path::new("/tmp/certs"));
        assert_eq!(
            prepared.args,
            [
                "--ns=flux".to_owned(),
                "--metrics".to_owned(),
                "127.0.0.1:12346".to_owned(),
                format!("--cert={}/tls.crt", certs.display()),
                "--kubeconfig=/k".to_owned(),
                format!("--webhook-cert-dir={}", certs.display()),
                "--webhook-port=12345".to_owned(),
            ]
        );
        assert_eq!(prepared.env["CERTS"], certs.to_string_lossy());
        assert_eq!(prepared.env["KUBECONFIG"], "/k");
        assert_eq!(prepared.folder, Path::new("/own"));
        assert_eq!(prepared.ports, BTreeSet::from([8080, 9443]));
    }

    #[test]
    fn a_profile_replaces_values_of_the_pods_variables() {
        let values = BTreeMap::from([("flux".to_owned(), "unix://{kubeconfig}".to_owned())]);
        let profile = Profile { values, ..Profile::default() };
        let container = json!({"name": "c", "image": "i"});
        let prepared = run(&fixture(), container, Some(&profile), &mut PodPorts::fixed([])).unwrap();
        assert_eq!(prepared.env["NS"], "unix:///k");
        assert!(prepared.env["CERTS"].ends_with("volumes/cert"), "{}", prepared.env["CERTS"]);
    }

    #[test]
    fn a_port_that_nothing_carries_is_an_error_that_says_what_to_do() {
        let container = json!({"name": "c", "image": "example.org/web:1", "ports": [{"containerPort": 8080}]});
        let error = run(&fixture(), container, None, &mut PodPorts::fixed([(8080, 1)])).unwrap_err().to_string();
        assert!(error.contains("example.org/web:1") && error.contains("{port:8080}"), "{error}");
    }

    #[test]
    fn unused_and_udp_ports_need_nobody() {
        let profile = Profile { unused_ports: vec![8080], ..Profile::default() };
        let container = json!({"name": "c", "image": "i", "ports": [
            {"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}
        ]});
        let prepared = run(&fixture(), container, Some(&profile), &mut PodPorts::fixed([(8080, 1)])).unwrap();
        assert_eq!(prepared.args, ["--default"]);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let container = json!({"name": "c", "image": "i", "command": ["/bin/none"]});
        let error = run(&fixture(), container, None, &mut PodPorts::fixed([])).unwrap_err().to_string();
        assert_eq!(error, "the image i holds no program /bin/none");
    }

    #[test]
    fn command_and_args_replace_the_images() {
        let image = ImageConfig { entrypoint: vec!["/e".into()], cmd: vec!["c".into()], ..ImageConfig::default() };
        let of = |value: serde_json::Value| words(&serde_json::from_value(value).unwrap(), &image, &BTreeMap::new());
        assert_eq!(of(json!({"name": "c"})), ["/e", "c"]);
        assert_eq!(of(json!({"name": "c", "args": ["a"]})), ["/e", "a"]);
        assert_eq!(of(json!({"name": "c", "command": ["/x"]})), ["/x"]);
        assert_eq!(of(json!({"name": "c", "command": ["/x"], "args": ["a"]})), ["/x", "a"]);
    }
}
