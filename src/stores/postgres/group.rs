//! The statements of a group: one for all gets, one for all sets, one for all
//! deletes, and one for each `cas`, all sent on one connection without waiting in
//! between (except where statements must run one by one).

use super::Postgres;
use super::connection::{Connection, Connector};
use super::failure::blame_key;
use super::sql::Statements;
use super::table::Wait;
use super::wire::{TextArray, array_text, check_key, is_storable};
use crate::kv::{Error, JsonText, Key, Outcome, Reply, Ttl, Write};
use crate::stores::served::{Action, Attempt, Engine, Fault, Limits, Operation, Pool, PooledEngine};
use futures::future::join_all;
use std::sync::Arc;

/// Values with so many bytes together take long to compare.
const LARGE: usize = 64 * 1024;

impl PooledEngine for Postgres {
    type Connect = Connector;

    fn pool(&self) -> &Arc<Pool<Connector>> {
        &self.pool
    }

    fn refuse(&self, Operation { key, action, .. }: &Operation) -> Option<Outcome> {
        if let Err(error) = check_key(key) {
            return Some(Err(error));
        }
        if let Action::Put(Write::Store { value, .. }) | Action::Cas(_, Write::Store { value, .. }) = action
            && !is_storable(value)
        {
            let words = format!("PostgreSQL's jsonb can't store the NUL or lone surrogate in the value of {key}");
            return Some(Err(Error::InvalidValue(words)));
        }
        match action {
            // No stored value can equal it.
            Action::Cas(Some(expected), _) if !is_storable(expected) => Some(Ok(Reply::Swapped(false))),
            _ => None,
        }
    }

    async fn check(&self, limits: Limits) -> Result<(), Fault> {
        self.table.check(limits).await
    }

    async fn renew(&self, missing: bool, limits: Limits) -> Result<bool, Fault> {
        self.table.forget();
        if !missing {
            self.table.check(limits).await?;
        } else if self.settings.initialized {
            return Ok(false);
        } else {
            self.table.create(limits, Wait::Until(limits.late)).await?;
        }
        Ok(true)
    }

    async fn attempt(&self, connection: &Connection, group: &[&Operation]) -> Vec<Attempt> {
        let mut attempts = vec![Ok(Reply::Done); group.len()];
        let (mut gets, mut sets, mut deletes, mut swaps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, operation) in group.iter().enumerate() {
            let key = &operation.key;
            match &operation.action {
                Action::Get => gets.push((index, key)),
                Action::Put(Write::Store { value, ttl }) => sets.push((index, key, value, *ttl)),
                Action::Put(Write::Delete) => deletes.push((index, key)),
                Action::Cas(expected, write) => swaps.push((index, key, expected.as_ref(), write)),
            }
        }
        let relaxed = group.first().is_some_and(|operation| self.is_relaxed(&operation.key));
        let sql = if relaxed { &self.relaxed_sql } else { &self.sql };
        // All take locks in one order, which prevents deadlocks.
        sets.sort_unstable_by_key(|(_, key, ..)| key.as_json());
        deletes.sort_unstable_by_key(|(_, key)| key.as_json());
        let (values, put, gone, swapped) = futures::join!(
            self.get(connection, &gets),
            set(connection, sql, &sets),
            delete(connection, sql, &deletes),
            self.swap(connection, sql, &swaps),
        );
        match values {
            Ok(values) => {
                for ((index, key), value) in gets.into_iter().zip(values) {
                    attempts[index] = Ok(Reply::Value(key.clone(), value));
                }
            }
            Err(fault) => fail(&mut attempts, gets.iter().map(|(index, _)| *index), &fault),
        }
        if let Err(fault) = put {
            fail(&mut attempts, sets.iter().map(|(index, ..)| *index), &fault);
        }
        if let Err(fault) = gone {
            fail(&mut attempts, deletes.iter().map(|(index, _)| *index), &fault);
        }
        for ((index, ..), swapped) in swaps.iter().zip(swapped) {
            attempts[*index] = swapped.map(Reply::Swapped);
        }
        attempts
    }
}

impl Postgres {
    async fn get(&self, connection: &Connection, gets: &[(usize, &Key)]) -> Result<Vec<Option<JsonText>>, Fault> {
        let rows = match gets {
            [] => return Ok(Vec::new()),
            [(_, key)] => {
                let rows = connection.rows(&self.sql.get, &[&TextArray::of(key)]).await;
                let rows = rows.map_err(blame_key)?;
                return Ok(vec![rows.first().map(text).transpose()?.flatten()]);
            }
            _ => {
                let keys: Vec<String> = gets.iter().map(|(_, key)| array_text(key)).collect();
                connection.rows(&self.sql.get_many, &[&keys]).await?
            }
        };
        rows.iter().map(text).collect()
    }

    /// Each is a statement of its own. All are sent before the first answer.
    async fn swap(
        &self,
        connection: &Connection,
        sql: &Statements,
        swaps: &[(usize, &Key, Option<&JsonText>, &Write)],
    ) -> Vec<Result<bool, Fault>> {
        // Prepared once here, rather than by each of them at the same time.
        for (_, _, expected, write) in swaps {
            let statement = match (expected, write) {
                (None, Write::Store { .. }) => &sql.insert,
                (None, Write::Delete) => &sql.get,
                (Some(_), Write::Store { .. }) => &sql.swap,
                (Some(_), Write::Delete) => &sql.swap_delete,
            };
            if let Err(fault) = connection.prepare(statement).await {
                return vec![Err(fault); swaps.len()];
            }
        }
        let swapped = swaps.iter().map(async |(_, key, expected, write)| {
            let array = TextArray::of(key);
            let swapped = self.swap_one(connection, sql, key, &array, *expected, write).await;
            blame(connection, sql, &array, swapped).await
        });
        join_all(swapped).await
    }

    async fn swap_one(
        &self,
        connection: &Connection,
        sql: &Statements,
        key: &Key,
        array: &TextArray,
        expected: Option<&JsonText>,
        write: &Write,
    ) -> Result<bool, Fault> {
        let Some(expected) = expected else {
            return Ok(match write {
                Write::Delete => connection.rows(&sql.get, &[array]).await?.is_empty(),
                Write::Store { value, ttl } => {
                    let (value, ttl) = (value.as_str(), ttl.map(millis));
                    connection.count(&sql.insert, &[array, &value, &ttl]).await? > 0
                }
            });
        };
        if swap_text(connection, sql, array, expected.as_str(), write).await? {
            return Ok(true);
        }
        // jsonb compares numbers exactly, JavaScript as doubles:
        // 9007199254740993 equals 9007199254740992 there.
        if !expected.as_str().bytes().any(|byte| byte.is_ascii_digit()) {
            return Ok(false);
        }
        let rows = connection.rows(&sql.get, &[array]).await?;
        let Some(stored) = rows.first().map(text).transpose()?.flatten() else {
            return Ok(false);
        };
        match self.means(expected, &stored, key).await {
            Ok(true) => swap_text(connection, sql, array, stored.as_str(), write).await,
            Ok(false) => Ok(false),
            Err(error) => Err(Fault::Final(error)),
        }
    }

    /// Whether two values are equal. Large ones are compared where that does not
    /// hold up others.
    async fn means(&self, expected: &JsonText, stored: &JsonText, key: &Key) -> crate::kv::Result<bool> {
        if expected.as_str().len() + stored.as_str().len() < LARGE {
            return expected.means(stored.as_str(), key);
        }
        let (expected, stored, key) = (expected.clone(), stored.clone(), key.clone());
        let compare = async move { expected.means(stored.as_str(), &key) };
        self.bulk.run(compare).await?
    }
}

async fn swap_text(
    connection: &Connection,
    sql: &Statements,
    key: &TextArray,
    expected: &str,
    write: &Write,
) -> Result<bool, Fault> {
    let swapped = match write {
        Write::Delete => connection.count(&sql.swap_delete, &[key, &expected]).await?,
        Write::Store { value, ttl } => {
            let (value, ttl) = (value.as_str(), ttl.map(millis));
            connection.count(&sql.swap, &[key, &expected, &value, &ttl]).await?
        }
    };
    Ok(swapped > 0)
}

async fn set(
    connection: &Connection,
    sql: &Statements,
    sets: &[(usize, &Key, &JsonText, Option<Ttl>)],
) -> Result<(), Fault> {
    match sets {
        [] => {}
        [(_, key, value, ttl)] => {
            let parameters = (TextArray::of(key), value.as_str(), ttl.map(millis));
            let (key, value, ttl) = &parameters;
            let set = connection.count(&sql.set, &[key, value, ttl]).await;
            blame(connection, sql, key, set).await?;
        }
        _ => {
            let keys: Vec<String> = sets.iter().map(|(_, key, ..)| array_text(key)).collect();
            let values: Vec<&str> = sets.iter().map(|(_, _, value, _)| value.as_str()).collect();
            let ttls: Vec<Option<i64>> = sets.iter().map(|(.., ttl)| ttl.map(millis)).collect();
            connection.count(&sql.set_many, &[&keys, &values, &ttls]).await?;
        }
    }
    Ok(())
}

async fn delete(connection: &Connection, sql: &Statements, deletes: &[(usize, &Key)]) -> Result<(), Fault> {
    match deletes {
        [] => {}
        [(_, key)] => {
            let count = connection.count(&sql.delete, &[&TextArray::of(key)]).await;
            count.map_err(blame_key)?;
        }
        _ => {
            let keys: Vec<String> = deletes.iter().map(|(_, key)| array_text(key)).collect();
            connection.count(&sql.delete_many, &[&keys]).await?;
        }
    }
    Ok(())
}

/// If the server can't take a text, asks about the key alone.
async fn blame<T>(
    connection: &Connection,
    sql: &Statements,
    key: &TextArray,
    result: Result<T, Fault>,
) -> Result<T, Fault> {
    if !matches!(result, Err(Fault::Divide(Error::InvalidValue(_)))) {
        return result;
    }
    match connection.rows(&sql.get, &[key]).await {
        Err(fault @ Fault::Divide(Error::InvalidValue(_))) => Err(blame_key(fault)),
        _ => result,
    }
}

fn fail(attempts: &mut [Attempt], indices: impl Iterator<Item = usize>, fault: &Fault) {
    for index in indices {
        attempts[index] = Err(fault.clone());
    }
}

fn text(row: &tokio_postgres::Row) -> Result<Option<JsonText>, Fault> {
    row.try_get::<_, Option<String>>(0)
        .map(|value| value.map(JsonText::new))
        .map_err(|error| Fault::Final(Error::Backend(error.to_string())))
}

fn millis(ttl: Ttl) -> i64 {
    ttl.deadline(0)
}
