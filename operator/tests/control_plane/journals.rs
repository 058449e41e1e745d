//! Journals: anchored while their pods run, drained when these are gone, and never lost with a claim.

use crate::world::{FakeSidecar, World, until};
use anyhow::{Context, Result};
use cartulary_archive::anchors::JournalAnchors;
use cartulary_archive::head::{Mark, Signer, Statement, sign};
use cartulary_compliance::status::{DrainReport, DrainWaiting, Head, HostCoverage, SidecarStatus};
use cartulary_crds::{JournalStatus, XmppCluster};
use cartulary_operator::cluster::drain::job_name;
use cartulary_operator::reasons as reason;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use uuid::Uuid;

const JOURNAL: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);

fn head(seed: u8, sequence: u64, hash: u8) -> Head {
    let statement = Statement {
        journal: JOURNAL,
        incarnation: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002),
        endpoint: "records".to_owned(),
        last: Mark { sequence, hash: [hash; 32] },
        confirmed: None,
        closed: false,
        at_nanos: 1_750_000_000_000_000_000,
    };
    sign(&Signer::from_seed(&[seed; 32]), &statement)
}

fn status(cluster: &str, heads: Vec<Head>) -> SidecarStatus {
    let mut status =
        SidecarStatus { node: "prosody-0".into(), cluster: cluster.into(), heads, ..Default::default() };
    status.link.connected = true;
    status.link.hosts = vec![HostCoverage { name: "example.org".into(), problem: None }];
    status.journal.id = JOURNAL.to_string();
    status
}

async fn recorded(world: &mut World, heads: Vec<Head>) -> Result<FakeSidecar> {
    world.endpoint("records", json!({ "type": "SQLite", "default": true })).await?;
    world.cluster(json!({})).await?;
    world.condition::<XmppCluster>("chat", "Accepted", "True", reason::OUTBOUND_OFF).await?;
    world.stateful_set().await?;
    world.runs("prosody-0").await?;
    let cluster = format!("{}/chat", world.namespace);
    world.sidecar(status(&cluster, heads)).await
}

async fn kept(world: &World) -> Result<Option<JournalAnchors>> {
    let object = world.api::<ConfigMap>().get_opt(&format!("cartulary-anchors-{JOURNAL}")).await?;
    let json = object.and_then(|object| object.data?.remove("anchors.json"));
    Ok(json.map(|json| serde_json::from_str(&json)).transpose()?)
}

async fn event(world: &World, reason: &str, kind: &str) -> Result<()> {
    until("an event tells it", || async {
        let events = world.api::<Event>().list(&ListParams::default()).await?;
        let told =
            |event: &Event| event.reason.as_deref() == Some(reason) && event.type_.as_deref() == Some(kind);
        Ok(events.iter().any(told).then_some(()))
    })
    .await
    .with_context(|| reason.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn ev_1_a_head_is_anchored_at_first_sight_and_a_contradiction_is_kept_beside_it() -> Result<()> {
    let mut world = World::start("anchors").await?;
    let sidecar = recorded(&mut world, vec![head(1, 7, 7)]).await?;
    world.condition::<XmppCluster>("chat", "Anchored", "True", reason::OK).await?;
    let first = kept(&world).await?.context("anchors")?;
    assert_eq!((first.heads.as_slice(), first.node.as_str()), (&[head(1, 7, 7)][..], "prosody-0"));
    assert_eq!(first.cluster, "anchors/chat");

    let mut forged = head(1, 9, 9);
    forged.sequence = 10;
    sidecar.change(|status| status.heads = vec![forged]);
    world.condition::<XmppCluster>("chat", "Anchored", "False", "AnchorConflict").await?;
    event(&world, "AnchorConflict", "Warning").await?;
    assert_eq!(kept(&world).await?.context("anchors")?, first, "what is not signed is not kept");
    sidecar.change(|status| status.heads = vec![head(1, 7, 7)]);
    world.condition::<XmppCluster>("chat", "Anchored", "True", reason::OK).await?;
    event(&world, reason::ALARM_CLEARED, "Normal").await?;

    sidecar.change(|status| status.heads = vec![head(1, 6, 6), head(2, 8, 8)]);
    world.condition::<XmppCluster>("chat", "Anchored", "False", "AnchorConflict").await?;
    until("both stand there", || async {
        let heads = kept(&world).await?.context("anchors")?.heads;
        Ok((heads == [head(1, 7, 7), head(1, 6, 6), head(2, 8, 8)]).then_some(()))
    })
    .await?;
    let metrics = world.metrics().await?;
    let alarm = r#"cartulary_alarm{alarm="AnchorConflict",namespace="anchors",cluster="chat",node="prosody-0",endpoint="",server=""} 1"#;
    assert!(metrics.contains(alarm), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ev_1_nobody_writes_the_anchors_of_another() -> Result<()> {
    let mut world = World::start("foreign").await?;
    let foreign = JournalAnchors {
        heads: vec![head(1, 3, 3)],
        ..JournalAnchors::new("other/chat", "x", &head(1, 3, 3))
    };
    let object = json!({
        "metadata": {
            "name": format!("cartulary-anchors-{JOURNAL}"),
            "labels": { "cartulary.dev/anchors": JOURNAL.to_string(), "cartulary.dev/namespace": "other", "cartulary.dev/cluster": "chat" },
        },
        "data": { "anchors.json": serde_json::to_string(&foreign)? },
    });
    world.create::<ConfigMap>(object).await?;
    let sidecar = recorded(&mut world, vec![head(1, 7, 7)]).await?;
    world.condition::<XmppCluster>("chat", "Anchored", "False", "AnchorConflict").await?;
    sidecar.asked(2).await?;
    assert_eq!(kept(&world).await?, Some(foreign));
    Ok(())
}

async fn journal(world: &World, state: &str) -> Result<JournalStatus> {
    until("the journal is in that state", || async {
        let status = world.api::<XmppCluster>().get("chat").await?.status.unwrap_or_default();
        Ok(status.journals.into_iter().find(|journal| journal.state == state))
    })
    .await
    .with_context(|| state.to_owned())
}

/// Ends the Job's pod as a kubelet would, with its last words.
async fn ends(world: &World, exit: i32, report: &DrainReport) -> Result<String> {
    let name = job_name("prosody-0");
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    let pods = world.api::<Pod>();
    let pod = until("the Job's pod is made", || async {
        let living = pods.list(&of_job).await?.items.into_iter().find(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
            pod.metadata.deletion_timestamp.is_none() && phase.as_deref() == Some("Pending")
        });
        Ok(living)
    })
    .await?;
    assert!(!pod.labels().contains_key("cartulary.dev/cluster"), "it is no pod of the cluster");
    let phase = if exit == 0 { "Succeeded" } else { "Failed" };
    let ended = json!({
        "exitCode": exit,
        "message": serde_json::to_string(report)?,
        "startedAt": "2026-01-01T00:00:00Z",
        "finishedAt": "2026-01-01T00:00:01Z",
    });
    let status = json!({ "status": { "phase": phase, "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [{
        "name": "drain", "image": "x", "imageID": "x", "ready": false, "restartCount": 0, "state": { "terminated": ended },
    }] } });
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(pod.name_any())
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_the_journal_of_a_pod_that_is_gone_is_drained_and_told_until_nothing_waits() -> Result<()> {
    let mut world = World::start_with("draining", &["--drain-grace-seconds=1"]).await?;
    recorded(&mut world, Vec::new()).await?;
    // The sidecar may be heard before the claim is seen.
    until("the journal and its claim are seen together", || async {
        let journal = journal(&world, "InUse").await?;
        Ok((journal.claim.as_deref() == Some("cartulary-journal-prosody-0")).then_some(()))
    })
    .await?;
    world.condition::<XmppCluster>("chat", "JournalsAttended", "True", reason::OK).await?;

    let scale = |replicas: u32| {
        let sets = world.api::<StatefulSet>();
        async move {
            let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
            sets.patch("prosody", &PatchParams::default(), &patch).await
        }
    };
    scale(0).await?;
    world
        .delete::<Pod>("prosody-0")
        .await
        .or_else(|error| if error.is::<kube::Error>() { Ok(()) } else { Err(error) })?;
    journal(&world, "Draining").await?;
    world.condition::<XmppCluster>("chat", "JournalsAttended", "False", "JournalUnattended").await?;
    event(&world, "JournalUnattended", "Warning").await?;

    let waiting = DrainWaiting { records: 5, message: "no route".into(), ..DrainWaiting::default() };
    let report = DrainReport { waiting: [("records".to_owned(), waiting)].into(), ..DrainReport::default() };
    let first = ends(&world, 3, &report).await?;
    let seen = journal(&world, "Waiting").await?;
    assert_eq!(seen.waiting, Some(5));
    assert!(seen.message.is_some_and(|message| message.contains("no route")));

    // Another configuration: tried again at once.
    let spec = json!({ "spec": { "archiving": { "outbound": true } } });
    world.api::<XmppCluster>().patch("chat", &PatchParams::default(), &Patch::Merge(spec)).await?;
    journal(&world, "Draining").await?;
    let broken = DrainReport { problem: Some("the journal cannot be read".into()), ..DrainReport::default() };
    let second = ends(&world, 1, &broken).await?;
    assert_ne!(first, second);
    journal(&world, "Failed").await?;
    world.condition::<XmppCluster>("chat", "JournalsAttended", "False", "DrainFailed").await?;

    // Somebody who has mended it deletes the Job.
    let jobs = world.api::<Job>();
    jobs.delete(&job_name("prosody-0"), &DeleteParams::background()).await?;
    journal(&world, "Draining").await?;
    let carried =
        DrainReport { journal: JOURNAL.to_string(), heads: vec![head(1, 9, 9)], ..DrainReport::default() };
    ends(&world, 0, &carried).await?;
    journal(&world, "Drained").await?;
    assert_eq!(
        kept(&world).await?.context("anchors")?.heads,
        carried.heads,
        "EV-1: of what a Job carried, too"
    );
    world.condition::<XmppCluster>("chat", "JournalsAttended", "True", reason::OK).await?;
    assert!(world.api::<PersistentVolumeClaim>().get_opt("cartulary-journal-prosody-0").await?.is_some());

    scale(1).await?;
    until("the Job is gone when the pod is back", || async {
        Ok(jobs.get_opt(&job_name("prosody-0")).await?.is_none().then_some(()))
    })
    .await?;
    journal(&world, "InUse").await?;

    // Deleted with everything in it, a Job included: nothing holds it.
    scale(0).await?;
    let pods = world.api::<Pod>();
    let _ = pods.delete("prosody-0", &DeleteParams::default().grace_period(0)).await;
    journal(&world, "Draining").await?;
    let namespaces = Api::<Namespace>::all(world.client.clone());
    namespaces.delete(&world.namespace, &DeleteParams::default()).await?;
    until("the namespace is gone", || async {
        // There is no kubelet to end its pods.
        for pod in pods.list(&ListParams::default()).await? {
            let _ = pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await;
        }
        Ok(namespaces.get_opt(&world.namespace).await?.is_none().then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_volume_with_a_journal_outlives_its_claim() -> Result<()> {
    let world = World::without_operator("volumes", crate::world::free_port().await?).await?;
    // What the chart gives with all namespaces.
    let rights = json!({ "apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["get", "patch"] });
    let role: ClusterRole =
        serde_json::from_value(json!({ "metadata": { "name": "volumes" }, "rules": [rights] }))?;
    Api::<ClusterRole>::all(world.client.clone()).create(&PostParams::default(), &role).await?;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": { "name": "volumes" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "volumes" },
        "subjects": [{ "kind": "ServiceAccount", "name": "volumes-cartulary", "namespace": "volumes" }],
    }))?;
    Api::<ClusterRoleBinding>::all(world.client.clone()).create(&PostParams::default(), &binding).await?;
    let volumes = Api::<PersistentVolume>::all(world.client.clone());
    for name in ["journal", "other"] {
        let volume: PersistentVolume = serde_json::from_value(json!({
            "metadata": { "name": format!("volumes-{name}") },
            "spec": {
                "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "storageClassName": format!("none-{name}"),
                "persistentVolumeReclaimPolicy": "Delete", "hostPath": { "path": "/nowhere" },
            },
        }))?;
        volumes.create(&PostParams::default(), &volume).await?;
        let labels = if name == "journal" { json!({ "cartulary.dev/cluster": "chat" }) } else { json!({}) };
        let claim = if name == "journal" { "cartulary-journal-prosody-0" } else { "other" };
        let claim = json!({
            "metadata": { "name": claim, "labels": labels },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": format!("none-{name}"), "volumeName": format!("volumes-{name}"),
                "resources": { "requests": { "storage": "1Gi" } },
            },
        });
        world.create::<PersistentVolumeClaim>(claim).await?;
        until("it is bound", || async {
            let phase = volumes.get(&format!("volumes-{name}")).await?.status.and_then(|status| status.phase);
            Ok((phase.as_deref() == Some("Bound")).then_some(()))
        })
        .await?;
    }
    world.cluster(json!({})).await?;
    let world = world.operate(&[]).await?;
    let policy = |name: &'static str| {
        let volumes = volumes.clone();
        async move {
            Ok::<_, kube::Error>(
                volumes.get(name).await?.spec.and_then(|spec| spec.persistent_volume_reclaim_policy),
            )
        }
    };
    until("it is retained", || async {
        Ok((policy("volumes-journal").await?.as_deref() == Some("Retain")).then_some(()))
    })
    .await?;
    assert_eq!(policy("volumes-other").await?.as_deref(), Some("Delete"), "no other volume is touched");
    let seen = until("the status says so", || async {
        let status = world.api::<XmppCluster>().get("chat").await?.status.unwrap_or_default();
        Ok(status.journals.into_iter().find(|journal| journal.retained == Some(true)))
    })
    .await?;
    assert_eq!(seen.volume.as_deref(), Some("volumes-journal"));
    world.delete::<PersistentVolumeClaim>("cartulary-journal-prosody-0").await?;
    until("the volume is left", || async {
        let phase = volumes.get("volumes-journal").await?.status.and_then(|status| status.phase);
        Ok((phase.as_deref() == Some("Released")).then_some(()))
    })
    .await
}
