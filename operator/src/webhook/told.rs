//! Refusals as Events: of the controller that makes the pods, where people look first when none comes, and of the XMPPCluster.
//!
//! Invariants: nobody waits for them; a dry run makes none; the same refusal of the same object is told once in [`QUIET`], since
//! a controller tries again and again; what cannot be told is dropped, for the answer to the request says it all anyway.

use crate::conditions::cut;
use crate::inject::Refusal;
use cartulary_compliance::names::label;
use cartulary_crds::XmppCluster;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long the same refusal of the same object is not told again.
const QUIET: Duration = Duration::from_secs(60);
/// So many are written at once; more are dropped.
const CONCURRENT: usize = 8;
/// So many are remembered.
const REMEMBERED: usize = 4096;

/// Tells refusals.
#[derive(Clone)]
pub struct Told {
    client: Client,
    recorder: Recorder,
    last: Arc<Mutex<HashMap<(String, &'static str), Instant>>>,
    permits: Arc<Semaphore>,
}

impl Told {
    /// Tells through this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let reporter = Reporter {
            controller: "cartulary-operator".to_owned(),
            instance: std::env::var("POD_NAME").ok(),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            last: Arc::default(),
            permits: Arc::new(Semaphore::new(CONCURRENT)),
        }
    }

    /// Tells it, some time soon.
    pub fn refusal(&self, namespace: &str, pod: &Value, refusal: &Refusal) {
        let controller = controller(namespace, pod).filter(|object| self.is_new(object, refusal.reason));
        let cluster = pod["metadata"]["labels"][label::CLUSTER].as_str().unwrap_or_default().to_owned();
        let cluster = Some(cluster).filter(|name| {
            let object = ObjectReference {
                namespace: Some(namespace.to_owned()),
                name: Some(name.clone()),
                ..ObjectReference::default()
            };
            self.is_new(&object, refusal.reason)
        });
        if controller.is_none() && cluster.is_none() {
            return;
        }
        let Ok(permit) = self.permits.clone().try_acquire_owned() else { return };
        let event = Event {
            type_: EventType::Warning,
            reason: refusal.reason.to_owned(),
            note: Some(cut(&format!("a pod was refused: {}", refusal.message))),
            action: "Injecting".to_owned(),
            secondary: None,
        };
        let (told, namespace) = (self.clone(), namespace.to_owned());
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = told.publish(&namespace, &event, controller, cluster).await {
                tracing::debug!(%error, reason = event.reason, "an event of a refusal could not be written");
            }
        });
    }

    async fn publish(
        &self,
        namespace: &str,
        event: &Event,
        controller: Option<ObjectReference>,
        cluster: Option<String>,
    ) -> Result<(), kube::Error> {
        if let Some(controller) = controller {
            self.recorder.publish(event, &controller).await?;
        }
        let Some(cluster) = cluster else { return Ok(()) };
        let clusters = Api::<XmppCluster>::namespaced(self.client.clone(), namespace);
        if let Some(cluster) = clusters.get_opt(&cluster).await? {
            self.recorder.publish(event, &cluster.object_ref(&())).await?;
        }
        Ok(())
    }

    fn is_new(&self, object: &ObjectReference, reason: &'static str) -> bool {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let key = [&object.namespace, &object.kind, &object.name, &object.uid].map(part).join("/");
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, when| when.elapsed() < QUIET);
        if last.len() >= REMEMBERED || last.contains_key(&(key.clone(), reason)) {
            return false;
        }
        last.insert((key, reason), Instant::now());
        true
    }
}

/// Who makes pods like this one.
fn controller(namespace: &str, pod: &Value) -> Option<ObjectReference> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let field = |name: &str| owner[name].as_str().map(str::to_owned);
    Some(ObjectReference {
        api_version: Some(field("apiVersion")?),
        kind: Some(field("kind")?),
        name: Some(field("name")?),
        namespace: Some(namespace.to_owned()),
        uid: field("uid"),
        ..ObjectReference::default()
    })
}
