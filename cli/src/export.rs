//! `cartulary export`: a copy of an archive in one SQLite file, to be kept as evidence or verified on another machine.
//!
//! It copies what stands there, altered or not; proving is `verify`'s.

use crate::args::ExportArgs;
use crate::source::Location;
use crate::{Found, archive, password};
use std::io::{IsTerminal, Write};

/// Runs the command.
pub async fn run(args: ExportArgs) -> anyhow::Result<Found> {
    let location = Location::parse(&args.archive, |prompt| password::of(&args.password, prompt))?;
    let mut archive = archive::open(&location).await?;
    let is_watched = std::io::stderr().is_terminal();
    let copied = cartulary_archive::export::export(&mut archive, &args.to, |copied| {
        if is_watched {
            eprint!("\r{copied} records copied");
            let _ = std::io::stderr().flush();
        }
    })
    .await?;
    if is_watched {
        eprintln!();
    }
    println!("{copied} records of {} are in {}.", archive.place(), args.to.display());
    println!("To prove it elsewhere: cartulary verify --archive sqlite:FILE --anchors anchors.json");
    Ok(Found::Fine)
}
