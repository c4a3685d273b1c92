//! Probes: what they ask, and how they count.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::command::Prepared;
use super::http;
use super::ports::PodPorts;
use crate::exec::Command;

/// What a probe or a lifecycle hook does, with real ports and paths.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Asks a URL; an answer below 400 is a success.
    Http {
        /// Whether by TLS (certificates are not checked, as the kubelet does not).
        tls: bool,
        /// Host.
        host: String,
        /// Real port.
        port: u16,
        /// Path and query.
        path: String,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// Opens a connection.
    Tcp {
        /// Host.
        host: String,
        /// Real port.
        port: u16,
    },
    /// Asks gRPC's health service.
    Grpc {
        /// Real port.
        port: u16,
        /// Service's name.
        service: String,
    },
    /// Runs a program of the container.
    Exec(Vec<String>),
    /// Waits.
    Sleep(Duration),
}

fn number(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            match named {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("the container has no port named {name:?}"))?,
            }
        }
    };
    u16::try_from(number).map_err(|_| format!("{number} is no port"))
}

/// The container port that an action asks, before it becomes a real one.
fn real(container: &Container, port: &IntOrString, ports: &PodPorts) -> Result<u16, String> {
    let number = number(container, port)?;
    Ok(ports.real(number).unwrap_or(number))
}

fn http_get(get: &HTTPGetAction, container: &Container, ports: &PodPorts) -> Result<Action, String> {
    let path = get.path.as_deref().unwrap_or("/");
    Ok(Action::Http {
        tls: get.scheme.as_deref() == Some("HTTPS"),
        host: get.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| "127.0.0.1".into()),
        port: real(container, &get.port, ports)?,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

/// The action of a probe; an error for one that asks nothing.
pub fn action(probe: &Probe, container: &Container, ports: &PodPorts) -> Result<Action, String> {
    if let Some(get) = &probe.http_get {
        http_get(get, container, ports)
    } else if let Some(socket) = &probe.tcp_socket {
        let host = socket.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| "127.0.0.1".into());
        Ok(Action::Tcp { host, port: real(container, &socket.port, ports)? })
    } else if let Some(GRPCAction { port, service }) = &probe.grpc {
        let port = real(container, &IntOrString::Int(*port), ports)?;
        Ok(Action::Grpc { port, service: service.clone().unwrap_or_default() })
    } else if let Some(exec) = &probe.exec {
        Ok(Action::Exec(exec.command.clone().unwrap_or_default()))
    } else {
        Err("the probe says nothing to ask".into())
    }
}

/// The action of a lifecycle hook.
pub fn hook(hook: &LifecycleHandler, container: &Container, ports: &PodPorts) -> Result<Action, String> {
    if let Some(get) = &hook.http_get {
        http_get(get, container, ports)
    } else if let Some(exec) = &hook.exec {
        Ok(Action::Exec(exec.command.clone().unwrap_or_default()))
    } else if let Some(sleep) = &hook.sleep {
        Ok(Action::Sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default())))
    } else {
        Err("the hook is of a kind that a local node does not know".into())
    }
}

/// Resolves an `exec` action's program as the container's own would be.
pub trait Resolve {
    /// The real program and arguments of a command in the container.
    fn resolve(&self, command: &[String]) -> Result<(std::path::PathBuf, Vec<String>), String>;
}

/// Does an action once.
pub async fn attempt(
    action: &Action,
    limit: Duration,
    prepared: &Prepared,
    resolve: &impl Resolve,
) -> Result<(), String> {
    let work = async {
        match action {
            Action::Http { tls, host, port, path, headers } => http::get(*tls, host, *port, path, headers).await,
            Action::Tcp { host, port } => {
                tokio::net::TcpStream::connect((host.as_str(), *port)).await.map(|_| ()).map_err(|e| e.to_string())
            }
            Action::Grpc { port, service } => http::grpc_health(*port, service).await,
            Action::Exec(command) => {
                let (program, args) = resolve.resolve(command)?;
                let mut run = Command::new(program).args(args).env_clear().folder(&prepared.folder);
                for (name, value) in &prepared.env {
                    run = run.env(name, value);
                }
                run.run(limit).await.map(|_| ()).map_err(|e| e.to_string())
            }
            Action::Sleep(duration) => {
                tokio::time::sleep(*duration).await;
                Ok(())
            }
        }
    };
    let allowed = if let Action::Sleep(duration) = action { *duration + Duration::from_secs(1) } else { limit };
    match tokio::time::timeout(allowed, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {}s", limit.as_secs())),
    }
}

/// How a probe's results count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    success: u32,
    failure: u32,
    successes: u32,
    failures: u32,
}

impl Thresholds {
    /// The thresholds of a probe.
    pub fn of(probe: &Probe) -> Self {
        let at_least_one = |n: Option<i32>, default| u32::try_from(n.unwrap_or(default)).unwrap_or(1).max(1);
        Self {
            success: at_least_one(probe.success_threshold, 1),
            failure: at_least_one(probe.failure_threshold, 3),
            successes: 0,
            failures: 0,
        }
    }

    /// Counts a result; says when one of the thresholds is reached.
    pub fn count(&mut self, ok: bool) -> Option<bool> {
        if ok {
            self.failures = 0;
            self.successes += 1;
            (self.successes >= self.success).then_some(true)
        } else {
            self.successes = 0;
            self.failures += 1;
            (self.failures >= self.failure).then_some(false)
        }
    }
}

/// Time between two attempts of a probe.
pub fn period(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1))
}

/// Time that one attempt may take.
pub fn timeout(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1))
}

/// Time before the first attempt.
pub fn initial_delay(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container() -> Container {
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "healthz", "containerPort": 9440}]})).unwrap()
    }

    #[test]
    fn named_ports_become_real_ones() {
        let ports = PodPorts::fixed([(9440, 12_000)]);
        let probe: Probe = serde_json::from_value(json!({"httpGet": {"path": "readyz", "port": "healthz"}})).unwrap();
        let Action::Http { port, path, tls, .. } = action(&probe, &container(), &ports).unwrap() else {
            panic!("http expected")
        };
        assert_eq!((port, path.as_str(), tls), (12_000, "/readyz", false));
        let probe: Probe = serde_json::from_value(json!({"tcpSocket": {"port": 80}})).unwrap();
        assert_eq!(action(&probe, &container(), &ports).unwrap(), Action::Tcp { host: "127.0.0.1".into(), port: 80 });
        let probe: Probe = serde_json::from_value(json!({"httpGet": {"port": "nope"}})).unwrap();
        assert!(action(&probe, &container(), &ports).unwrap_err().contains("nope"));
    }

    #[test]
    fn results_are_counted_in_a_row() {
        let probe: Probe = serde_json::from_value(json!({"successThreshold": 2, "failureThreshold": 3})).unwrap();
        let mut thresholds = Thresholds::of(&probe);
        let results = [true, false, true, true, false, false, false];
        let said: Vec<_> = results.into_iter().map(|ok| thresholds.count(ok)).collect();
        assert_eq!(said, [None, None, None, Some(true), None, None, Some(false)]);
    }
}
