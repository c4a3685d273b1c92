//! Whether a cluster's API server answers.

use crate::k8s::Cluster;

/// Asks the API server that a kubeconfig names whether it is ready; the error is its answer, or why there is none.
pub async fn probe(cluster: &str, kubeconfig: &str) -> Result<(), String> {
    let connected = Cluster::connect_text(cluster, kubeconfig, "of the kubeconfig Secret").await;
    match connected {
        Ok(connected) => connected.api_ready().await.map_err(|answer| brief(&answer)),
        Err(error) => Err(error.to_string()),
    }
}

/// An answer on one line: of `/readyz`'s list only what is not well.
fn brief(answer: &str) -> String {
    let unwell: Vec<&str> = answer
        .lines()
        .filter_map(|line| line.trim().strip_prefix("[-]"))
        .map(|line| line.split_once(" failed").map_or(line, |(name, _)| name))
        .collect();
    if unwell.is_empty() {
        answer.lines().next().unwrap_or_default().chars().take(200).collect()
    } else {
        format!("not ready: {}", unwell.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_brief() {
        let readyz = "[+]ping ok\n[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\nreadyz check failed";
        assert_eq!(brief(readyz), "not ready: poststarthook/rbac/bootstrap-roles");
        assert_eq!(brief("connection refused\nmore"), "connection refused");
    }
}
