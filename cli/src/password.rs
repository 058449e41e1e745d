//! Where a database password comes from: a file, the environment or the terminal, never the command line, which every user of a machine
//! can read in the list of processes.

use crate::args::PasswordArgs;
use anyhow::{Context, bail};
use std::io::IsTerminal;

/// The password to use, or `None` when nobody gave one and nobody can be asked: the database may trust the connection itself.
pub fn of(args: &PasswordArgs, prompt: &str) -> anyhow::Result<Option<String>> {
    if let Some(file) = &args.password_file {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the password file {}", file.display()))?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            bail!("the password file {} is empty", file.display());
        }
        return Ok(Some(password.to_owned()));
    }
    if let Ok(password) = std::env::var("PGPASSWORD") {
        return Ok(Some(password));
    }
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let password = rpassword::prompt_password(prompt).context("cannot ask for the password")?;
    Ok((!password.is_empty()).then_some(password))
}
