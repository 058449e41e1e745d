//! What an archive holds to be counted: sums by the database, tallies and gap records one by one. Memory grows with days, nodes and
//! server processes, never with messages.

use super::{Archived, Counted, DAY_MICROS, Days, LastTally, ToldGap};
use crate::endpoint::{Archive, Bind, Connection, EndpointError, classified};
use crate::record::{Body, Content, Header};
use cartulary_compliance::link::Ingress;
use sqlx::{AssertSqlSafe, Row};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use uuid::Uuid;

/// Records in one page.
const PAGE: u32 = 500;

/// Counts what `archive` holds of these days.
pub async fn read(archive: &mut Archive, days: Days) -> Result<Counted, EndpointError> {
    archive.freeze().await?;
    let mut counted = Counted::default();
    let place = archive.place().to_owned();
    let archived = archived(&mut archive.connection, days).await;
    counted.archived = archived.map_err(|error| classified(&place, &error))?;
    let journals = journals(&mut archive.connection).await;
    counted.journals = journals.map_err(|error| classified(&place, &error))?;
    told(archive, days, &mut counted).await?;
    archive.thaw().await?;
    Ok(counted)
}

async fn archived(connection: &mut Connection, days: Days) -> Result<Vec<Archived>, sqlx::Error> {
    let (from, until) =
        (days.first.saturating_mul(DAY_MICROS), (days.last.saturating_add(1)).saturating_mul(DAY_MICROS));
    let made = Ingress::Internal.word();
    let sql = |day: &str, time: fn(&str) -> String| {
        format!(
            "SELECT coalesce(cluster, ''), coalesce(node, ''), {day}, CASE WHEN ingress = '{made}' THEN 1 ELSE 0 END, \
             CAST(count(*) AS bigint) FROM record WHERE kind = 'accepted' AND seen_at >= {} AND seen_at < {} \
             GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
            time("$1"),
            time("$2"),
        )
    };
    macro_rules! rows {
        ($connection:expr, $sql:expr) => {{
            let sql = AssertSqlSafe($sql);
            let rows = sqlx::query(sql).bind(from).bind(until).fetch_all($connection).await?;
            rows.iter()
                .map(|row| {
                    Ok(Archived {
                        cluster: row.try_get(0)?,
                        node: row.try_get(1)?,
                        day: row.try_get(2)?,
                        is_server_made: row.try_get::<i32, _>(3)? != 0,
                        count: row.try_get::<i64, _>(4)?.unsigned_abs(),
                    })
                })
                .collect()
        }};
    }
    match connection {
        Connection::Postgres(connection) => {
            let day = "CAST(floor(extract(epoch FROM seen_at) / 86400) AS bigint)";
            let time =
                |value: &str| format!("'epoch'::timestamptz + {value}::bigint * interval '1 microsecond'");
            rows!(connection, sql(day, time))
        }
        Connection::Sqlite(connection) => {
            rows!(connection, sql(&format!("seen_at / {DAY_MICROS}"), |value| value.to_owned()))
        }
    }
}

async fn journals(connection: &mut Connection) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    let sql = "SELECT DISTINCT journal, endpoint FROM record WHERE journal IS NOT NULL ORDER BY 1, 2";
    macro_rules! rows {
        ($connection:expr) => {{
            let rows = sqlx::query(sql).fetch_all($connection).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        }};
    }
    match connection {
        Connection::Postgres(connection) => rows!(connection),
        Connection::Sqlite(connection) => rows!(connection),
    }
}

/// Reads tallies and gap records, by their headers: the columns do not say it all.
async fn told(archive: &mut Archive, days: Days, counted: &mut Counted) -> Result<(), EndpointError> {
    let mut last: BTreeMap<(String, String, i64, String), LastTally> = BTreeMap::new();
    let mut after = Uuid::nil();
    loop {
        let tail = format!("WHERE r.kind IN ('tally', 'gap') AND r.id > $1 ORDER BY r.id LIMIT {PAGE}");
        let records = archive.records(&tail, &[Bind::Uuid(after)]).await?;
        let Some(end) = records.last() else { break };
        after = end.id;
        // One that cannot be read is told by `verify`.
        for header in records.iter().filter_map(|record| Header::decode(&record.header).ok()) {
            let Header { cluster, node, recorded_at_nanos: at_nanos, content, .. } = header;
            match content {
                Content::Body(Body::Tally(tally)) => {
                    let day = i64::from(tally.day);
                    if !(days.first..=days.last).contains(&day) {
                        continue;
                    }
                    let key = (cluster.clone(), node.clone(), day, tally.instance.clone());
                    let (instance, sums, is_final) = (tally.instance, tally.sums, tally.is_final);
                    let tally = LastTally { cluster, node, day, instance, sums, is_final, at_nanos };
                    match last.entry(key) {
                        Entry::Vacant(entry) => _ = entry.insert(tally),
                        Entry::Occupied(mut entry) if tally.is_later_than(entry.get()) => {
                            _ = entry.insert(tally)
                        }
                        Entry::Occupied(_) => {}
                    }
                }
                Content::Body(Body::Gap(gap)) => {
                    let day = at_nanos.div_euclid(1000).div_euclid(DAY_MICROS);
                    if (days.first..=days.last).contains(&day) {
                        let (count, is_records) = (gap.count, gap.first.is_some());
                        let reason = gap.reason.word().to_owned();
                        counted.gaps.push(ToldGap { cluster, node, at_nanos, count, is_records, reason });
                    }
                }
                _ => {}
            }
        }
    }
    counted.tallies = last.into_values().collect();
    Ok(())
}

impl LastTally {
    /// Whether it is to count and the other one is not.
    pub(super) fn is_later_than(&self, other: &Self) -> bool {
        (self.at_nanos, self.is_final, self.sums.said) > (other.at_nanos, other.is_final, other.sums.said)
    }
}
