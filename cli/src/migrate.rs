//! `cartulary migrate`: makes or updates the tables of a PostgreSQL archive and gives its other roles their rights.
//!
//! An explicit step, run as the owner by a person or a Job. Sidecars never do it: a role that may change tables is not one that
//! should sit in every pod. Running it again changes nothing, and makes the partitions of the months that have come nearer.

use crate::args::MigrateArgs;
use crate::source::Location;
use crate::{Found, archive, password};
use anyhow::bail;
use cartulary_archive::endpoint::{Roles, migrate};

/// Runs the command.
pub async fn run(args: MigrateArgs) -> anyhow::Result<Found> {
    let location = Location::parse(&args.archive, |prompt| password::of(&args.password, prompt))?;
    let Location::PostgreSql(database) = &location else {
        bail!("only a PostgreSQL archive is migrated: a sidecar makes its own SQLite file");
    };
    for role in [Some(&args.writer), args.reader.as_ref()].into_iter().flatten() {
        if *role == database.username {
            bail!(
                "'{role}' is the owner of the tables and must not be the writer or reader too: make a role of its own"
            );
        }
    }
    if args.reader.as_ref() == Some(&args.writer) {
        bail!("writer and reader must be two roles: whoever writes should not read back what others said");
    }
    let target = archive::target(&location);
    let roles = Roles { writer: Some(args.writer.clone()), reader: args.reader.clone() };
    let done = migrate(&target, &roles).await?;
    let place = target.place();
    match (done.from, done.to) {
        (0, to) => println!("{place}: made the tables, schema version {to}"),
        (from, to) if from == to => println!("{place}: the tables have schema version {to} already"),
        (from, to) => println!("{place}: updated the tables from schema version {from} to {to}"),
    }
    println!("partitions made ahead: {}", done.partitions);
    println!("{} may add records and cannot read them", args.writer);
    if let Some(reader) = &args.reader {
        println!("{reader} may read");
    }
    Ok(Found::Fine)
}
