//! The pivot's record, a ConfigMap on both clusters: a lost disk does not lose a pivot, and a second pivot sees the first.

use std::io::{Read, Write};

use base64::Engine as _;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use kube::api::{Api, DynamicObject, ObjectMeta, PostParams, TypeMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::fence::Held;
use crate::capi::plan::Plan;
use crate::capi::{Error, Result};
use crate::k8s::{self, Cluster, MANAGER, ObjectRef};

/// Name of the ConfigMap.
const NAME: &str = "cluster-init-pivot";
/// Its namespace.
const NAMESPACE: &str = "default";

/// How far a pivot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing is deleted yet: every failure rolls back.
    Copying,
    /// Every copy was verified: every failure rolls forward.
    Committed,
    /// The target has it all, and is released.
    Done,
}

impl Phase {
    /// As the record and messages say it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Committed => "committed",
            Self::Done => "done",
        }
    }
}

/// The process that works on a pivot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The host that it runs on.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// When that process started, as the kernel counts.
    pub started: u64,
    /// Tells hosts, boots and containers apart.
    pub place: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// What is known of a pivot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The pivot's id.
    pub id: String,
    /// How far it is.
    pub phase: Phase,
    /// The UID of the source's namespace kube-system: which cluster it moves from.
    pub from: String,
    /// The same of the target.
    pub to: String,
    /// Who works on it, or worked on it last.
    pub holder: Holder,
    /// Changes while the holder lives.
    pub pulse: String,
    /// What it does.
    pub plan: Plan,
    /// What it holds, and how that was before.
    pub fence: Vec<Held>,
}

impl Record {
    /// One line, for messages that show two records side by side.
    pub fn line(&self) -> String {
        format!("pivot {}, {}, of {}", self.id, self.phase.text(), self.holder)
    }
}

/// A record with the version of the ConfigMap that it was read from.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub record: Record,
    pub version: String,
}

/// The ConfigMap's name.
pub(super) fn reference() -> ObjectRef {
    ObjectRef::namespaced("v1", "ConfigMap", NAMESPACE, NAME)
}

/// The record on one cluster.
pub async fn recorded(cluster: &Cluster) -> Result<Option<Record>> {
    Ok(seen(cluster).await?.map(|seen| seen.record))
}

/// The record on one cluster, with its version.
pub(super) async fn seen(cluster: &Cluster) -> Result<Option<Seen>> {
    let Some(object) = cluster.get(&reference()).await? else { return Ok(None) };
    let record = decode(&object).map_err(|reason| Error::Record {
        name: NAME.into(),
        cluster: cluster.name().into(),
        reason,
    })?;
    Ok(Some(Seen { record, version: object.metadata.resource_version.unwrap_or_default() }))
}

/// Writes the record where there was none, or where it was `before`: of two that try, one gets a conflict.
pub(super) async fn claim(cluster: &Cluster, record: &Record, before: Option<&Seen>) -> Result<()> {
    let mut object = encode(record);
    let api = api(cluster).await?;
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    let result = match before {
        None => api.create(&params, &object).await,
        Some(seen) => {
            object.metadata.resource_version = Some(seen.version.clone());
            api.replace(NAME, &params, &object).await
        }
    };
    result.map(|_| ()).map_err(|source| request(cluster, "claim", source))
}

/// Writes the record of a pivot that is ours, and still is: a process that was frozen may have been replaced.
pub(super) async fn write(cluster: &Cluster, record: &Record) -> Result<()> {
    loop {
        let before = seen(cluster).await?;
        if let Some(seen) = before.as_ref().filter(|seen| seen.record.holder != record.holder) {
            return Err(Error::Other(seen.record.line()));
        }
        match claim(cluster, record, before.as_ref()).await {
            // Our own pulse was faster.
            Err(Error::Cluster(error)) if error.conflict() => {}
            result => return result,
        }
    }
}

/// Shows that the holder lives; `false` when it is the holder no more.
pub(super) async fn beat(cluster: &Cluster, holder: &Holder, pulse: &str) -> Result<bool> {
    match seen(cluster).await? {
        Some(seen) if seen.record.holder == *holder => {
            let patch = json!({"metadata": {"resourceVersion": seen.version}, "data": {"pulse": pulse}});
            cluster.merge(&reference(), &patch).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Removes the record of a pivot from one cluster; another's is left alone.
pub(super) async fn remove(cluster: &Cluster, id: &str) -> Result<()> {
    match seen(cluster).await? {
        Some(seen) if seen.record.id == id => {
            Ok(cluster.delete(&reference(), &kube::api::DeleteParams::default()).await?)
        }
        _ => Ok(()),
    }
}

async fn api(cluster: &Cluster) -> Result<Api<DynamicObject>> {
    let named = reference();
    Ok(cluster.api(&named.gvk(), named.namespace.as_deref()).await?)
}

fn request(cluster: &Cluster, verb: &str, source: kube::Error) -> Error {
    let action = format!("{verb} the pivot's record");
    k8s::Error::Request { cluster: cluster.name().into(), action, source: Box::new(source) }.into()
}

fn encode(record: &Record) -> DynamicObject {
    let holder = serde_json::to_string(&record.holder).unwrap_or_default();
    DynamicObject {
        types: Some(TypeMeta { api_version: "v1".into(), kind: "ConfigMap".into() }),
        metadata: ObjectMeta { name: Some(NAME.into()), namespace: Some(NAMESPACE.into()), ..ObjectMeta::default() },
        data: json!({
            "data": {"id": record.id, "phase": record.phase, "from": record.from, "to": record.to,
                "holder": holder, "pulse": record.pulse},
            "binaryData": {"plan.json.gz": pack(&record.plan), "fence.json.gz": pack(&record.fence)},
        }),
    }
}

/// Thousands of objects would not fit into a ConfigMap as plain text.
fn pack(value: &impl Serialize) -> String {
    // Writing to memory cannot fail.
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let _ = packed.write_all(&serde_json::to_vec(value).unwrap_or_default());
    base64::engine::general_purpose::STANDARD.encode(packed.finish().unwrap_or_default())
}

fn unpack<T: DeserializeOwned>(object: &DynamicObject, key: &str) -> Result<T, String> {
    let packed = object.data["binaryData"][key].as_str().ok_or_else(|| format!("it has no {key}"))?;
    let packed = base64::engine::general_purpose::STANDARD.decode(packed).map_err(|e| e.to_string())?;
    let mut json = Vec::new();
    GzDecoder::new(packed.as_slice()).read_to_end(&mut json).map_err(|e| e.to_string())?;
    serde_json::from_slice(&json).map_err(|e| e.to_string())
}

fn decode(object: &DynamicObject) -> Result<Record, String> {
    let data = &object.data["data"];
    let text = |field: &str| data[field].as_str().map(str::to_owned).ok_or_else(|| format!("it has no {field}"));
    Ok(Record {
        id: text("id")?,
        phase: serde_json::from_value(data["phase"].clone()).map_err(|e| e.to_string())?,
        from: text("from")?,
        to: text("to")?,
        holder: serde_json::from_str(&text("holder")?).map_err(|e| e.to_string())?,
        pulse: text("pulse")?,
        plan: unpack(object, "plan.json.gz")?,
        fence: unpack(object, "fence.json.gz")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::{Item, Uid, Verdict};

    #[test]
    fn a_record_is_read_back() {
        let object = ObjectRef::namespaced("v1", "Secret", "default", "a");
        let item = Item {
            object: object.clone(),
            uid: Uid("1".into()),
            verdict: Verdict::Move { group: 1 },
            verified: "7".into(),
        };
        let record = Record {
            id: "run".into(),
            phase: Phase::Committed,
            from: "a".into(),
            to: "b".into(),
            holder: Holder { host: "laptop".into(), pid: 7, started: 8, place: "here".into() },
            pulse: "1".into(),
            plan: Plan { items: vec![item], remarks: vec!["x".into()] },
            fence: vec![Held { object, target: false, hold: json!({"a": 1}), restore: json!({"a": null}) }],
        };
        assert_eq!(decode(&encode(&record)).unwrap(), record);
        assert_eq!(record.line(), "pivot run, committed, of process 7 on laptop");
    }
}
