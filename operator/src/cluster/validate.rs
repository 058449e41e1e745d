//! Decides whether a declaration can be carried out with what was gathered. Pure; what it returns can always be built.

use super::compliance;
use super::dereference::Gathered;
use crate::conditions::Problem;
use crate::endpoint::resolve::resolve;
use crate::reasons as reason;
use cartulary_compliance::alarms;
use cartulary_compliance::config::{
    AlarmSettings, Archiving, ClusterRef, Compliance, Endpoint, EndpointTarget, JournalSettings,
    LinkSettings, Silence, WhenUnanswered,
};
use cartulary_crds::{ByteSize, ScalarError, XmppCluster};
use std::collections::BTreeMap;

/// Size of a journal's claim where none is given.
pub const DEFAULT_CLAIM: &str = "1Gi";
/// Bytes of an ephemeral journal where no limit is given: it shares the node's disk with everything else there.
const EPHEMERAL_BYTES: u64 = 1 << 30;

/// A declaration that can be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validated {
    /// Whose it is.
    pub cluster: ClusterRef,
    /// Its generation.
    pub generation: i64,
    /// What is recorded and where.
    pub archiving: Archiving,
    /// The endpoints that are used.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Limits of the journal.
    pub journal: JournalSettings,
    /// Limits of the link.
    pub link: LinkSettings,
    /// When alarms are raised.
    pub alarms: AlarmSettings,
    /// Who is asked.
    pub compliance: Compliance,
}

/// Checks it.
pub fn validate(cluster: &XmppCluster, gathered: &Gathered) -> Result<Validated, Problem> {
    let archiving = archiving(cluster, gathered)?;
    let mut endpoints = BTreeMap::new();
    for name in archiving.endpoint.iter().chain(archiving.node_endpoints.values()) {
        let endpoint = gathered.endpoints.get(name).ok_or_else(|| {
            Problem::new(
                reason::ENDPOINT_MISSING,
                format!(
                    "there is no ArchiveEndpoint {name} in this namespace: create it, or name another one"
                ),
            )
        })?;
        endpoints.insert(name.clone(), resolve(endpoint, &gathered.secrets)?);
    }
    let beside = endpoints.values().any(|endpoint| endpoint.target == EndpointTarget::Sqlite);
    Ok(Validated {
        cluster: ClusterRef {
            namespace: cluster.metadata.namespace.clone().unwrap_or_default(),
            name: cluster.metadata.name.clone().unwrap_or_default(),
        },
        generation: cluster.metadata.generation.unwrap_or_default(),
        archiving,
        endpoints,
        journal: journal(cluster, beside)?,
        link: link(cluster)?,
        alarms: alarms(cluster)?,
        compliance: compliance::compliance(cluster, gathered)?,
    })
}

/// What a declaration that can be carried out leaves to be desired: all in words, with the reason of the first.
#[must_use]
pub fn warning(cluster: &XmppCluster, gathered: &Gathered) -> Option<Problem> {
    let mut all: Vec<Problem> =
        of_archiving(cluster).into_iter().chain(compliance::warnings(cluster, gathered)).collect();
    if all.len() > 1 {
        let messages: Vec<_> = all.iter().map(|warning| warning.message.as_str()).collect();
        all[0].message = messages.join(". Also: ");
    }
    all.into_iter().next()
}

fn of_archiving(cluster: &XmppCluster) -> Option<Problem> {
    let archiving = &cluster.spec.archiving;
    if !archiving.inbound && !archiving.outbound {
        return Some(Problem::new(
            reason::ARCHIVING_OFF,
            "nothing is recorded: archiving.inbound and archiving.outbound are both false",
        ));
    }
    if !archiving.outbound {
        return Some(Problem::new(
            reason::OUTBOUND_OFF,
            "messages to other servers are not recorded, so the archive holds one half of conversations with them: set \
             archiving.outbound to true to record both",
        ));
    }
    None
}

fn archiving(cluster: &XmppCluster, gathered: &Gathered) -> Result<Archiving, Problem> {
    let spec = &cluster.spec.archiving;
    let on = spec.inbound || spec.outbound;
    if spec.block_if_unable_to_record && !on {
        return Err(Problem::new(
            reason::CONTRADICTION,
            "blockIfUnableToRecord has nothing to block while inbound and outbound are both false",
        ));
    }
    let endpoint = match &spec.endpoint {
        _ if !on => None,
        Some(name) => Some(name.clone()),
        None => Some(default_endpoint(gathered)?),
    };
    let node_endpoints =
        spec.node_endpoints.iter().filter(|_| on).map(|node| (node.pod.clone(), node.endpoint.clone()));
    Ok(Archiving {
        inbound: spec.inbound,
        outbound: spec.outbound,
        block_if_unable_to_record: spec.block_if_unable_to_record,
        endpoint,
        node_endpoints: node_endpoints.collect(),
    })
}

fn default_endpoint(gathered: &Gathered) -> Result<String, Problem> {
    let mut defaults =
        gathered.endpoints.iter().filter(|(_, endpoint)| endpoint.spec.default).map(|(name, _)| name);
    match (defaults.next(), defaults.next()) {
        (Some(name), None) => Ok(name.clone()),
        (None, _) => Err(Problem::new(
            reason::NO_DEFAULT_ENDPOINT,
            "archiving.endpoint names no ArchiveEndpoint and none of this namespace is the default: name one, or set default: \
             true on one",
        )),
        (Some(one), Some(other)) => Err(Problem::new(
            reason::NO_DEFAULT_ENDPOINT,
            format!(
                "the ArchiveEndpoints {one} and {other} are both the default: let only one be, or name one in archiving.endpoint"
            ),
        )),
    }
}

fn journal(cluster: &XmppCluster, archive_beside: bool) -> Result<JournalSettings, Problem> {
    let spec = &cluster.spec.journal;
    if spec.ephemeral && (spec.size.is_some() || spec.storage_class_name.is_some()) {
        return Err(Problem::new(
            reason::CONTRADICTION,
            "an ephemeral journal has no claim: remove size and storageClassName",
        ));
    }
    let claim = spec.size.clone().unwrap_or_else(|| ByteSize::from(DEFAULT_CLAIM));
    let claim = claim.bytes().map_err(|error| wrong("journal.size", &error))?;
    let max_bytes = match &spec.max_bytes {
        Some(limit) => limit.bytes().map_err(|error| wrong("journal.maxBytes", &error))?,
        None if spec.ephemeral => EPHEMERAL_BYTES,
        // The archive's file needs at least the room the journal needs, and both share the volume.
        None if archive_beside => claim / 2,
        None => claim / 5 * 4,
    };
    if !spec.ephemeral && max_bytes >= claim {
        return Err(Problem::new(
            reason::CONTRADICTION,
            "journal.maxBytes must be smaller than the claim's size",
        ));
    }
    let keep = spec.keep_confirmed.duration().map_err(|error| wrong("journal.keepConfirmed", &error))?;
    Ok(JournalSettings { max_bytes, keep_confirmed_seconds: keep.as_secs(), ephemeral: spec.ephemeral })
}

/// When alarms are raised, for the sidecars and for the operator itself.
pub fn alarms(cluster: &XmppCluster) -> Result<AlarmSettings, Problem> {
    let spec = &cluster.spec.alarms;
    let waiting = spec.waiting_too_long.duration().map_err(|error| wrong("alarms.waitingTooLong", &error))?;
    Ok(AlarmSettings {
        high_water_percent: u32::try_from(spec.high_water_percent.clamp(1, 100)).unwrap_or(100),
        waiting_too_long_seconds: u32::try_from(waiting.as_secs()).unwrap_or(u32::MAX),
        silenced: spec.silenced.iter().map(silence).collect::<Result<_, _>>()?,
    })
}

/// A name that is misspelt would silence nothing, and nobody would know.
fn silence(of: &cartulary_crds::Silence) -> Result<Silence, Problem> {
    if alarms::ALL.iter().any(|alarm| alarm.name == of.alarm) {
        return Ok(Silence { alarm: of.alarm.clone(), nodes: of.pods.clone() });
    }
    let message = format!("alarms.silenced names {}, which is no alarm: docs/alarms.md lists them", of.alarm);
    Err(Problem::new(reason::CONTRADICTION, message))
}

fn link(cluster: &XmppCluster) -> Result<LinkSettings, Problem> {
    let timeout =
        cluster.spec.link.answer_timeout.duration().map_err(|error| wrong("link.answerTimeout", &error))?;
    let answer_timeout_ms = u32::try_from(timeout.as_millis())
        .map_err(|_| Problem::new(reason::CONTRADICTION, "link.answerTimeout is longer than 5m"))?;
    let unanswered = cluster.spec.link.unanswered.map(|chosen| match chosen {
        cartulary_crds::WhenUnanswered::Refuse => WhenUnanswered::Refuse,
        cartulary_crds::WhenUnanswered::Deliver => WhenUnanswered::Deliver,
    });
    if cluster.spec.archiving.block_if_unable_to_record && unanswered == Some(WhenUnanswered::Deliver) {
        return Err(Problem::new(
            reason::CONTRADICTION,
            "blockIfUnableToRecord contradicts link.unanswered: Deliver",
        ));
    }
    Ok(LinkSettings { answer_timeout_ms, unanswered, ..LinkSettings::default() })
}

/// A size or a time that cannot be meant.
pub fn wrong(field: &str, error: &ScalarError) -> Problem {
    Problem::new(reason::CONTRADICTION, format!("{field}: {error}"))
}
