//! stub
use crate::{args::SearchTerms, message::Message, source::Location};
use futures::stream::BoxStream;
pub async fn search(_: &Location, _: &SearchTerms) -> anyhow::Result<BoxStream<'static, anyhow::Result<Message>>> { anyhow::bail!("not yet") }
