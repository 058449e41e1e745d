//! Printing: text for people, JSON for scripts, and a quiet end when nobody reads any more.

use serde::Serialize;
use std::io::{self, Write};

/// How the answer is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Format {
    /// For people; its form may change.
    Text,
    /// For scripts; fields are added, never renamed.
    Json,
}

/// Buffered standard output.
pub fn stdout() -> io::BufWriter<io::Stdout> {
    io::BufWriter::new(io::stdout())
}

/// One JSON value on a line of its own.
pub fn json_line(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    Ok(out.write_all(b"\n")?)
}

/// Whether the reader of our output went away.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// `text` as it is safe on a terminal: what a sender wrote must not move the cursor or recolour the screen. Line ends and tabs become spaces;
/// control characters and marks that turn the direction of writing are shown by their code.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => clean.push(' '),
            c if c.is_control() || is_bidi_control(c) => clean.push_str(&format!("<U+{:04X}>", u32::from(c))),
            c => clean.push(c),
        }
    }
    clean
}

// Left alone they would turn the rest of the line around, in an auditor's terminal too.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Rows with columns as wide as their widest cell, two spaces apart, nothing after the last.
pub fn table(out: &mut impl Write, indent: &str, rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        writeln!(out, "{indent}{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sender_wrote_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\nd\u{7}"), "a<U+001B>[2Jb<U+202E>c d<U+0007>");
        assert_eq!(printable("héllo 😀 שלום"), "héllo 😀 שלום");
    }

    #[test]
    fn a_table_pads_by_characters_and_leaves_no_space_at_line_ends() {
        let rows = [vec!["é".into(), "x".into()], vec!["long".into()]];
        let mut out = Vec::new();
        table(&mut out, " ", &rows).expect("memory");
        assert_eq!(String::from_utf8(out).expect("text"), " é     x\n long\n");
    }
}
