//! Where in a text the keys of its documents stand.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::{Error, error, options};

/// A place in a text: line and column, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Spot {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The places of all keys and items of one document, by their path from the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spots(BTreeMap<Vec<String>, Spot>);

impl Spots {
    /// The places in a text with one document; `origin` is the file's name, for errors.
    pub fn read(text: &str, origin: &str) -> Result<Self, Error> {
        Ok(Self::documents(text, origin)?.into_iter().next().unwrap_or_default())
    }

    /// The places in each document of a stream.
    pub fn documents(text: &str, origin: &str) -> Result<Vec<Self>, Error> {
        let all: Vec<Spanned<Node>> =
            serde_saphyr::from_multiple_with_options(text, options()).map_err(|e| error(origin, &e))?;
        Ok(all
            .into_iter()
            .map(|root| {
                let mut spots = Self::default();
                spots.0.insert(Vec::new(), spot(root.referenced));
                spots.collect(&mut Vec::new(), root.value);
                spots
            })
            .collect())
    }

    fn collect(&mut self, path: &mut Vec<String>, node: Node) {
        for (name, at, child) in node.0 {
            path.push(name);
            self.0.insert(path.clone(), at);
            self.collect(path, child);
            path.pop();
        }
    }

    /// All places.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Spot> {
        self.0.values()
    }

    /// Where a path stands, or where the longest part of it does that the document has.
    pub fn nearest(&self, path: &[&str]) -> Option<Spot> {
        (0..=path.len()).rev().find_map(|length| self.exact(&path[..length]))
    }

    /// Where a path stands; items of a list are named by their number.
    pub fn exact(&self, path: &[&str]) -> Option<Spot> {
        let path: Vec<String> = path.iter().map(|part| (*part).to_owned()).collect();
        self.0.get(&path).copied()
    }
}

fn spot(location: serde_saphyr::Location) -> Spot {
    Spot { line: location.line(), column: location.column() }
}

/// A value of which only the places of its parts are kept.
#[derive(Default)]
struct Node(Vec<(String, Spot, Self)>);

/// The text of a key, whatever its type.
struct Key(String);

struct NodeVisitor;
struct KeyVisitor;

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

/// Visits scalars: the same for every type of scalar.
macro_rules! scalars {
    ($make:expr) => {
        fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
            Ok($make(&value))
        }
        fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
            Ok($make(&value))
        }
        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
            Ok($make(&value))
        }
        fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
            Ok($make(&value))
        }
        fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Self::Value, E> {
            Ok($make(&value))
        }
        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok($make(&"null"))
        }
        fn visit_none<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok($make(&"null"))
        }
    };
}

impl Visitor<'_> for KeyVisitor {
    type Value = Key;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    scalars!(|value: &dyn fmt::Display| Key(value.to_string()));
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    scalars!(|_: &dyn fmt::Display| Node::default());

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut node = Node::default();
        while let Some(item) = items.next_element::<Spanned<Node>>()? {
            node.0.push((node.0.len().to_string(), spot(item.referenced), item.value));
        }
        Ok(node)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut node = Node::default();
        while let Some(key) = entries.next_key::<Spanned<Key>>()? {
            let value = entries.next_value::<Node>()?;
            node.0.push((key.value.0, spot(key.referenced), value));
        }
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_place() {
        let text = "# comment\na: 1\nb:\n  c: [x, {d: y}]\n  'e f': |\n    text\n  on: *no\n";
        let text = text.replace("*no", "true");
        let spots = Spots::read(&text, "t").unwrap();
        let at = |path: &[&str]| spots.exact(path).map(|spot| spot.to_string());
        assert_eq!(at(&["a"]).as_deref(), Some("2:1"));
        assert_eq!(at(&["b", "c"]).as_deref(), Some("4:3"));
        assert_eq!(at(&["b", "c", "1", "d"]).as_deref(), Some("4:11"));
        assert_eq!(at(&["b", "e f"]).as_deref(), Some("5:3"));
        assert_eq!(at(&["b", "x"]), None);
        assert_eq!(spots.nearest(&["b", "c", "7", "z"]).unwrap().to_string(), "4:3");
    }

    #[test]
    fn documents_are_told_apart_and_empty_ones_count() {
        let all = Spots::documents("a: 1\n---\nb: 2\n", "t").unwrap();
        assert_eq!(all[1].exact(&["b"]).unwrap().to_string(), "3:1");
        assert_eq!(Spots::read("", "t").unwrap().exact(&["a"]), None);
    }
}
