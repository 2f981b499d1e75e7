//! Developer commands: `cargo xtask help`.

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Ambit's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {}

fn main() -> Result<()> {
    match Arguments::parse().command {}
}
