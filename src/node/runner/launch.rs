//! Everything that a container needs before it can be started, or the reason why it waits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Container;

use super::command::{self, Inputs, Prepared};
use super::context::PodContext;
use super::env;
use super::mounts;
use super::objects::brief;
use super::places::PathMap;
use super::probe::Resolve;
use super::volumes::Volume;
use crate::bundle::{self, Bundle};
use crate::oci::ImageConfig;
use crate::{fsx, yaml};

/// Where Kubernetes mounts the ServiceAccount's token.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Where a container leaves its last words unless it says otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Why a container cannot be started now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Kubernetes' reason.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

impl Waiting {
    #[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
    fn config(message: impl ToString) -> Self {
        Self { reason: "CreateContainerConfigError", message: message.to_string() }
    }
}

/// A container that can be started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The command.
    pub prepared: Prepared,
    /// Digest of its image.
    pub image_id: String,
    /// Where it leaves its last words.
    pub termination_log: PathBuf,
    image: ImageConfig,
    paths: PathMap,
}

impl Resolve for Launch {
    fn resolve(&self, command: &[String]) -> Result<(PathBuf, Vec<String>), String> {
        let (program, args) = command.split_first().ok_or("the command is empty")?;
        let file = self.paths.mounted(Path::new(program)).or_else(|| self.image.find(self.paths.image(), program));
        let file = file.ok_or_else(|| format!("the image holds no program {program}"))?;
        Ok((file, args.iter().map(|arg| self.paths.rewrite(arg)).collect()))
    }
}

/// Folders of one container.
struct Folders {
    all: PathBuf,
}

impl Folders {
    fn make(pod: &PodContext, container: &str) -> fsx::Result<Self> {
        let all = pod.folder.join("containers").join(container);
        for name in ["work", "home", "tmp", "root"] {
            fsx::create_private_dir(&all.join(name))?;
        }
        Ok(Self { all })
    }

    fn of(&self, name: &str) -> PathBuf {
        self.all.join(name)
    }
}

/// Makes a container ready to be started.
pub async fn prepare(pod: &Arc<PodContext>, container: &Container, volumes: &[Volume]) -> Result<Launch, Waiting> {
    let reference = container.image.clone().unwrap_or_default();
    let (image, root, image_id) = image(pod, container, &reference).await?;

    let mut sources = env::Sources::new();
    for source in env::needed(container) {
        let content = pod.node.objects.read(&pod.namespace, &source).await;
        let content = content.map_err(|error| Waiting::config(brief(&error)))?;
        sources.insert(source, content);
    }
    let image_env: Vec<(String, String)> = image
        .env
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let services = service_env(pod);
    let env = pod
        .with_facts(|facts| env::build(container, &image_env, &services, &sources, facts))
        .map_err(Waiting::config)?;

    let folders = Folders::make(pod, &container.name).map_err(Waiting::config)?;
    let termination_log = folders.of("termination-log");
    fsx::remove_file(&termination_log).map_err(Waiting::config)?;
    let mut mounts = mounts::paths(container, volumes, &env).map_err(Waiting::config)?;
    let last_words = container.termination_message_path.clone().unwrap_or_else(|| TERMINATION_LOG.to_owned());
    mounts.push((last_words, termination_log.clone()));
    let paths = PathMap::new(mounts, root, folders.of("root"));

    let mut runner_env = proxy_env(pod.node.config.pod_proxy_url.as_deref());
    if pod.node.config.throw_away {
        // A sixth of what Flux and the API server did in its minutes was the collection of garbage.
        runner_env.insert("GOGC".into(), "400".into());
    }
    runner_env.insert("HOSTNAME".into(), pod.spec().hostname.unwrap_or_else(|| pod.name.clone()));
    runner_env.insert("HOME".into(), folders.of("home").to_string_lossy().into_owned());
    let temporary = paths.mounted(Path::new("/tmp")).unwrap_or_else(|| folders.of("tmp"));
    runner_env.insert("TMPDIR".into(), temporary.to_string_lossy().into_owned());
    let kubeconfig = folders.of("kubeconfig");
    if let Some(account) = paths.mounted(Path::new(SERVICE_ACCOUNT)) {
        let content = kubeconfig_of(pod, &account.join("token")).map_err(Waiting::config)?;
        fsx::write_private(&kubeconfig, content).map_err(Waiting::config)?;
        runner_env.insert("KUBECONFIG".into(), kubeconfig.to_string_lossy().into_owned());
    }

    let config = &pod.node.config;
    let named = BTreeMap::from([
        ("kubeconfig", kubeconfig.to_string_lossy().into_owned()),
        ("folder", folders.of("work").to_string_lossy().into_owned()),
        ("namespace", pod.namespace.clone()),
        ("pod", pod.name.clone()),
        ("node", config.node_name.clone()),
        ("domain", config.cluster_domain.clone()),
        ("home", config.home.to_string_lossy().into_owned()),
        ("bundle", config.bundle.to_string_lossy().into_owned()),
        ("docker", config.docker.to_string_lossy().into_owned()),
    ]);
    let words = command::words(container, &image, &env);
    let inputs = Inputs {
        image: &image,
        profile: pod.node.profiles.find(&reference, &words),
        paths: &paths,
        env,
        runner_env,
        named,
        folder: &folders.of("work"),
    };
    let prepared = command::prepare(container, inputs, &mut pod.ports()).map_err(|error| match error {
        command::Error::Port { .. } => Waiting { reason: "PortNotMapped", message: error.to_string() },
        command::Error::NoProgram { .. } => Waiting { reason: "CreateContainerError", message: error.to_string() },
        error => Waiting::config(error),
    })?;
    Ok(Launch { prepared, image_id, termination_log, image, paths })
}

async fn image(
    pod: &PodContext,
    container: &Container,
    reference: &str,
) -> Result<(ImageConfig, PathBuf, String), Waiting> {
    let config = &pod.node.config;
    let absent =
        if container.image_pull_policy.as_deref() == Some("Never") { "ErrImageNeverPull" } else { "ImagePullBackOff" };
    let failed = |error: bundle::Error| match error {
        bundle::Error::NoImage { .. } => Waiting {
            reason: absent,
            message: format!(
                "image {reference} is not in the bundle {}; `cluster-init bundle list` lists the images it has",
                config.bundle.display()
            ),
        },
        error => {
            let failure = crate::failure::Failure::from(error);
            Waiting { reason: "ErrImagePull", message: format!("image {reference}: {failure}") }
        }
    };
    // Opened each time: the bundle may have been completed since.
    let bundle = Bundle::open(&config.bundle, &config.image_cache).map_err(failed)?;
    let image = bundle.image(reference).map_err(failed)?;
    let start = image.config().map_err(|error| failed(error.into()))?;
    let root = bundle.unpack_async(&image).await.map_err(failed)?;
    Ok((start, root, format!("{}@{}", crate::node::profiles::repository(reference), image.digest())))
}

/// The variables with which every pod finds the API server.
fn service_env(pod: &PodContext) -> Vec<(String, String)> {
    let api = &pod.node.config.api_server;
    let port = api.port.to_string();
    let url = format!("tcp://{}:{port}", api.host);
    [
        ("KUBERNETES_SERVICE_HOST", api.host.clone()),
        ("KUBERNETES_SERVICE_PORT", port.clone()),
        ("KUBERNETES_SERVICE_PORT_HTTPS", port),
        ("KUBERNETES_PORT", url),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn proxy_env(url: Option<&str>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    if let Some(url) = url {
        for (name, value) in [("HTTP_PROXY", url), ("HTTPS_PROXY", url), ("NO_PROXY", "127.0.0.1,localhost")] {
            env.insert(name.to_owned(), value.to_owned());
            env.insert(name.to_ascii_lowercase(), value.to_owned());
        }
    }
    env
}

/// A kubeconfig with the pod's own identity; the token is read from its file again and again, so it may be renewed.
fn kubeconfig_of(pod: &PodContext, token: &Path) -> Result<String, crate::failure::Failure> {
    let api = &pod.node.config.api_server;
    let document = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": {
            "server": format!("https://{}:{}", api.host, api.port),
            // By file, not by data: Cluster API on the cluster that it manages takes over the file's name only.
            "certificate-authority": api.ca_file,
        }}],
        "users": [{"name": "pod", "user": {"tokenFile": token}}],
        "contexts": [{"name": "pod", "context": {"cluster": "cluster", "user": "pod", "namespace": pod.namespace}}],
        "current-context": "pod",
    });
    Ok(yaml::to_string(&document)?)
}
