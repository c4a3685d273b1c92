//! The order in which components become ready.

use std::collections::{BTreeMap, BTreeSet};

/// What comes of some components and what each depends on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Their names, each after those that it depends on; those of a circle come last.
    pub names: Vec<String>,
    /// The components of a circle, if there is one.
    pub circle: Vec<String>,
}

/// Orders components by their dependencies; what depends on something unknown waits for the rest of its dependencies only.
pub fn order(dependencies: &BTreeMap<String, Vec<String>>) -> Order {
    let mut open: BTreeSet<&String> = dependencies.keys().collect();
    let mut order = Order::default();
    loop {
        let waits = |name: &String| dependencies[name].iter().any(|other| open.contains(other));
        let free: Vec<&String> = open.iter().copied().filter(|name| !waits(name)).collect();
        if free.is_empty() {
            break;
        }
        for name in free {
            open.remove(name);
            order.names.push(name.clone());
        }
    }
    // What is left waits for a circle or is part of one; a walk along open dependencies ends in it.
    if let Some(first) = open.first() {
        let mut walk: Vec<&String> = vec![first];
        while let Some(next) = dependencies[walk[walk.len() - 1]].iter().find(|other| open.contains(other)) {
            if let Some(begin) = walk.iter().position(|name| *name == next) {
                order.circle = walk[begin..].iter().map(|name| (*name).clone()).collect();
                break;
            }
            walk.push(next);
        }
        order.names.extend(open.iter().map(|name| (*name).clone()));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &[&str])]) -> Order {
        let own = |(name, after): &(&str, &[&str])| {
            ((*name).to_owned(), after.iter().map(|other| (*other).to_owned()).collect())
        };
        order(&pairs.iter().map(own).collect())
    }

    #[test]
    fn dependencies_come_first() {
        let found = of(&[("a", &["c"]), ("b", &[]), ("c", &["b", "unknown"])]);
        assert_eq!(found.names, ["b", "c", "a"]);
        assert!(found.circle.is_empty());
    }

    #[test]
    fn a_circle_is_named_without_what_leads_to_it() {
        let found = of(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &[])]);
        assert_eq!(found.circle, ["b", "c"]);
        assert_eq!(found.names, ["d", "a", "b", "c"]);
        assert_eq!(of(&[("a", &["a"])]).circle, ["a"]);
    }
}
