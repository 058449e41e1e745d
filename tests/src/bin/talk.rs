//! `cartulary-talk`: lets real clients talk to each other on a server, and says as JSON what was said and who heard it. The demo
//! compares that with the archive.

use anyhow::{Context, Result, bail};
use cartulary_tests::talk::{Talk, talk};
use cartulary_tests::transcript::{Kind, Transcript};
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Lets users talk: one-to-one, in a room, to somebody who is away, and to somebody a policy keeps them from.
#[derive(Parser)]
struct Args {
    /// Address and port for clients, without TLS. Given several times, each server holds a conversation of its own.
    #[arg(long, required = true)]
    server: Vec<SocketAddr>,
    /// The virtual host.
    #[arg(long)]
    domain: String,
    /// The room service.
    #[arg(long)]
    rooms: String,
    /// A user, as NAME or NAME:PASSWORD; at least three.
    #[arg(long = "user", required = true)]
    users: Vec<String>,
    /// Two more users who may not talk to each other and try to; given twice.
    #[arg(long = "walled", num_args = 1)]
    walled: Vec<String>,
    /// The password of users without one.
    #[arg(long, default_value = "secret")]
    password: String,
    /// Make the accounts first (in-band registration, XEP-0077).
    #[arg(long)]
    register: bool,
    /// How many messages are said on each server.
    #[arg(short = 'n', long, default_value_t = 120)]
    messages: usize,
    /// Milliseconds to wait after each message.
    #[arg(long, default_value_t = 0)]
    pace: u64,
    /// Where the JSON goes; standard output without it.
    #[arg(long)]
    summary: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let user = |given: &String| match given.split_once(':') {
        Some((name, password)) => (name.to_owned(), password.to_owned()),
        None => (given.clone(), args.password.clone()),
    };
    let users: Vec<_> = args.users.iter().map(user).collect();
    let walled = match args.walled.as_slice() {
        [] => None,
        [one, other] => Some([user(one), user(other)]),
        _ => bail!("--walled is given twice or not at all"),
    };
    let mut transcript = Transcript::default();
    for server in &args.server {
        let options = Talk {
            server: *server,
            domain: args.domain.clone(),
            rooms: args.rooms.clone(),
            users: users.clone(),
            walled: walled.clone(),
            register: args.register,
            messages: args.messages,
            pace: Duration::from_millis(args.pace),
        };
        transcript.merge(talk(&options, |line| eprintln!("talk: {line}")).await?);
    }
    let of = |kind| transcript.said.iter().filter(|said| said.kind == kind).count();
    eprintln!(
        "talk: {} said ({} one-to-one, {} in a room, {} while away, {} over a wall), {} delivered, {} refused",
        transcript.said.len(),
        of(Kind::OneToOne),
        of(Kind::Room),
        of(Kind::Offline),
        of(Kind::Walled),
        transcript.delivered().len(),
        transcript.refused.len()
    );
    let json = serde_json::to_string_pretty(&transcript)?;
    match &args.summary {
        Some(path) => {
            std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?
        }
        None => println!("{json}"),
    }
    Ok(())
}
