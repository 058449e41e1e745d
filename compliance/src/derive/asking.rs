//! What the server plugin has to ask about, so that every event that some profile has is seen, and nothing else (PR-7, FH-7).

use super::stanza::packet;
use crate::config::{Compliance, WhenUnanswered};
use crate::events::{self, Event, Handling};
use crate::link::{AskAbout, Subject, Unanswered};
use crate::profile::{Profile, Rule};

use Subject::{Bind, Iq, Message, Presence, RoomIq, RoomPresence, ServiceIq, Subscription};

/// The stanzas that may cause an event; none where it is only told. What [`super::occurrences`] makes of stanzas is checked against it.
pub(super) fn causes(event: &Event) -> &'static [Subject] {
    match event.name {
        "es_OUT" => &[Message, Presence, Subscription, Iq, ServiceIq, RoomPresence, RoomIq],
        "e_DELIVER" | "e_OFFLINE" => &[Message, Presence, Subscription, Iq],
        "es_IN" => &[Message, Presence, Subscription, Iq, RoomIq],
        "e_SERVER" => &[Message, Presence, Subscription, ServiceIq],
        "e_DISCOFEAT" => &[Iq, ServiceIq, RoomIq],
        "e_PRISESSION" => &[Presence],
        "e_SESSION" => &[Bind],
        "onServicePacket" => &[Message, Presence, Subscription, ServiceIq, RoomPresence, RoomIq],
        "onServiceDiscoInfo" => &[ServiceIq],
        "onPacket" => &[Message, Subscription, RoomPresence, RoomIq],
        "onBeforeRoomCreate" | "onBeforeJoin" => &[RoomPresence],
        "onBeforeChangeUser" | "onHistory" => &[RoomPresence, RoomIq],
        "onClose"
        | "onMetaInfoGet"
        | "onBeforeMetaInfoSet"
        | "onExamineRoom"
        | "onBeforeChangeAffiliation"
        | "onBeforeRemoveAffiliation" => &[RoomIq],
        "onBeforeSubject" | "onBeforeInvite" | "onBeforeSend" | "onBeforeBroadcast" => &[Message],
        _ => &[],
    }
}

/// The kinds of packets that may cause an event, for the page that lists them.
#[cfg(test)]
pub(crate) fn caused_packets(event: &Event) -> Vec<events::Packet> {
    let packets: std::collections::BTreeSet<_> =
        causes(event).iter().map(|subject| packet(*subject)).collect();
    packets.into_iter().collect()
}

/// What the plugin has to ask about on `node` besides messages, and what becomes of each unanswered: refused where a profile refuses what is
/// undecided, or discards what was told (PR-2), else delivered, unless `chosen` says it for all (FH-7).
#[must_use]
pub fn ask_about(compliance: &Compliance, node: &str, chosen: Option<WhenUnanswered>) -> Vec<AskAbout> {
    let besides = Subject::ALL.into_iter().filter(|subject| *subject != Message);
    let asked = besides.filter(|subject| behind(compliance, node, *subject).next().is_some());
    asked
        .map(|subject| {
            let refuses = chosen.map_or_else(
                || is_refused_undecided(compliance, node, subject),
                |chosen| chosen == WhenUnanswered::Refuse,
            );
            AskAbout { subject, unanswered: if refuses { Unanswered::Refuse } else { Unanswered::Deliver } }
        })
        .collect()
}

/// Whether some profile in force on `node` lets no such stanza go on that nobody decided about. One that is told and then discarded goes on in
/// no case (PR-2).
pub(crate) fn is_refused_undecided(compliance: &Compliance, node: &str, subject: Subject) -> bool {
    behind(compliance, node, subject)
        .any(|(event, rule)| rule.handling(event, packet(subject)) == Handling::Bounce)
}

/// Whether a profile is in force on `node` at all.
pub(crate) fn is_anybody_asked(compliance: &Compliance, node: &str) -> bool {
    on(compliance, node).next().is_some()
}

fn on<'a>(compliance: &'a Compliance, node: &'a str) -> impl Iterator<Item = &'a Profile> {
    compliance.profiles.iter().filter(move |profile| profile.is_on(node))
}

/// The rules about events that such a stanza may cause.
fn behind<'a>(
    compliance: &'a Compliance,
    node: &'a str,
    subject: Subject,
) -> impl Iterator<Item = (&'static Event, &'a Rule)> {
    let caused = move || events::ALL.iter().copied().filter(move |event| causes(event).contains(&subject));
    on(compliance, node).flat_map(move |profile| {
        caused().filter_map(move |event| Some((event, profile.rule(event, packet(subject))?)))
    })
}
