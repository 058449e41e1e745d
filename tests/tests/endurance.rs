//! The short form of `make endurance`: the same, with one fault of each kind.
//!
//! `CARTULARY_SEED=N` repeats schedule and talk of a run; the number is printed.

use anyhow::{Context, Result};
use cartulary_tests::kubernetes::endurance::schedule::DECK;
use cartulary_tests::kubernetes::endurance::{Until, run};
use std::time::{SystemTime, UNIX_EPOCH};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_though_each_part_fails_under_traffic() -> Result<()> {
    let seed = match std::env::var("CARTULARY_SEED") {
        Ok(given) => given.parse().context("CARTULARY_SEED is a number")?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into(),
    };
    let name = format!("endure-{}", std::process::id());
    let totals = run(&name, seed, Until::Faults(DECK), |line| println!("{line}")).await?;
    println!("{totals}");
    Ok(())
}
