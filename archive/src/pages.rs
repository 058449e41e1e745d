//! A whole archive, page by page, in the order of its streams: what `verify` and `export` read.

use crate::endpoint::{Archive, ArchivedRecord, Bind, EndpointError};

/// Records in one page.
const PAGE: u32 = 200;

/// Where the next page begins.
#[derive(Default)]
pub struct Pages {
    after: Option<[Bind; 5]>,
}

impl Pages {
    /// The next records in the order of journal, endpoint, incarnation, sequence, id; `None` after the last.
    pub async fn next(
        &mut self,
        archive: &mut Archive,
    ) -> Result<Option<Vec<ArchivedRecord>>, EndpointError> {
        let order = format!("ORDER BY r.journal, r.endpoint, r.incarnation, r.sequence, r.id LIMIT {PAGE}");
        let (tail, binds) = match &self.after {
            None => (order, Vec::new()),
            Some(key) => (
                format!(
                    "WHERE (r.journal, r.endpoint, r.incarnation, r.sequence, r.id) > ($1, $2, $3, $4, $5) {order}"
                ),
                key.to_vec(),
            ),
        };
        let records = archive.records(&tail, &binds).await?;
        let Some(last) = records.last() else { return Ok(None) };
        let columns = &last.projection;
        self.after = Some([
            Bind::Uuid(columns.uuids[0].unwrap_or_default()),
            Bind::Text(columns.texts[1].clone().unwrap_or_default()),
            Bind::Uuid(columns.uuids[1].unwrap_or_default()),
            Bind::Int(columns.ints[0].unwrap_or_default()),
            Bind::Uuid(last.id),
        ]);
        Ok(Some(records))
    }
}
