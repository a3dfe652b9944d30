//! The statements: what each order does within its transaction.

use super::error::StoreError;
use super::record::{Record, Webhook};
use super::{Hook, Inserted, Retention};
use crate::core::job::JobState;
use rusqlite::{Connection, OptionalExtension, Row, params};

type Done<T> = Result<T, StoreError>;

fn failed(what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| StoreError::sqlite(what, &error)
}

fn text(record: &Record) -> Done<String> {
    serde_json::to_string(record).map_err(|error| StoreError::Failed {
        what: "write a job down".to_owned(),
        why: error.to_string(),
    })
}

fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let text: String = row.get(0)?;
    serde_json::from_str(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// SQLite's integers have a sign.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn insert(connection: &Connection, record: &Record, workflow: &str) -> Done<Inserted> {
    let what = failed("insert a job");
    if let Some(key) = &record.key {
        let known = connection
            .prepare_cached("SELECT record FROM jobs WHERE key = ?1")
            .and_then(|mut statement| statement.query_row([key], read).optional())
            .map_err(&what)?;
        if let Some(known) = known {
            return Ok(Inserted::Known(Box::new(known)));
        }
    }
    connection
        .prepare_cached("INSERT INTO workflows (job, text) VALUES (?1, ?2)")
        .and_then(|mut statement| statement.execute(params![record.id, workflow]))
        .map_err(&what)?;
    put(connection, record, None)?;
    Ok(Inserted::New)
}

/// Late news of a settled job change nothing.
pub(super) fn put(
    connection: &Connection,
    record: &Record,
    hook: Option<&(Webhook, String)>,
) -> Done<()> {
    let what = failed("write a job");
    connection
        .prepare_cached(
            "INSERT INTO jobs (id, key, state, created_ms, ended_ms, bytes, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             ON CONFLICT (id) DO UPDATE SET state = ?3, ended_ms = ?5, bytes = ?6, record = ?7 WHERE ended_ms IS NULL",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                record.id,
                record.key,
                record.state().as_str(),
                int(record.created_ms),
                record.ended_ms.map(int),
                int(record.bytes()),
                text(record).unwrap_or_default(),
            ])
        })
        .map_err(&what)?;
    if let Some((webhook, body)) = hook {
        connection
            .prepare_cached(
                "INSERT OR IGNORE INTO hooks (job, due_ms, tries, url, secret, body) VALUES (?1, 0, 0, ?2, ?3, ?4)",
            )
            .and_then(|mut statement| {
                statement.execute(params![record.id, webhook.url, webhook.secret, body])
            })
            .map_err(&what)?;
    }
    Ok(())
}

pub(super) fn workflow(connection: &Connection, id: &str) -> Done<Option<String>> {
    connection
        .prepare_cached("SELECT text FROM workflows WHERE job = ?1")
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0)).optional())
        .map_err(failed("read a workflow"))
}

pub(super) fn get(connection: &Connection, id: &str) -> Done<Option<Record>> {
    connection
        .prepare_cached("SELECT record FROM jobs WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id], read).optional())
        .map_err(failed("read a job"))
}

pub(super) fn list(
    connection: &Connection,
    states: &[JobState],
    before_ms: u64,
    limit: u32,
) -> Done<Vec<Record>> {
    // The words are ours, never a caller's.
    let words: Vec<String> = states
        .iter()
        .map(|state| format!("'{}'", state.as_str()))
        .collect();
    let of = if words.is_empty() {
        String::new()
    } else {
        format!("AND state IN ({})", words.join(","))
    };
    let sql = format!(
        "SELECT record FROM jobs WHERE created_ms < ?1 {of} ORDER BY created_ms DESC, id LIMIT ?2"
    );
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            statement
                .query_map(params![int(before_ms), limit], read)?
                .collect()
        })
        .map_err(failed("list jobs"))
}

pub(super) fn unsettled(connection: &Connection) -> Done<Vec<Record>> {
    connection
        .prepare("SELECT record FROM jobs WHERE ended_ms IS NULL ORDER BY created_ms, rowid")
        .and_then(|mut statement| statement.query_map([], read)?.collect())
        .map_err(failed("list the jobs that are not settled"))
}

pub(super) fn hooks(
    connection: &Connection,
    by_ms: u64,
    limit: u32,
) -> Done<(Vec<Hook>, Option<u64>)> {
    let what = failed("read webhooks");
    let hook = |row: &Row<'_>| {
        Ok(Hook {
            job: row.get(0)?,
            tries: row.get(1)?,
            webhook: Webhook {
                url: row.get(2)?,
                secret: row.get(3)?,
            },
            body: row.get(4)?,
        })
    };
    let due = connection
        .prepare_cached("SELECT job, tries, url, secret, body FROM hooks WHERE due_ms <= ?1 ORDER BY due_ms LIMIT ?2")
        .and_then(|mut statement| statement.query_map(params![int(by_ms), limit], hook)?.collect())
        .map_err(&what)?;
    let next: Option<i64> = connection
        .prepare_cached("SELECT min(due_ms) FROM hooks WHERE due_ms > ?1")
        .and_then(|mut statement| statement.query_row([int(by_ms)], |row| row.get(0)))
        .map_err(&what)?;
    Ok((due, next.and_then(|next| u64::try_from(next).ok())))
}

pub(super) fn hook_tried(connection: &Connection, job: &str, again_ms: Option<u64>) -> Done<()> {
    let tried = match again_ms {
        Some(at) => connection.execute(
            "UPDATE hooks SET tries = tries + 1, due_ms = ?2 WHERE job = ?1",
            params![job, int(at)],
        ),
        None => connection.execute("DELETE FROM hooks WHERE job = ?1", [job]),
    };
    tried.map(drop).map_err(failed("write a webhook"))
}

/// At most this many are forgotten at once, so that the store has time for others.
const AT_ONCE: u32 = 500;

pub(super) fn prune(connection: &Connection, retention: Retention) -> Done<Vec<String>> {
    let what = failed("forget old jobs");
    let sql = "SELECT id FROM (SELECT id, ended_ms, row_number() OVER newest AS place, sum(bytes) OVER newest AS total FROM jobs \
               WHERE ended_ms IS NOT NULL WINDOW newest AS (ORDER BY ended_ms DESC, id)) \
               WHERE ended_ms < ?1 OR total > ?2 OR place > ?3 LIMIT ?4";
    let bounds = params![
        int(retention.ended_after_ms),
        int(retention.bytes),
        int(retention.jobs),
        AT_ONCE
    ];
    let gone: Vec<String> = connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map(bounds, |row| row.get(0))?.collect())
        .map_err(&what)?;
    for id in &gone {
        for table in ["jobs WHERE id", "workflows WHERE job", "hooks WHERE job"] {
            connection
                .prepare_cached(&format!("DELETE FROM {table} = ?1"))
                .and_then(|mut statement| statement.execute([id]))
                .map_err(&what)?;
        }
    }
    Ok(gone)
}
