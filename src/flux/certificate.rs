//! Certificates that cert-manager would ask for again in an hour.
//!
//! Now and then it makes the key of a Certificate twice, and the request that was signed with the first one fails. The next
//! one follows an hour later; until then a webhook has no CA, and Flux waits for it in vain. cert-manager itself would do
//! well at once, so it is made to forget the failure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::event::Events;
use crate::k8s::{Cluster, Copies, DynamicObject, GroupVersionKind, ObjectRef, Result, condition, reference};

/// How often they are looked at.
const EVERY: Duration = Duration::from_secs(2);
/// An issuer that fails so often will go on failing.
const AT_MOST: usize = 3;

/// Has failed Certificates of one cluster issued again.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// The failures that were made forgotten.
    forgotten: HashMap<ObjectRef, Vec<String>>,
    looked: Option<Instant>,
}

impl Certificates {
    /// Looks at all of them, unless it just did.
    pub async fn turn(&mut self, cluster: &Cluster, copies: &mut Copies, events: &Events) -> Result<()> {
        if self.looked.is_some_and(|looked| looked.elapsed() < EVERY) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let gvk = GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate");
        for object in copies.all(&gvk).await? {
            let Some((when, why)) = failure(&object) else { continue };
            let name = reference(&object);
            let forgotten = self.forgotten.entry(name.clone()).or_default();
            if forgotten.len() == AT_MOST || forgotten.iter().any(|before| before == when) {
                continue;
            }
            let forget = json!({"status": {"lastFailureTime": null, "failedIssuanceAttempts": null}});
            cluster.merge_status(&name, &forget).await?;
            events.progress(name.to_string(), format!("is asked for again, and not in an hour: {why}"));
            forgotten.push(when.to_owned());
        }
        Ok(())
    }
}

/// When the last request for a Certificate failed, and why, if cert-manager waits since then.
fn failure(object: &DynamicObject) -> Option<(&str, &str)> {
    let when = object.data.pointer("/status/lastFailureTime").and_then(Value::as_str)?;
    let issuing = condition(object, "Issuing").filter(|c| c["status"] == "False" && c["reason"] == "Failed")?;
    Some((when, issuing["message"].as_str().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_waits_when_its_last_request_failed_and_no_other_has_begun() {
        let certificate = |time: Value, status: &str, reason: &str| {
            let object = json!({"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": "c"},
                "status": {"lastFailureTime": time, "conditions": [
                    {"type": "Issuing", "status": status, "reason": reason, "message": "CSR not signed"},
                    {"type": "Ready", "status": "False"}]}});
            let object = serde_json::from_value(object).unwrap();
            failure(&object).map(|(when, why)| format!("{when} {why}"))
        };
        assert_eq!(certificate(json!("t1"), "False", "Failed").as_deref(), Some("t1 CSR not signed"));
        assert_eq!(certificate(json!("t1"), "True", "DoesNotExist"), None, "it is under way");
        assert_eq!(certificate(Value::Null, "False", "Failed"), None, "it was made forgotten");
    }
}
