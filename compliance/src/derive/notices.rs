//! The events that a notice tells of: what has happened and can be changed no more.

use super::glance::Glance;
use super::{Key, Occurrence};
use crate::decision::bare_of;
use crate::events::{self, Event, Packet};
use crate::link::Notice;
use crate::xml::escaped;
use std::sync::Arc;

const CLIENT: &str = "xmlns='jabber:client'";
const ADMIN: &str = "http://jabber.org/protocol/muc#admin";
const OWNER: &str = "http://jabber.org/protocol/muc#owner";

/// The events that a notice tells of, each with the stanza that shows it. None for one of a snapshot, which says what is.
///
/// A nickname's change is told three times: that it changes, and as the leaving and joining that a room's list of occupants needs. The
/// first is its event.
#[must_use]
pub fn told(notice: &Notice) -> Vec<(Occurrence, String)> {
    if notice.snapshot {
        return Vec::new();
    }
    let is_half_of_a_change = notice.reason.as_deref() == Some("nick changed");
    let shown: Vec<(&'static Event, String)> = match notice.name.as_str() {
        "session-down" => vec![(&events::ES_END, presence(notice, Some("unavailable")))],
        "authenticated" => vec![(&events::E_AUTH, login(notice, true))],
        "login-failed" => vec![(&events::E_AUTH, login(notice, false))],
        "registered" => vec![(&events::E_REGISTER, registration(notice))],
        "room-created" => vec![(&events::ON_AFTER_ROOM_CREATE, room_presence(notice, ""))],
        "room-destroyed" => vec![(&events::ON_DESTROY, room_presence(notice, " type='unavailable'"))],
        "room-closing" => vec![(&events::ON_CLOSE, destroy(notice))],
        "room-configured" => {
            let empty = || iq(notice, &format!("<query xmlns='{OWNER}'/>"));
            vec![(&events::ON_AFTER_META_INFO_SET, given(notice, &["iq"]).unwrap_or_else(empty))]
        }
        "occupant-joined" | "occupant-left" if is_half_of_a_change => Vec::new(),
        "occupant-joined" => {
            let shown = given(notice, &["presence"]).unwrap_or_else(|| presence(notice, None));
            vec![(&events::ON_AFTER_CHANGE_USER, shown.clone()), (&events::ON_AFTER_JOIN, shown)]
        }
        "occupant-left" => {
            // A kick or a lost connection ends a stay as well; what is shown says that it ended.
            let is_leave = |text: &String| Glance::at(text).is_some_and(|glance| glance.is("unavailable"));
            let shown = given(notice, &["presence"])
                .filter(is_leave)
                .unwrap_or_else(|| presence(notice, Some("unavailable")));
            vec![(&events::ON_AFTER_CHANGE_USER, shown.clone()), (&events::ON_LEAVE, shown)]
        }
        "occupant-changed" => {
            let shown = given(notice, &["presence", "iq"]).unwrap_or_else(|| changed(notice));
            vec![(&events::ON_AFTER_CHANGE_USER, shown)]
        }
        "affiliation-changed" => {
            let is_none = notice.value.as_deref().is_none_or(|value| value == "none");
            let event = if is_none {
                &events::ON_AFTER_REMOVE_AFFILIATION
            } else {
                &events::ON_AFTER_CHANGE_AFFILIATION
            };
            vec![(event, affiliation(notice))]
        }
        "subject-changed" => {
            vec![(&events::ON_AFTER_SUBJECT, given(notice, &["message"]).unwrap_or_else(|| subject(notice)))]
        }
        "invited" => {
            vec![(
                &events::ON_AFTER_INVITE,
                given(notice, &["message"]).unwrap_or_else(|| invitation(notice)),
            )]
        }
        "services-reconfigured" => vec![(&events::ON_SERVICE_RECONFIG, room_presence(notice, ""))],
        _ => Vec::new(),
    };
    let about = if shown.first().is_some_and(|(event, _)| event.group == events::Group::Jsm) {
        notice.jid.as_deref()
    } else {
        notice.room.as_deref()
    };
    // A notice that does not say whom or what it is about tells nothing.
    let Some(key) = about.map(|jid| Key::of(bare_of(jid))) else { return Vec::new() };
    let occurrence = |(event, stanza): (&'static Event, String)| {
        let packet = packet(&stanza);
        (Occurrence { event, packet, key: key.clone(), recipients: Arc::from([]) }, stanza)
    };
    shown.into_iter().map(occurrence).collect()
}

/// The statistics, as XEP-0039 writes them: of each the name, the unit and the value.
#[must_use]
pub fn stats<'a>(host: &str, values: impl IntoIterator<Item = (&'a str, &'a str, u64)>) -> String {
    let stats: String = values
        .into_iter()
        .map(|(name, units, value)| {
            format!("<stat name='{}' units='{}' value='{value}'/>", escaped(name), escaped(units))
        })
        .collect();
    let from = escaped(host);
    format!(
        "<iq {CLIENT} type='result' from='{from}'><query xmlns='http://jabber.org/protocol/stats'>{stats}</query></iq>"
    )
}

fn packet(stanza: &str) -> Packet {
    match Glance::at(stanza).map(|glance| glance.name).as_deref() {
        Some("message") => Packet::Message,
        Some("presence") => Packet::Presence,
        _ => Packet::Iq,
    }
}

/// The stanza that the notice brings, if it is one of these.
fn given(notice: &Notice, names: &[&str]) -> Option<String> {
    let stanza = notice.stanza.as_ref()?;
    let glance = Glance::at(stanza)?;
    names.contains(&glance.name.as_str()).then(|| stanza.clone())
}

/// ` name='value'`, or nothing.
fn attribute(name: &str, value: Option<&str>) -> String {
    value.map(|value| format!(" {name}='{}'", escaped(value))).unwrap_or_default()
}

fn element(name: &str, text: Option<&str>) -> String {
    text.map(|text| format!("<{name}>{}</{name}>", escaped(text))).unwrap_or_default()
}

fn presence(notice: &Notice, kind: Option<&str>) -> String {
    let (from, to) = (attribute("from", notice.jid.as_deref()), attribute("to", notice.occupant.as_deref()));
    format!("<presence {CLIENT}{}{from}{to}/>", attribute("type", kind))
}

fn room_presence(notice: &Notice, kind: &str) -> String {
    format!("<presence {CLIENT}{kind}{}/>", attribute("from", notice.room.as_deref()))
}

fn login(notice: &Notice, succeeded: bool) -> String {
    let (from, mechanism) = (
        attribute("from", notice.jid.as_deref().map(bare_of)),
        attribute("mechanism", notice.mechanism.as_deref()),
    );
    let auth = format!("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'{mechanism}/>");
    if succeeded {
        return format!("<iq {CLIENT} type='set'{from}>{auth}</iq>");
    }
    let error = "<error type='auth'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
    format!("<iq {CLIENT} type='error'{from}>{auth}{error}</iq>")
}

fn registration(notice: &Notice) -> String {
    let account = notice.jid.as_deref().map(bare_of).unwrap_or_default();
    let (name, host) = account.split_once('@').unwrap_or((account, account));
    let (from, to) = (attribute("from", Some(account)), attribute("to", Some(host)));
    let name = element("username", Some(name));
    format!("<iq {CLIENT} type='set'{from}{to}><query xmlns='jabber:iq:register'>{name}</query></iq>")
}

/// An iq to the room, from whoever the notice says did it.
fn iq(notice: &Notice, payload: &str) -> String {
    iq_from(notice.jid.as_deref(), notice, payload)
}

fn iq_from(from: Option<&str>, notice: &Notice, payload: &str) -> String {
    let (from, to) = (attribute("from", from), attribute("to", notice.room.as_deref()));
    format!("<iq {CLIENT} type='set'{from}{to}>{payload}</iq>")
}

fn destroy(notice: &Notice) -> String {
    let reason = element("reason", notice.reason.as_deref());
    iq(notice, &format!("<query xmlns='{OWNER}'><destroy>{reason}</destroy></query>"))
}

/// The change that a role is; of a nickname and availability, the presence that says it.
fn changed(notice: &Notice) -> String {
    if notice.reason.as_deref() != Some("role") {
        return presence(notice, None);
    }
    let nick = notice.occupant.as_deref().and_then(|jid| jid.split_once('/')).map(|(_, nick)| nick);
    let (nick, role) = (attribute("nick", nick), attribute("role", notice.value.as_deref()));
    iq_from(None, notice, &format!("<query xmlns='{ADMIN}'><item{nick}{role}/></query>"))
}

/// One item, of whatever number the iq had that brought it about; that one says who did it.
fn affiliation(notice: &Notice) -> String {
    let from = notice.stanza.as_deref().and_then(Glance::at).and_then(|glance| glance.from);
    let (jid, value) = (
        attribute("jid", notice.jid.as_deref()),
        attribute("affiliation", Some(notice.value.as_deref().unwrap_or("none"))),
    );
    let reason = element("reason", notice.reason.as_deref());
    let item = format!("<query xmlns='{ADMIN}'><item{jid}{value}>{reason}</item></query>");
    iq_from(from.as_deref(), notice, &item)
}

fn subject(notice: &Notice) -> String {
    let from = attribute("from", notice.occupant.as_deref().or(notice.room.as_deref()));
    let text = escaped(notice.value.as_deref().unwrap_or_default());
    format!("<message {CLIENT} type='groupchat'{from}><subject>{text}</subject></message>")
}

fn invitation(notice: &Notice) -> String {
    let (to, whom) = (attribute("to", notice.room.as_deref()), attribute("to", notice.jid.as_deref()));
    format!(
        "<message {CLIENT}{to}><x xmlns='http://jabber.org/protocol/muc#user'><invite{whom}/></x></message>"
    )
}
