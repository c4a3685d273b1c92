//! The control plane's processes: their arguments, and the files that they read.
//!
//! What makes them start quickly: the API server starts the moment etcd listens (its etcd client waits a whole second
//! after a refused connection), the others the moment the API server answers; no leader is elected; probes look often.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::config::{CLUSTER_DOMAIN, NodeConfig, Paths};
use super::pki::Pki;
use super::probe;
use super::programs::Programs;
use super::supervisor::Child;
use crate::exec::Command;
use crate::failure::Result;
use crate::{fsx, yaml};

/// Names of the control plane's parts, in the order in which they start.
pub const PARTS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// What the control plane's children are made from.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// The node.
    pub config: NodeConfig,
    /// Its paths.
    pub paths: Paths,
    /// Its programs.
    pub programs: Programs,
}

/// Until the API server has used so much memory, its garbage is collected a quarter as often as usual: it starts and takes
/// definitions faster. From then on it is collected as often as it takes to stay there.
const MEMORY: &str = "400MiB";
/// The same for a cluster that lives for minutes only.
const MEMORY_OF_A_THROW_AWAY: &str = "1GiB";

impl ControlPlane {
    /// etcd's socket.
    pub fn etcd_socket(&self) -> PathBuf {
        self.config.sockets.join("etcd.sock")
    }

    fn egress_file(&self) -> PathBuf {
        self.paths.folder.join("egress.yaml")
    }

    /// Writes the files that the processes read, beside keys and kubeconfigs.
    pub fn prepare(&self) -> Result<()> {
        let egress = json!({
            "apiVersion": "apiserver.k8s.io/v1beta1",
            "kind": "EgressSelectorConfiguration",
            "egressSelections": [{"name": "cluster", "connection": {
                "proxyProtocol": "HTTPConnect",
                "transport": {"uds": {"udsName": egress_socket(&self.config)}},
            }}],
        });
        fsx::write_private(&self.egress_file(), yaml::to_string(&egress)?)?;
        // Sockets of a daemon that was killed.
        fsx::remove_file(&self.etcd_socket())?;
        fsx::remove_file(&self.config.sockets.join("peer.sock"))?;
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.paths.logs.join(format!("{name}.log"))
    }

    /// etcd: one member on a Unix socket in a folder that only this user may enter.
    pub fn etcd(&self) -> Child {
        let plane = self.clone();
        Child {
            name: PARTS[0],
            log: self.log(PARTS[0]),
            probe: probe::unix_socket(self.etcd_socket()),
            grace: Duration::from_secs(10),
            command: Box::new(move || {
                let socket = |name: &str| format!("unix://{}", plane.config.sockets.join(name).display());
                // A single member dials nobody, so that the addresses it advertises are only words.
                let mut command = Command::new(&plane.programs.etcd)
                    .arg("--name=default")
                    .arg(flag("data-dir", plane.paths.etcd.display()))
                    .arg(flag("listen-client-urls", socket("etcd.sock")))
                    .arg(flag("listen-peer-urls", socket("peer.sock")))
                    .arg("--advertise-client-urls=http://127.0.0.1:2379")
                    .arg("--initial-advertise-peer-urls=http://127.0.0.1:2380")
                    .arg("--initial-cluster=default=http://127.0.0.1:2380")
                    .arg("--quota-backend-bytes=2147483648")
                    .arg("--snapshot-count=10000")
                    .arg("--log-level=warn");
                if plane.config.throw_away {
                    command = command.arg("--unsafe-no-fsync");
                }
                command
            }),
        }
    }

    /// kube-apiserver.
    pub fn api_server(&self, admin: kube::Client) -> Child {
        let plane = self.clone();
        Child {
            name: PARTS[1],
            log: self.log(PARTS[1]),
            probe: probe::https(admin, "/readyz?verbose"),
            // It waits a minute for clients' watches to end; all it knows is in etcd.
            grace: Duration::from_secs(2),
            command: Box::new(move || {
                let limit = if plane.config.throw_away { MEMORY_OF_A_THROW_AWAY } else { MEMORY };
                Command::new(&plane.programs.kube_apiserver)
                    .args(plane.api_server_args())
                    .env("GOGC", "400")
                    .env("GOMEMLIMIT", limit)
            }),
        }
    }

    fn api_server_args(&self) -> Vec<String> {
        let pki = Pki::of(&self.paths);
        let config = &self.config;
        let issuer = format!("https://kubernetes.default.svc.{CLUSTER_DOMAIN}");
        let file = |name, path: &PathBuf| flag(name, path.display());
        vec![
            flag("etcd-servers", format!("unix://{}", self.etcd_socket().display())),
            flag("bind-address", "127.0.0.1"),
            flag("secure-port", config.ports.api_server),
            flag("advertise-address", config.node_ip()),
            flag("service-cluster-ip-range", &config.service_cidr),
            flag("authorization-mode", "Node,RBAC"),
            flag("enable-admission-plugins", "NodeRestriction"),
            flag("allow-privileged", true),
            flag("enable-bootstrap-token-auth", true),
            file("tls-cert-file", &pki.api_server.cert),
            file("tls-private-key-file", &pki.api_server.key),
            file("client-ca-file", &pki.ca.cert),
            file("kubelet-certificate-authority", &pki.ca.cert),
            file("kubelet-client-certificate", &pki.kubelet_client.cert),
            file("kubelet-client-key", &pki.kubelet_client.key),
            flag("kubelet-preferred-address-types", "InternalIP"),
            flag("service-account-issuer", issuer),
            file("service-account-key-file", &pki.service_account.cert),
            file("service-account-signing-key-file", &pki.service_account.key),
            file("requestheader-client-ca-file", &pki.front_proxy_ca.cert),
            flag("requestheader-allowed-names", "front-proxy-client"),
            flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            flag("requestheader-group-headers", "X-Remote-Group"),
            flag("requestheader-username-headers", "X-Remote-User"),
            file("proxy-client-cert-file", &pki.front_proxy_client.cert),
            file("proxy-client-key-file", &pki.front_proxy_client.key),
            file("egress-selector-config-file", &self.egress_file()),
            flag("profiling", false),
        ]
    }

    /// kube-controller-manager with all its controllers.
    pub fn controller_manager(&self) -> Result<Child> {
        let plane = self.clone();
        let client = probe::anonymous(&self.config, &Pki::of(&self.paths), self.config.ports.controller_manager)?;
        Ok(Child {
            name: PARTS[2],
            log: self.log(PARTS[2]),
            probe: probe::https(client, "/healthz"),
            grace: Duration::from_secs(5),
            command: Box::new(move || {
                let pki = Pki::of(&plane.paths);
                let file = |name, path: &PathBuf| flag(name, path.display());
                Command::new(&plane.programs.kube_controller_manager)
                    .args(plane.component_args(&plane.paths.controller_manager, plane.config.ports.controller_manager))
                    .arg("--controllers=*,bootstrap-signer-controller,token-cleaner-controller")
                    .arg("--use-service-account-credentials=true")
                    .arg(flag("service-cluster-ip-range", &plane.config.service_cidr))
                    .arg(file("root-ca-file", &pki.ca.cert))
                    .arg(file("cluster-signing-cert-file", &pki.ca.cert))
                    .arg(file("cluster-signing-key-file", &pki.ca.key))
                    .arg(file("service-account-private-key-file", &pki.service_account.key))
                    .arg(file("requestheader-client-ca-file", &pki.front_proxy_ca.cert))
            }),
        })
    }

    /// kube-scheduler.
    pub fn scheduler(&self) -> Result<Child> {
        let plane = self.clone();
        let client = probe::anonymous(&self.config, &Pki::of(&self.paths), self.config.ports.scheduler)?;
        Ok(Child {
            name: PARTS[3],
            log: self.log(PARTS[3]),
            probe: probe::https(client, "/healthz"),
            grace: Duration::from_secs(5),
            command: Box::new(move || {
                Command::new(&plane.programs.kube_scheduler)
                    .args(plane.component_args(&plane.paths.scheduler, plane.config.ports.scheduler))
            }),
        })
    }

    /// What controller manager and scheduler have in common.
    fn component_args(&self, kubeconfig: &std::path::Path, port: u16) -> Vec<String> {
        let pki = Pki::of(&self.paths);
        vec![
            flag("kubeconfig", kubeconfig.display()),
            flag("authentication-kubeconfig", kubeconfig.display()),
            flag("authorization-kubeconfig", kubeconfig.display()),
            flag("client-ca-file", pki.ca.cert.display()),
            flag("bind-address", "127.0.0.1"),
            flag("secure-port", port),
            flag("tls-cert-file", pki.component.cert.display()),
            flag("tls-private-key-file", pki.component.key.display()),
            // One of each: whoever would follow has nobody to wait for.
            flag("leader-elect", false),
            flag("kube-api-qps", 100),
            flag("kube-api-burst", 200),
            flag("profiling", false),
        ]
    }
}

/// The socket through which the API server reaches Services, pods and kubelets.
pub fn egress_socket(config: &NodeConfig) -> PathBuf {
    config.sockets.join("apiserver-egress.sock")
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
