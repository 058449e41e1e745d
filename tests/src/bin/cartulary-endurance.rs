//! `cartulary-endurance`, run by `make endurance`: people talk while everything fails, for as long as is asked. The last line holds
//! the totals.

use anyhow::Result;
use cartulary_tests::kubernetes::endurance::{Until, run};
use clap::Parser;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Kills, deletes and freezes every part of a recorded chat service while people talk, and compares the archive with what they know.
#[derive(Parser)]
struct Args {
    /// Draws schedule and talk; another number for each run without it.
    #[arg(long, env = "CARTULARY_SEED")]
    seed: Option<u64>,
    /// How long it goes on.
    #[arg(long, env = "CARTULARY_ENDURANCE_SECONDS", default_value_t = 3600)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let drawn = u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos());
    let seed = args.seed.unwrap_or(drawn);
    let name = format!("endurance-{}", std::process::id());
    let until = Until::Elapsed(Duration::from_secs(args.seconds));
    let totals = run(&name, seed, until, |line| eprintln!("{line}")).await?;
    println!("{totals}");
    Ok(())
}
