//! P1 on the real binary: no answer that lets a message go leaves before the sync that covers its record has returned.
//!
//! kill -9 cannot show this, since it keeps the page cache. Here the kernel is asked: the sidecar runs under strace, and for each
//! verdict written to the link the trace must hold, in this order, a write of its record to a file of the journal, a sync of that
//! file that began after the write and returned, and then the write to the socket.

use anyhow::{Context, Result, ensure};
use cartulary_compliance::link::{Action, Frame};
use cartulary_tests::prosody::ROOMS;
use cartulary_tests::trace::{Call, read, tracer};
use cartulary_tests::transcript::{Kind, Transcript};
use cartulary_tests::world::World;
use std::collections::HashMap;

#[tokio::test]
async fn p1_no_message_is_let_go_before_its_record_is_synced() -> Result<()> {
    let dir = cartulary_tests::process::folder()?;
    let file = dir.path().join("trace");
    let mut world = World::builder().under(tracer(&file)).start().await?;
    let clients =
        [world.client("anna/desk").await?, world.client("ben/desk").await?, world.client("cleo/desk").await?];
    let room = format!("lobby@{ROOMS}");
    for (client, nick) in clients.iter().zip(["a", "b", "c"]) {
        client.join(&room, nick).await?;
    }
    let mut transcript = Transcript::default();
    for n in 0..60 {
        // Three at a time, so that syncs are shared and answers and syncs of different messages overlap.
        for (from, to) in clients.iter().zip(clients.iter().skip(1).chain(&clients[..1])) {
            let (kind, to) =
                if n % 4 == 0 { (Kind::Room, room.as_str()) } else { (Kind::OneToOne, to.bare()) };
            transcript.say(from, kind, to, &format!("message {n}")).await?;
        }
    }
    for _ in 0..2 {
        for client in &clients {
            client.settle().await?;
        }
    }
    for client in &clients {
        transcript.hear(client);
    }
    assert_eq!(transcript.delivered().len(), 180);
    world.sidecar.stop().await?;

    let calls = read(&file)?;
    ensure!(
        !calls.iter().any(|call| call.name == "io_uring_enter"),
        "writes by io_uring cannot be seen in this trace"
    );
    let verdicts = delivering_verdicts(&calls)?;
    assert_eq!(verdicts.len(), 180, "a verdict for each message");
    for (event, answered) in verdicts {
        covered(&calls, &event, answered)?;
    }
    Ok(())
}

// Event ids of all verdicts that deliver, each with the line at which the write of its first byte began.
fn delivering_verdicts(calls: &[Call]) -> Result<Vec<([u8; 16], usize)>> {
    let mut streams = HashMap::<&str, Vec<(u8, usize)>>::new();
    let to_link = |call: &&Call| {
        call.file().contains("link.sock")
            && matches!(call.name.as_str(), "write" | "writev" | "sendto" | "sendmsg")
    };
    for call in calls.iter().filter(to_link) {
        streams
            .entry(call.file())
            .or_default()
            .extend(call.bytes().into_iter().map(|byte| (byte, call.begin)));
    }
    let mut verdicts = Vec::new();
    for stream in streams.values() {
        let bytes: Vec<u8> = stream.iter().map(|(byte, _)| *byte).collect();
        let mut at = 0;
        while let Some(raw) = Frame::cut(&bytes[at..])? {
            if let Some(Frame::Verdict(_, verdict)) = Frame::decode_payload(raw)?
                && matches!(verdict.action, Action::Deliver | Action::Replace(_))
            {
                verdicts
                    .push((verdict.event_id.context("a message was let go without a record")?, stream[at].1));
            }
            at += raw.taken;
        }
    }
    Ok(verdicts)
}

fn covered(calls: &[Call], event: &[u8; 16], answered: usize) -> Result<()> {
    let holds = |call: &&Call| {
        call.file().contains("/journal/")
            && call.name.starts_with("pwrite")
            && call.bytes().windows(16).any(|bytes| bytes == event)
    };
    let write =
        calls.iter().find(holds).with_context(|| format!("no write to the journal holds {event:02x?}"))?;
    let synced = |file: &str, after: usize| {
        calls.iter().any(|call| {
            matches!(call.name.as_str(), "fsync" | "fdatasync")
                && call.file() == file
                && call.result == 0
                && call.begin > after
                && call.end < answered
        })
    };
    ensure!(
        synced(write.file(), write.end),
        "the answer for {event:02x?} left (line {answered}) before any sync of {} that began after its record was written (line {}):\n{}",
        write.file(),
        write.end,
        between(calls, write.begin, answered)
    );
    // The file's name has to be durable too, or nothing in it is.
    let folder = write.file().rsplit_once('/').map_or("", |(folder, _)| folder);
    let made = calls.iter().find(|call| {
        call.name == "openat" && call.arguments.contains("O_CREAT") && call.arguments.contains(write.file())
    });
    let made = made.with_context(|| format!("nobody made {}", write.file()))?;
    ensure!(
        synced(folder, made.end),
        "{folder} was not synced between the making of {} and line {answered}",
        write.file()
    );
    Ok(())
}

// What happened meanwhile, for whoever looks for the fault.
fn between(calls: &[Call], from: usize, to: usize) -> String {
    let line = |call: &Call| {
        format!("{} to {}: {} of {} = {}", call.begin, call.end, call.name, call.file(), call.result)
    };
    calls.iter().filter(|call| call.end >= from && call.begin <= to).map(line).collect::<Vec<_>>().join("\n")
}
