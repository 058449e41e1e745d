//! `cartulary-bench`: what recording and compliance servers cost, in one run on one machine. `make bench` builds it and what it
//! measures optimised.
//!
//! Figures are medians over the rounds, with the least and the greatest. Ratios are what counts; absolute figures are the machine's.

use anyhow::Result;
use cartulary_tests::bench::{Load, compliance, recording};
use clap::{Parser, ValueEnum};

/// Measures what recording and compliance servers cost.
#[derive(Parser)]
struct Args {
    /// What is measured; everything where none is named.
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// Pairs of users who talk.
    #[arg(long, default_value_t = 20)]
    pairs: usize,
    /// Messages each pair has under way at once.
    #[arg(long, default_value_t = 10)]
    in_flight: usize,
    /// Seconds of each round.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds of each kind.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Messages whose latency is taken in each round.
    #[arg(long, default_value_t = 1000)]
    latencies: usize,
    /// Records for the drain.
    #[arg(long, default_value_t = 20_000)]
    drain: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Recording, against a bare server and one with its own archive; the drain.
    Recording,
    /// Compliance servers: what one and a chain of three add, and how soon another one takes over.
    Compliance,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let load = Load {
        pairs: args.pairs,
        in_flight: args.in_flight,
        seconds: args.seconds,
        rounds: args.rounds,
        latencies: args.latencies,
    };
    let wanted = |section| args.sections.is_empty() || args.sections.contains(&section);
    if wanted(Section::Recording) {
        recording::measure(&load, args.drain).await?;
    }
    if wanted(Section::Compliance) {
        compliance::measure(&load).await?;
    }
    Ok(())
}
