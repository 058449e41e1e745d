//! `redactor`: replaces what matches a pattern in what people say: body, subject and the XHTML beside it. The rest of the stanza stays.
//!
//! What is split over several elements of XHTML is not found there, and nothing is found in what a client has encrypted.

use anyhow::Context;
use cartulary_compliance_kit::program::Listening;
use cartulary_compliance_kit::{Admits, Answer, CLIENT, Element, Event};
use clap::Parser;
use regex::{NoExpand, Regex};

const XHTML_IM: &str = "http://jabber.org/protocol/xhtml-im";

/// A compliance server that replaces what matches a pattern in messages
#[derive(Parser)]
#[command(version)]
struct Options {
    #[command(flatten)]
    listening: Listening,
    /// What is replaced: a regular expression (syntax of the Rust crate regex). May be given several times
    #[arg(long, value_name = "REGEX", required = true)]
    pattern: Vec<String>,
    /// What takes its place
    #[arg(long, value_name = "TEXT", default_value = "[redacted]")]
    with: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let redactor = Redactor::new(&options.pattern, options.with)?;
    let policy = move |event: Event| std::future::ready(redactor.decide(event));
    options.listening.run(policy).await
}

struct Redactor {
    patterns: Vec<Regex>,
    with: String,
}

impl Redactor {
    fn new(patterns: &[String], with: String) -> anyhow::Result<Self> {
        let compile = |text: &String| {
            Regex::new(text).with_context(|| format!("--pattern {text:?} is no regular expression"))
        };
        Ok(Self { patterns: patterns.iter().map(compile).collect::<Result<_, _>>()?, with })
    }

    fn decide(&self, event: Event) -> Answer {
        let mut stanza = event.stanza;
        if event.admits != Admits::Any || stanza.name() != "message" {
            return Answer::pass();
        }
        let mut changed = false;
        for child in stanza.children_mut() {
            if child.is("body", CLIENT) || child.is("subject", CLIENT) || child.is("html", XHTML_IM) {
                changed |= self.redact(child);
            }
        }
        if changed { Answer::changed(stanza) } else { Answer::pass() }
    }

    /// Replaces in the element's texts, at any depth. Returns whether something was replaced.
    fn redact(&self, element: &mut Element) -> bool {
        let mut changed = false;
        for text in element.texts_mut() {
            for pattern in &self.patterns {
                if pattern.is_match(text) {
                    *text = pattern.replace_all(text, NoExpand(&self.with)).into_owned();
                    changed = true;
                }
            }
        }
        // How deep a stanza is, is bounded where it is read.
        element.children_mut().fold(changed, |changed, child| self.redact(child) || changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact(xml: &str) -> (bool, String) {
        let redactor = Redactor::new(&["[0-9]{4}".into()], "$1".into()).expect("a pattern");
        let mut element: Element = xml.parse().expect("XML");
        let changed = redactor.redact(&mut element);
        (changed, String::from(&element))
    }

    #[test]
    fn every_text_is_looked_at_and_the_replacement_is_taken_by_the_letter() {
        let (changed, xml) = redact("<html xmlns='h'>1234 and<b>5678<i>12</i></b> 9999</html>");
        assert!(
            changed && xml.contains("$1 and") && xml.contains("<i>12</i>") && !xml.contains("5678"),
            "{xml}"
        );
        assert!(!redact("<body xmlns='b'>12</body>").0);
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        assert!(Redactor::new(&["(".into()], String::new()).is_err());
    }
}
