//! The pivot's record, a ConfigMap on both clusters: a lost disk does not lose a pivot.

use std::io::{Read, Write};

use base64::Engine as _;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use kube::api::{DynamicObject, ObjectMeta, TypeMeta};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::plan::Plan;
use super::{Error, Result};
use crate::k8s::{Cluster, ObjectRef};

/// Name of the ConfigMap.
const NAME: &str = "cluster-init-pivot";
/// Its namespace.
const NAMESPACE: &str = "default";

/// How far a pivot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing is deleted yet: every failure rolls back.
    Copying,
    /// Every copy was verified: every failure rolls forward.
    Committed,
    /// The target has it all, and is released.
    Done,
}

/// What is known of a pivot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The pivot's id.
    pub id: String,
    /// How far it is.
    pub phase: Phase,
    /// What it does.
    pub plan: Plan,
}

fn reference() -> ObjectRef {
    ObjectRef::namespaced("v1", "ConfigMap", NAMESPACE, NAME)
}

/// The record on one cluster.
pub async fn recorded(cluster: &Cluster) -> Result<Option<Record>> {
    let Some(object) = cluster.get(&reference()).await? else { return Ok(None) };
    decode(&object).map(Some).map_err(|reason| Error::Record {
        name: NAME.into(),
        cluster: cluster.name().into(),
        reason,
    })
}

/// Writes the record to one cluster.
pub(super) async fn write(cluster: &Cluster, record: &Record) -> Result<()> {
    cluster.apply(&encode(record)).await?;
    Ok(())
}

/// Removes the record from one cluster.
pub(super) async fn remove(cluster: &Cluster) -> Result<()> {
    Ok(cluster.delete(&reference(), &kube::api::DeleteParams::default()).await?)
}

fn encode(record: &Record) -> DynamicObject {
    // Thousands of objects would not fit into a ConfigMap as plain text. Writing to memory cannot fail.
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    let _ = packed.write_all(&serde_json::to_vec(&record.plan).unwrap_or_default());
    let plan = base64::engine::general_purpose::STANDARD.encode(packed.finish().unwrap_or_default());
    DynamicObject {
        types: Some(TypeMeta { api_version: "v1".into(), kind: "ConfigMap".into() }),
        metadata: ObjectMeta { name: Some(NAME.into()), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() },
        data: json!({
            "data": {"id": record.id, "phase": record.phase},
            "binaryData": {"plan.json.gz": plan},
        }),
    }
}

fn decode(object: &DynamicObject) -> Result<Record, String> {
    let text = |field: &str| object.data["data"][field].as_str().ok_or_else(|| format!("it has no {field}"));
    let phase = serde_json::from_value(object.data["data"]["phase"].clone()).map_err(|e| e.to_string())?;
    let packed = object.data["binaryData"]["plan.json.gz"].as_str().ok_or("it has no plan")?;
    let packed = base64::engine::general_purpose::STANDARD.decode(packed).map_err(|e| e.to_string())?;
    let mut json = Vec::new();
    GzDecoder::new(packed.as_slice()).read_to_end(&mut json).map_err(|e| e.to_string())?;
    let plan = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
    Ok(Record { id: text("id")?.to_owned(), phase, plan })
}

#[cfg(test)]
mod tests {
    use super::super::{Item, Uid, Verdict};
    use super::*;

    #[test]
    fn a_record_is_read_back() {
        let item = Item {
            object: ObjectRef::namespaced("v1", "Secret", "default", "a"),
            uid: Uid("1".into()),
            verdict: Verdict::Move { group: 1 },
        };
        let record = Record { id: "run".into(), phase: Phase::Committed, plan: Plan { items: vec![item] } };
        assert_eq!(decode(&encode(&record)).unwrap(), record);
    }
}
