//! Which objects a move concerns: everything, one namespace, or some Clusters of several.

use std::collections::BTreeSet;

use super::GROUP;
use super::graph::{Graph, Node, Uid};

/// What a person wants to be moved; everything by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this namespace, with what its Clusters use from others.
    pub namespace: Option<String>,
    /// Only the Clusters of these names; all when empty.
    pub clusters: Vec<String>,
}

impl Filter {
    fn wants_namespace(&self, node: &Node) -> bool {
        !node.namespaced || self.namespace.is_none() || node.reference.namespace == self.namespace
    }

    fn wants_cluster(&self, node: &Node) -> bool {
        self.wants_namespace(node) && (self.clusters.is_empty() || self.clusters.contains(&node.reference.name))
    }

    /// Why the filter cannot be used on the graph's cluster: a name that no Cluster has, or that several have.
    pub fn check(&self, graph: &Graph) -> Result<(), String> {
        let there: Vec<&Node> =
            graph.of_kind(GROUP, "Cluster").map(|(_, n)| n).filter(|n| self.wants_namespace(n)).collect();
        let full = |n: &Node| format!("{}/{}", n.reference.namespace.as_deref().unwrap_or_default(), n.reference.name);
        for name in &self.clusters {
            let same: Vec<String> = there.iter().filter(|n| n.reference.name == *name).map(|n| full(n)).collect();
            match same.as_slice() {
                [_] => {}
                [] if there.is_empty() => return Err(format!("there is no Cluster {name}, nor any other")),
                [] => {
                    let known: Vec<String> = there.iter().map(|n| full(n)).collect();
                    return Err(format!("there is no Cluster {name}; there are: {}", known.join(", ")));
                }
                several => {
                    return Err(format!("several Clusters are called {name}: {}; add --namespace", several.join(", ")));
                }
            }
        }
        Ok(())
    }
}

/// Marks what is in scope, and of that, what is kept on the source.
pub(super) fn mark(graph: &mut Graph, filter: &Filter) {
    let clusters = matching(graph, |n| n.is_cluster() && filter.wants_cluster(n));
    let all_clusters = matching(graph, Node::is_cluster);
    let mut moved = graph.descendants(&clusters);
    let mut kept: Vec<(BTreeSet<Uid>, String)> = Vec::new();

    let others = matching(graph, |n| (n.root || n.forced) && !n.is_cluster() && filter.wants_namespace(n));
    let (global, local): (Vec<&Uid>, Vec<&Uid>) = others.iter().partition(|uid| !graph.nodes[*uid].namespaced);
    kept.push((spread(graph, global), "it is cluster-scoped, or belongs to what is".into()));
    if filter.clusters.is_empty() {
        moved.extend(spread(graph, local));
    } else {
        // Nobody can tell which Cluster needs an identity or a labelled object: those of the namespaces get a copy.
        let namespaces: BTreeSet<&Option<String>> =
            clusters.iter().map(|uid| &graph.nodes[uid].reference.namespace).collect();
        let near = local.into_iter().filter(|uid| {
            let node = &graph.nodes[*uid];
            !shareable(node) && namespaces.contains(&node.reference.namespace)
        });
        kept.push((spread(graph, near), "Clusters that stay may need it".into()));
    }
    // What the chosen Clusters use comes along: classes from anywhere, resource sets that were applied to them.
    let used: Vec<Uid> = moved
        .iter()
        .flat_map(|uid| &graph.nodes[uid].owners)
        .filter(|owner| graph.nodes.get(*owner).is_some_and(shareable))
        .cloned()
        .collect();
    moved.extend(spread(graph, used.iter()));
    for uid in matching(graph, shareable).into_iter().filter(|uid| moved.contains(uid)) {
        if let Some(user) = user_that_stays(graph, &uid, &all_clusters, &clusters) {
            kept.push((spread(graph, [&uid]), format!("{user}, which stays, uses it too")));
        }
    }
    for uid in &moved {
        graph.nodes.entry(uid.clone()).and_modify(|node| node.in_scope = true);
    }
    for (uids, reason) in kept {
        for uid in uids {
            graph.nodes.entry(uid).and_modify(|node| {
                node.in_scope = true;
                node.kept.get_or_insert_with(|| reason.clone());
            });
        }
    }
}

fn matching(graph: &Graph, wanted: impl Fn(&Node) -> bool) -> BTreeSet<Uid> {
    graph.nodes.iter().filter(|(_, n)| wanted(n)).map(|(uid, _)| uid.clone()).collect()
}

/// What the given roots own; an object that is only labelled to move comes alone.
fn spread<'a>(graph: &'a Graph, from: impl IntoIterator<Item = &'a Uid>) -> BTreeSet<Uid> {
    let (roots, alone): (Vec<&Uid>, Vec<&Uid>) = from.into_iter().partition(|uid| graph.nodes[*uid].root);
    let mut all = graph.descendants(roots);
    all.extend(alone.into_iter().cloned());
    all
}

/// Whether several Clusters may use the object: a ClusterClass or a ClusterResourceSet.
fn shareable(node: &Node) -> bool {
    matches!(
        (node.reference.group(), node.reference.kind.as_str()),
        (GROUP, "ClusterClass") | ("addons.cluster.x-k8s.io", "ClusterResourceSet")
    )
}

/// A Cluster that uses a class or a resource set and does not move.
fn user_that_stays(graph: &Graph, used: &Uid, all: &BTreeSet<Uid>, chosen: &BTreeSet<Uid>) -> Option<String> {
    let stays = |uid: &&Uid| all.contains(*uid) && !chosen.contains(*uid);
    let direct = graph.nodes.iter().filter(|(_, n)| n.owners.contains(used));
    let users = direct.flat_map(|(uid, node)| std::iter::once(uid).chain(&node.owners));
    users.into_iter().find(stays).map(|uid| graph.nodes[uid].reference.to_string())
}
