//! `cartulary search`: recorded messages that fit the terms, the oldest first, printed as they are found.
//!
//! An answer that is not the whole answer says so on standard error, and in the exit code.

use crate::args::{SearchArgs, SearchTerms};
use crate::kubernetes::{End, Remote};
use crate::merge::{self, Merged};
use crate::message::{self, Message};
use crate::output::{self, Format};
use crate::pods::Pods;
use crate::source::Source;
use crate::{Found, archive};
use anyhow::{Context, bail};
use futures::StreamExt;
use futures::stream::BoxStream;
use kube::ResourceExt;
use std::io::Write;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};

/// Runs the command.
pub async fn run(args: SearchArgs) -> anyhow::Result<Found> {
    let (mut sources, mut unread, mut pods) = (Vec::new(), Vec::new(), None);
    match Source::of(&args.source).await? {
        Source::Archives(locations) => {
            for location in &locations {
                let messages = archive::search(location, &args.terms).await?;
                sources.push(merge::Source { name: "the archive".into(), messages });
            }
        }
        Source::Pods(found) => {
            unread.extend_from_slice(&found.unread);
            for (pod, endpoint) in &found.archives {
                let name = format!("pod {}, endpoint {endpoint}", pod.name_any());
                match found.run(pod, endpoint, &remote_arguments(&args.terms), None).await {
                    Ok(remote) => sources.push(merge::Source { name, messages: messages_of(remote) }),
                    Err(error) => unread.push(format!("{name}: {error:#}")),
                }
            }
            pods = Some(found);
        }
    }
    if sources.is_empty() {
        bail!("nothing could be searched: {}", output::printable(&unread.join("; ")));
    }
    let mut merged = Merged::new(sources);
    let count = print(&mut merged, &args).await?;
    if pods.is_none()
        && let Some((_, error)) = merged.failed.pop()
    {
        return Err(error);
    }
    unread.extend(merged.failed.iter().map(|(name, error)| format!("{name}: {error:#}")));
    close(count, &unread, pods.as_deref(), args.output).await;
    Ok(if unread.is_empty() { Found::Fine } else { Found::Wrong })
}

async fn print(merged: &mut Merged, args: &SearchArgs) -> anyhow::Result<u64> {
    let mut out = output::stdout();
    let mut count = 0;
    while args.terms.limit.is_none_or(|limit| count < limit) {
        let Some(message) = merged.next().await else { break };
        count += 1;
        match args.output {
            Format::Json => output::json_line(&mut out, &message)?,
            Format::Text => message::show(&mut out, &message)?,
        }
    }
    out.flush()?;
    Ok(count)
}

// On standard error, so that scripts reading the messages are not disturbed.
async fn close(count: u64, unread: &[String], pods: Option<&Pods>, format: Format) {
    if format == Format::Text {
        let messages = if count == 1 { "message" } else { "messages" };
        eprintln!("{count} {messages}.");
    }
    for part in unread {
        eprintln!("NOT SEARCHED: {}", output::printable(part));
    }
    if let Some(pods) = pods {
        match pods.waiting().await {
            Some(0) => {}
            Some(waiting) => {
                eprintln!("{waiting} records of {} wait and are not in the archive yet.", pods.cluster)
            }
            None => eprintln!("Whether records of {} wait to be archived is not known.", pods.cluster),
        }
    }
}

fn remote_arguments(terms: &SearchTerms) -> Vec<String> {
    let mut arguments = vec!["search".to_owned(), "--output=json".to_owned()];
    let mut add = |name: &str, value: Option<String>| {
        arguments.extend(value.map(|value| format!("--{name}={value}")));
    };
    add("person", terms.person.clone());
    add("with", terms.with.clone());
    add("room", terms.room.clone());
    add("since", terms.since.map(|time| time.to_string()));
    add("until", terms.until.map(|time| time.to_string()));
    add("text", terms.text.clone());
    add("limit", terms.limit.map(|limit| limit.to_string()));
    arguments
}

/// The messages our binary prints in a pod.
fn messages_of(remote: Remote) -> BoxStream<'static, anyhow::Result<Message>> {
    struct Reading {
        lines: Lines<BufReader<Box<dyn tokio::io::AsyncRead + Send + Unpin>>>,
        end: End,
    }
    let (stdout, end) = remote.split();
    let reading = Reading { lines: BufReader::new(stdout).lines(), end };
    futures::stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.lines.next_line().await {
            Ok(Some(line)) => match serde_json::from_str(&line).context("the pod's answer cannot be read") {
                Ok(message) => Some((Ok(message), Some(reading))),
                Err(error) => Some((Err(error), None)),
            },
            Ok(None) => match ended_well(reading.end).await {
                Ok(()) => None,
                Err(error) => Some((Err(error), None)),
            },
            Err(error) => Some((Err(error.into()), None)),
        }
    })
    .boxed()
}

async fn ended_well(end: End) -> anyhow::Result<()> {
    let (code, complaint) = end.wait().await?;
    match code {
        Some(0) => Ok(()),
        Some(code) => bail!("the search there ended with code {code}: {}", complaint.trim()),
        None => bail!("the connection was lost before the search there ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_asked_with_the_same_terms() {
        let terms = SearchTerms {
            person: Some("-a@b".into()),
            since: Some("2026-03-01T00:00:00Z".parse().expect("a time")),
            text: Some("x y; z".into()),
            limit: Some(3),
            ..Default::default()
        };
        assert_eq!(
            remote_arguments(&terms),
            [
                "search",
                "--output=json",
                "--person=-a@b",
                "--since=2026-03-01T00:00:00Z",
                "--text=x y; z",
                "--limit=3"
            ]
        );
    }
}
