//! From Profiles to what a sidecar is told, the order in which they are asked, and what they leave to be desired. Pure.

use crate::conditions::Problem;
use crate::reasons as reason;
use cartulary_compliance::events::{self, Answers, Packet, Yield};
use cartulary_compliance::profile::{self, Rule, SYSTEM_DEFAULT, SYSTEM_DEFAULT_RESOURCE};
use cartulary_crds::{EventName, Handling, PacketType, Profile, ProfileEvent, ProfileSpec};
use k8s_openapi::jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Profiles of a namespace by the name of their object.
pub type Profiles = BTreeMap<String, Arc<Profile>>;

/// The profile that a reference means: the name of its object, and the object; `None` for the system default, whose events are known
/// without.
pub fn find<'a>(
    profiles: &'a Profiles,
    reference: &'a str,
) -> Result<(&'a str, Option<&'a Profile>), Problem> {
    if reference == SYSTEM_DEFAULT || reference == SYSTEM_DEFAULT_RESOURCE {
        return Ok((SYSTEM_DEFAULT_RESOURCE, None));
    }
    if let Some((name, profile)) = profiles.get_key_value(reference) {
        return Ok((name, Some(profile)));
    }
    let mut named =
        profiles.iter().filter(|(_, profile)| profile.spec.display_name.as_deref() == Some(reference));
    match (named.next(), named.next()) {
        (Some((name, profile)), None) => Ok((name, Some(profile))),
        (None, _) => Err(Problem::new(
            reason::PROFILE_MISSING,
            format!(
                "there is no Profile {reference} in this namespace, by name or displayName: create it, or name another one"
            ),
        )),
        (Some((one, _)), Some((other, _))) => Err(Problem::new(
            reason::PROFILE_AMBIGUOUS,
            format!(
                "the Profiles {one} and {other} both have the displayName {reference}: change one, or refer to the name of the object"
            ),
        )),
    }
}

/// The name compliance servers see.
#[must_use]
pub fn shown_name(name: &str, profile: Option<&Profile>) -> String {
    match profile {
        None => SYSTEM_DEFAULT.to_owned(),
        Some(profile) => profile.spec.display_name.clone().unwrap_or_else(|| name.to_owned()),
    }
}

/// By this, profiles are asked one after another (PR-6): those with a priority before those without, the higher number first; then in the
/// order of creation, by name where that is the same second. The system default, where nobody has made its object yet, is the last.
#[must_use]
pub fn order(name: &str, object: Option<&Profile>) -> impl Ord + use<> {
    let priority = object.and_then(|profile| profile.spec.priority);
    let created = object.and_then(|profile| profile.metadata.creation_timestamp.as_ref()).map(|time| time.0);
    (Reverse(priority), created.unwrap_or(Timestamp::MAX), name.to_owned())
}

/// Its rules as sidecars know them.
#[must_use]
pub fn rules(profile: Option<&Profile>) -> Vec<Rule> {
    let Some(profile) = profile else { return profile::system_default() };
    profile.spec.events.iter().map(rule).collect()
}

fn rule(event: &ProfileEvent) -> Rule {
    let packet = |of: &PacketType| match of {
        PacketType::All => None,
        PacketType::Iq => Some(Packet::Iq),
        PacketType::Message => Some(Packet::Message),
        PacketType::Presence => Some(Packet::Presence),
        PacketType::Subscription => Some(Packet::Subscription),
    };
    let all = event.packet_types.contains(&PacketType::All);
    let packets = event.packet_types.iter().filter(|_| !all).filter_map(packet).collect();
    let handling = match event.handling {
        Some(Handling::Bounce) => Some(events::Handling::Bounce),
        Some(Handling::Pass) => Some(events::Handling::Pass),
        // What nobody waits for is discarded only where somebody says so.
        None if event.fire_and_forget => Some(events::Handling::Pass),
        None => None,
    };
    Rule { event: event.event.name(), packets, handling, fire_and_forget: event.fire_and_forget }
}

/// The system default profile as an object (PR-4).
#[must_use]
pub fn system_default() -> ProfileSpec {
    let packet = |packet: &Packet| match packet {
        Packet::Iq => PacketType::Iq,
        Packet::Message => PacketType::Message,
        Packet::Presence => PacketType::Presence,
        Packet::Subscription => PacketType::Subscription,
    };
    let event = |rule: Rule| {
        Some(ProfileEvent {
            event: EventName::by_name(&rule.event)?,
            packet_types: rule.packets.iter().map(packet).collect(),
            handling: None,
            fire_and_forget: rule.fire_and_forget,
        })
    };
    ProfileSpec {
        display_name: Some(SYSTEM_DEFAULT.to_owned()),
        description: Some(
            "Kept by the operator: it can be assigned, and neither changed nor deleted.".to_owned(),
        ),
        priority: None,
        events: profile::system_default().into_iter().filter_map(event).collect(),
    }
}

/// What is allowed and perhaps not meant, of one profile (PR-2, PR-10).
#[must_use]
pub fn warnings(rules: &[Rule]) -> Vec<Problem> {
    let known = || rules.iter().filter_map(|rule| Some((rule, events::by_name(&rule.event)?)));
    let bounces = |rule: &Rule| rule.handling == Some(events::Handling::Bounce);
    let mut warnings = Vec::new();
    let names = |of: &dyn Fn(&Rule, &events::Event) -> bool| -> Vec<&str> {
        known().filter(|(rule, event)| of(rule, event)).map(|(_, event)| event.name).collect()
    };
    let discarded = names(&|rule, event| {
        bounces(rule) && rule.fire_and_forget && event.prosody == Yield::Held && event.answers == Answers::Any
    });
    if !discarded.is_empty() {
        let message = format!(
            "bounce with fireAndForget discards {} after sending: it is not processed further",
            discarded.join(", ")
        );
        warnings.push(Problem::new(reason::DISCARDS, message));
    }
    let told = names(&|rule, event| {
        let awaited = event.answers == Answers::Any && !rule.fire_and_forget;
        matches!(event.prosody, Yield::Told(_)) && (bounces(rule) || awaited)
    });
    if !told.is_empty() {
        let message = format!(
            "Prosody only tells of {}: answers change nothing there, see docs/events.md",
            told.join(", ")
        );
        warnings.push(Problem::new(reason::TOLD_ONLY, message));
    }
    warnings
}
