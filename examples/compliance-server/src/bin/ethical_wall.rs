//! `ethical-wall`: people on two sides of a wall may not talk to each other. One to one they are refused; in a room, what one says goes
//! to everybody but those behind the wall.
//!
//! It holds back what is sent while it is asked. What a room keeps as its history is not asked about again for each one who joins:
//! where that matters, rooms must not keep any, or both sides must not be let into one.

use anyhow::{Context, bail};
use cartulary_compliance_kit::program::Listening;
use cartulary_compliance_kit::{Admits, Answer, Event, Instead};
use clap::Parser;
use jid::Jid;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A compliance server that keeps groups of people from talking to each other
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    listening: Listening,
    /// A group: NAME=JID,JID,…; a JID without @ is everybody of that domain. May be given several times
    #[arg(long, value_name = "NAME=JID,…")]
    group: Vec<String>,
    /// Two groups that may not talk to each other: NAME:NAME. May be given several times
    #[arg(long, value_name = "NAME:NAME")]
    wall: Vec<String>,
    /// The same from a file of JSON: {"groups": {"a": ["ann@chat.example"], …}, "walls": [["a", "b"], …]}
    #[arg(long, value_name = "FILE")]
    walls: Option<PathBuf>,
    /// What the refused are told
    #[arg(long, value_name = "TEXT", default_value = "You may not talk to each other.")]
    text: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let plan = Plan::read(&options)?;
    let walls = Walls::build(&plan)?;
    let text = options.text;
    let policy = move |event: Event| std::future::ready(decide(&walls, &text, &event));
    options.listening.run(policy).await
}

/// Groups and walls as they are declared.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Plan {
    groups: BTreeMap<String, Vec<String>>,
    walls: Vec<(String, String)>,
}

impl Plan {
    fn read(options: &Options) -> anyhow::Result<Self> {
        let mut plan = match &options.walls {
            None => Self::default(),
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                serde_json::from_str(&text)
                    .with_context(|| format!("{} does not declare walls", file.display()))?
            }
        };
        for group in &options.group {
            let (name, members) = group
                .split_once('=')
                .with_context(|| format!("--group {group:?} is not of the form NAME=JID,JID"))?;
            plan.groups
                .entry(name.into())
                .or_default()
                .extend(members.split(',').map(|member| member.trim().to_owned()));
        }
        for wall in &options.wall {
            let (one, other) = wall
                .split_once(':')
                .with_context(|| format!("--wall {wall:?} is not of the form NAME:NAME"))?;
            plan.walls.push((one.into(), other.into()));
        }
        Ok(plan)
    }
}

/// Who may not talk to whom: bare JIDs or domains, each with those behind a wall.
#[derive(Default)]
struct Walls(BTreeMap<String, BTreeSet<String>>);

impl Walls {
    fn build(plan: &Plan) -> anyhow::Result<Self> {
        if plan.walls.is_empty() {
            bail!("there is no wall: give --wall or --walls");
        }
        let members = |name: &String| -> anyhow::Result<Vec<String>> {
            let group = plan
                .groups
                .get(name)
                .with_context(|| format!("a wall names the group {name}, which is none"))?;
            group
                .iter()
                .map(|jid| normal(jid).with_context(|| format!("group {name}: {jid:?} is no JID")))
                .collect()
        };
        let mut walls = Self::default();
        for (one, other) in &plan.walls {
            let (one, other) = (members(one)?, members(other)?);
            for a in &one {
                for b in &other {
                    walls.0.entry(a.clone()).or_default().insert(b.clone());
                    walls.0.entry(b.clone()).or_default().insert(a.clone());
                }
            }
        }
        Ok(walls)
    }

    /// Whether a wall stands between two JIDs.
    fn between(&self, one: &str, other: &str) -> bool {
        let (Some(one), Some(other)) = (normal(one), normal(other)) else { return false };
        // Nobody is walled off from themselves, whatever groups they are in.
        let (mine, theirs) = (identities(&one), identities(&other));
        one != other
            && mine.iter().any(|me| {
                self.0.get(*me).is_some_and(|behind| theirs.iter().any(|they| behind.contains(*they)))
            })
    }
}

/// A bare JID and its domain: either may be a member of a group.
fn identities(bare: &str) -> Vec<&str> {
    let domain = bare.split_once('@').map(|(_, domain)| domain);
    std::iter::once(bare).chain(domain).collect()
}

/// Bare and normalised; `None` for what is no JID.
fn normal(jid: &str) -> Option<String> {
    Some(jid.parse::<Jid>().ok()?.to_bare().to_string())
}

fn decide(walls: &Walls, text: &str, event: &Event) -> Answer {
    if event.admits != Admits::Any {
        return Answer::pass();
    }
    let from = event.from();
    let refused = || Answer::refuse("policy-violation", text);
    let behind = || event.recipients.iter().filter(|recipient| walls.between(from, &recipient.jid));
    match event.name.as_str() {
        "es_OUT" | "e_DELIVER" | "es_IN" | "e_OFFLINE" | "onPacket" | "onBeforeBroadcast" => {}
        _ => return Answer::pass(),
    }
    if event.room.is_some() {
        let to_everybody = event.stanza.attr("type") == Some("groupchat");
        let to_occupant = event.stanza.attr("to").is_some_and(|to| to.contains('/'));
        return match event.name.as_str() {
            // Only these two may name exceptions, and only for messages.
            "es_IN" | "onBeforeBroadcast" if to_everybody && event.packet == "message" => Answer::Pass {
                changed: None,
                except: behind().map(|recipient| (recipient.jid.clone(), Instead::Withhold)).collect(),
            },
            // A private message, or a question to somebody's client. Presence goes on, so that rooms work.
            _ if !to_everybody && to_occupant && ["message", "iq"].contains(&event.packet.as_str()) => {
                if behind().next().is_some() {
                    refused()
                } else {
                    Answer::pass()
                }
            }
            _ => Answer::pass(),
        };
    }
    // Presence to all subscribers has no addressee; what has one is for that one.
    match event.stanza.attr("to") {
        Some(to) if walls.between(from, to) => refused(),
        _ => Answer::pass(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walls() -> Walls {
        let plan = r#"{"groups": {"a": ["Ann@chat.example"], "b": ["bob@chat.example", "research.example"]}, "walls": [["a", "b"]]}"#;
        Walls::build(&serde_json::from_str(plan).expect("a plan")).expect("walls")
    }

    #[test]
    fn a_wall_stands_in_both_directions_however_a_name_is_spelled() {
        let walls = walls();
        assert!(walls.between("ann@chat.example/pc", "BOB@chat.example"));
        assert!(walls.between("bob@chat.example/x", "ann@chat.example"));
        assert!(walls.between("ann@chat.example", "anybody@research.example/x"));
        assert!(!walls.between("ann@chat.example", "cleo@chat.example"));
        assert!(!walls.between("bob@chat.example", "x@research.example"), "one group");
        assert!(!walls.between("", "bob@chat.example"));
    }

    #[test]
    fn a_wall_without_its_group_is_refused() {
        for plan in [r#"{"groups": {"a": []}, "walls": [["a", "b"]]}"#, r#"{"groups": {}, "walls": []}"#] {
            assert!(Walls::build(&serde_json::from_str(plan).expect("a plan")).is_err(), "{plan}");
        }
    }
}
