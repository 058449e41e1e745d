//! A configuration and an event for tests, of this crate and of its process.

use cartulary_compliance::config::{
    AlarmSettings, Archiving, ClusterRef, Compliance, Endpoint, EndpointTarget, FORMAT, JournalSettings,
    LinkSettings, QueueLimit, SidecarConfig,
};
use cartulary_compliance::link::{Event, Ingress, Subject, Target};

/// Both directions, blocking, one SQLite endpoint `main`.
pub fn config() -> SidecarConfig {
    let endpoint = Endpoint { target: EndpointTarget::Sqlite, queue: QueueLimit::default() };
    SidecarConfig {
        format: FORMAT,
        cluster: ClusterRef { namespace: "chat".into(), name: "main".into() },
        generation: 1,
        archiving: Archiving {
            inbound: true,
            outbound: true,
            block_if_unable_to_record: true,
            endpoint: Some("main".into()),
            node_endpoints: [].into(),
        },
        endpoints: [("main".to_owned(), endpoint)].into(),
        journal: JournalSettings::default(),
        link: LinkSettings::default(),
        alarms: AlarmSettings::default(),
        compliance: Compliance::default(),
    }
}

/// What a plugin asks about a message from one user to another.
pub fn event(body: &str) -> Event {
    Event {
        ingress: Ingress::Client,
        host: "here.example".into(),
        stanza: format!("<message type='chat' id='m'><body>{body}</body></message>"),
        from: "romeo@here.example/orchard".into(),
        to: Some("juliet@here.example".into()),
        target: Target::LocalUser,
        recipients: Vec::new(),
        session: Some("c2s1".into()),
        address: None,
        secure: true,
        seen_at_micros: 1_700_000_000_000_000,
        room: None,
        event_id: None,
        subject: Subject::Message,
        of_rooms: false,
        room_exists: true,
    }
}
