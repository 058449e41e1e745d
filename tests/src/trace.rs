//! What a process asked of the kernel, and in which order, as strace wrote it down.
//!
//! A line's place in the trace is the order of entering (or leaving) system calls as the tracer saw it, over all threads: a call
//! whose end stands above another's begin had returned before that other one could start.

use anyhow::{Context, Result};
use std::collections::HashMap;
use std::path::Path;

/// What P1 depends on: everything that makes names, writes bytes, or makes either durable.
const CALLS: &str = "openat,renameat,renameat2,rename,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,\
    fsync,fdatasync,sync_file_range,io_uring_enter,mmap";

/// One system call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Its arguments as strace prints them.
    pub arguments: String,
    /// What it returned; negative for an error.
    pub result: i64,
    /// The line at which it was entered.
    pub begin: usize,
    /// The line at which it had returned.
    pub end: usize,
}

/// The words that make a command run under strace, its trace going to `file`.
#[must_use]
pub fn tracer(file: &Path) -> Vec<String> {
    let file = file.display().to_string();
    let trace = format!("trace={CALLS}");
    // The tracer's end must end what it traces, which would otherwise run on.
    [
        "strace",
        "-f",
        "-yy",
        "-x",
        "-s",
        "65536",
        "-e",
        "signal=none",
        "-e",
        &trace,
        "-o",
        &file,
        "setpriv",
        "--pdeathsig",
        "KILL",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Reads a trace.
pub fn read(file: &Path) -> Result<Vec<Call>> {
    let text = String::from_utf8_lossy(&std::fs::read(file)?).into_owned();
    let mut calls = Vec::new();
    let mut unfinished = HashMap::<&str, (usize, String)>::new();
    for (number, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (number, begun.to_owned()));
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some((begin, begun)) = unfinished.remove(thread) else { continue };
            let (_, tail) = resumed.split_once("resumed>").context("a resumed call")?;
            calls.extend(call(&format!("{begun}{tail}"), begin, number));
        } else {
            calls.extend(call(rest, number, number));
        }
    }
    Ok(calls)
}

// `name(arguments) = result ...`; `None` for lines that are no call.
fn call(text: &str, begin: usize, end: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest
        .rsplit_once(") = ")
        .or_else(|| rest.rsplit_once(')').map(|(a, r)| (a, r.trim_start_matches([' ', '=']))))?;
    let digits = result.trim_start();
    let digits = &digits[..digits.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(digits.len())];
    Some(Call {
        name: name.to_owned(),
        arguments: arguments.to_owned(),
        result: digits.parse().ok()?,
        begin,
        end,
    })
}

impl Call {
    /// What the first argument, a file descriptor, stands for: a path, or a socket with its addresses.
    #[must_use]
    pub fn file(&self) -> &str {
        let Some(start) = self.arguments.find('<') else { return "" };
        let rest = &self.arguments[start + 1..];
        // A socket's description holds an arrow of its own.
        let end =
            rest.find(">,").or_else(|| rest.trim_end().strip_suffix('>').map(str::len)).unwrap_or(rest.len());
        &rest[..end]
    }

    /// The bytes that were written: those of all buffers, as many as were taken.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let skip = self.file().len();
        let start = self.arguments.find('<').map_or(0, |at| at + 1 + skip);
        let mut out = Vec::new();
        let mut rest = &self.arguments[start..];
        while let Some(open) = rest.find('"') {
            rest = unquote(&rest[open + 1..], &mut out);
        }
        out.truncate(usize::try_from(self.result).unwrap_or(0));
        out
    }
}

// Appends what stands before the closing quotation mark to `out`; returns what follows it.
fn unquote<'a>(text: &'a str, out: &mut Vec<u8>) -> &'a str {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match (byte, bytes.get(at)) {
            (b'"', _) => break,
            (b'\\', Some(b'x')) => {
                out.push(
                    text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(0),
                );
                at += 3;
            }
            (b'\\', Some(&escaped)) => {
                out.push(match escaped {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'v' => 11,
                    b'f' => 12,
                    other => other,
                });
                at += 1;
            }
            _ => out.push(byte),
        }
    }
    &text[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_their_order_and_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("trace");
        let text = concat!(
            "10  pwrite64(7</j/00.seg>, \"\\x00\\x01a\"..., 3, 0) = 3\n",
            "11  fdatasync(7</j/00.seg>  <unfinished ...>\n",
            "10  write(9<UNIX-STREAM:[1->2,\"/l.sock\"]>, \"ab\\n\", 3) = 2\n",
            "11  <... fdatasync resumed>)         = 0\n",
            "11  writev(9<UNIX-STREAM:[1->2,\"/l.sock\"]>, [{iov_base=\"\\x01\", iov_len=1}, {iov_base=\"\\x02\", iov_len=1}], 2) = 2\n",
        );
        std::fs::write(&file, text).expect("written");
        let calls = read(&file).expect("read");
        let [write, answer, sync, two] = calls.as_slice() else { panic!("{calls:?}") };
        assert_eq!((write.file(), write.bytes().as_slice()), ("/j/00.seg", &b"\0\x01a"[..]));
        assert_eq!(
            (answer.file(), answer.bytes().as_slice()),
            ("UNIX-STREAM:[1->2,\"/l.sock\"]", &b"ab"[..])
        );
        assert_eq!((sync.file(), sync.begin, sync.end, sync.result), ("/j/00.seg", 1, 3, 0));
        assert_eq!(two.bytes(), [1, 2]);
    }
}
