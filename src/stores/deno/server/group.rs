//! Groups: their operations are divided into requests, which run side by side. The
//! gets of a request are one read. Sets and deletes are written blindly, as many as
//! fit. A `cas` is a read and a write that fails if its entry has changed meanwhile.

use super::super::batch::{Change, Condition, encode_value, expiry};
use super::super::key;
use super::super::row::{Row, reply};
use super::protocol::{MOST_BYTES, MOST_CHANGES, MOST_CHECKS, MOST_RANGES};
use super::{DenoServer, conflict};
use crate::kv::{Error, JsonText, Millis, Outcome, Reply, Result, Write, now};
use crate::stores::served::{Action, Group, Lost, Operation};
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};

/// An operation with its key and value as they are stored.
struct Encoded<'a> {
    index: usize,
    operation: &'a Operation,
    key: Vec<u8>,
    /// What it writes, if anything.
    value: Option<Vec<u8>>,
}

type Answer = Result<Outcome, Lost>;
type Answers = Vec<(usize, Answer)>;

impl DenoServer {
    /// Returns an answer for each operation.
    pub async fn answer(&self, group: &Group) -> Vec<Answer> {
        let mut answers = Answers::new();
        let (mut gets, mut puts, mut swaps) = (Vec::new(), Vec::new(), Vec::new());
        for (index, operation) in group.operations.iter().enumerate() {
            let list = match &operation.action {
                Action::Get => &mut gets,
                Action::Put(_) => &mut puts,
                Action::Cas(..) => &mut swaps,
            };
            match Encoded::new(index, operation) {
                Ok(encoded) => list.push(encoded),
                Err(error) => answers.push((index, Ok(Err(error)))),
            }
        }
        let gets = gets.chunks(MOST_RANGES).map(|part| self.get(group, part).boxed());
        let puts = Parts(&puts).map(|part| self.put(group, part).boxed());
        let swaps = swaps
            .chunks(MOST_CHECKS)
            .map(|part| self.swap(group, part.iter().collect()));
        let parts = join_all(gets.chain(puts).chain(swaps)).await;
        answers.extend(parts.into_iter().flatten());
        answers.sort_unstable_by_key(|(index, _)| *index);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    async fn get(&self, group: &Group, gets: &[Encoded<'_>]) -> Answers {
        let read = async {
            let session = self.session(group.deadline).await?;
            session.rows(gets.iter().map(|get| &*get.key)).await
        };
        match read.await {
            Ok(rows) => {
                let answer = |(get, row): (&Encoded<'_>, Option<Row>)| {
                    let outcome = reply(get.operation.key.clone(), row.as_ref());
                    (get.index, Ok(outcome))
                };
                gets.iter().zip(rows).map(answer).collect()
            }
            Err(lost) => all(gets, &Err(lost)),
        }
    }

    async fn put(&self, group: &Group, puts: &[Encoded<'_>]) -> Answers {
        let write = async {
            let session = self.session(group.deadline).await?;
            let now = now();
            // The others were rejected meanwhile.
            let wanted = puts.iter().filter(|put| !put.operation.is_withdrawn());
            let changes = wanted.map(|put| put.change(now, Condition::Anything));
            group.send();
            session.write(changes).await
        };
        match write.await {
            Ok(_) => all(puts, &Ok(Ok(Reply::Done))),
            Err(lost) => all(puts, &Err(lost)),
        }
    }

    fn swap<'a>(&'a self, group: &'a Group, swaps: Vec<&'a Encoded<'a>>) -> BoxFuture<'a, Answers> {
        Box::pin(async move {
            let read = async {
                let session = self.session(group.deadline).await?;
                let rows = session.rows(swaps.iter().map(|swap| &*swap.key)).await?;
                Ok((session, rows))
            };
            let (session, rows) = match read.await {
                Ok(read) => read,
                Err(lost) => return all(swaps, &Err(lost)),
            };
            let mut answers = Answers::new();
            let (mut matching, mut changes) = (Vec::new(), Vec::new());
            let now = now();
            for (swap, row) in swaps.into_iter().zip(rows) {
                match swap.matches(row.as_ref()) {
                    Ok(true) if !swap.operation.is_withdrawn() => {
                        let condition = row.map_or(Condition::NoEntry, |row| Condition::Version(row.stamp));
                        changes.push(swap.change(now, condition));
                        matching.push(swap);
                    }
                    outcome => answers.push((swap.index, Ok(outcome.map(Reply::Swapped)))),
                }
            }
            if matching.is_empty() {
                return answers;
            }
            group.send();
            let written = session.write(changes).await;
            drop(session);
            answers.extend(match written {
                Ok(true) => all(matching, &Ok(Ok(Reply::Swapped(true)))),
                // One entry that keeps changing must not hold up the others.
                Ok(false) if matching.len() > 1 => {
                    let second = matching.split_off(matching.len() / 2);
                    let halves = [self.swap(group, matching), self.swap(group, second)];
                    join_all(halves).await.concat()
                }
                Ok(false) => all(matching, &Err(conflict())),
                Err(lost) => all(matching, &Err(lost)),
            });
            answers
        })
    }
}

impl<'a> Encoded<'a> {
    /// # Errors
    ///
    /// [`Error::KeyTooLong`] and [`Error::ValueTooLarge`]
    fn new(index: usize, operation: &'a Operation) -> Result<Self> {
        let value = match &operation.action {
            Action::Put(Write::Store { value, .. }) | Action::Cas(_, Write::Store { value, .. }) => {
                Some(encode_value(value)?)
            }
            _ => None,
        };
        Ok(Self {
            index,
            operation,
            key: key::encode(&operation.key)?,
            value,
        })
    }

    /// Whether it is a `cas` that finds what it expects.
    fn matches(&self, row: Option<&Row>) -> Result<bool> {
        let Action::Cas(expected, _) = &self.operation.action else {
            return Err(Error::Backend("internal error: not a cas".into()));
        };
        let key = &self.operation.key;
        let stored = row.map(|row| row.value.text(key)).transpose()?.flatten();
        match (stored, expected) {
            (None, None) => Ok(true),
            (Some(stored), Some(expected)) => JsonText::means(expected, &stored, key),
            _ => Ok(false),
        }
    }

    fn change(&self, now: Millis, condition: Condition) -> Change<'_> {
        let write = match &self.operation.action {
            Action::Put(write) | Action::Cas(_, write) => Some(write),
            Action::Get => None,
        };
        Change {
            key: &self.key,
            value: self.value.as_deref(),
            expires: write.and_then(|write| expiry(write, now)),
            condition,
        }
    }
}

/// The same answer for all.
fn all<'a>(some: impl IntoIterator<Item = impl std::borrow::Borrow<Encoded<'a>>>, answer: &Answer) -> Answers {
    let each = some.into_iter().map(|one| (one.borrow().index, answer.clone()));
    each.collect()
}

/// Parts that fit into a write each.
struct Parts<'a>(&'a [Encoded<'a>]);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [Encoded<'a>];

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = 0;
        let mut part = self.0.iter().take(MOST_CHANGES);
        let count = part.position(|put| {
            bytes += put.key.len() + put.value.as_ref().map_or(0, Vec::len);
            bytes > MOST_BYTES
        });
        let count = count.unwrap_or(self.0.len().min(MOST_CHANGES));
        // One that is too large on its own is a part of its own.
        let (part, rest) = self.0.split_at_checked(count.max(1))?;
        self.0 = rest;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KeyBuilder;

    #[test]
    fn parts_fit_into_a_write() {
        let mut key = KeyBuilder::default();
        key.push("k");
        let operation = Operation::new(key.key().unwrap(), Action::Get);
        let put = |bytes| Encoded {
            index: 0,
            operation: &operation,
            key: Vec::new(),
            value: Some(vec![0; bytes]),
        };
        let counts = |sizes: &[usize]| {
            let puts: Vec<_> = sizes.iter().map(|size| put(*size)).collect();
            Parts(&puts).map(<[_]>::len).collect::<Vec<_>>()
        };
        assert_eq!(counts(&[]), [0; 0]);
        assert_eq!(counts(&vec![1; 2_500]), [1_000, 1_000, 500]);
        assert_eq!(counts(&[65_536; 25]), [10, 10, 5]);
        assert_eq!(counts(&[1, 800_000, 1]), [1, 1, 1]);
    }
}
