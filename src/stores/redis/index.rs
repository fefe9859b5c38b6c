//! The index: a sorted set of all members in key order. The script that writes
//! an entry updates it in the same step.

use super::Hub;
use super::failure::{Verdict, unexpected, verdict};
use super::many::{Kind, PAUSE, SLICE};
use super::script::{AGREE, CLEAR, Script};
use crate::kv::{Prefix, Result};
use redis::{Cmd, Pipeline, Value, pipe};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::{Instant, sleep};

/// The position of a walk over the index.
pub struct Cursor {
    /// Bounds in the syntax of ZRANGEBYLEX.
    from: Vec<u8>,
    to: Vec<u8>,
    /// The prefix's own member, which is not in the range of the keys below it.
    own: Option<Vec<u8>>,
    over: bool,
}

impl Cursor {
    pub fn new(hub: &Hub, prefix: &Prefix) -> Self {
        let Some(key) = prefix.key() else {
            return Self {
                from: b"-".into(),
                to: b"+".into(),
                own: None,
                over: false,
            };
        };
        let name = hub.wire.name(key);
        let own = hub.wire.member(&name).to_vec();
        Self {
            from: [b"[", &own[..], b"::"].concat(),
            // `;` is the character after `:`.
            to: [b"(", &own[..], b":;"].concat(),
            own: Some(own),
            over: false,
        }
    }

    pub fn is_over(&self) -> bool {
        self.over
    }
}

impl Hub {
    /// At most `most` of the next names in the index. The cursor says whether
    /// more may follow.
    pub async fn next_names(&self, prefix: &Prefix, cursor: &mut Cursor, most: usize) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        while names.is_empty() && !cursor.over {
            let mut request = pipe();
            if let Some(own) = &cursor.own {
                let bound = [b"[", &own[..]].concat();
                request.add_command(range(&self.wire.index(), &bound, &bound, 1));
            }
            request.add_command(range(&self.wire.index(), &cursor.from, &cursor.to, most));
            let replies = self.ask_index(&request, true).await?;
            cursor.own = None;
            let mut found = 0;
            for reply in replies {
                let Value::Array(members) = reply else {
                    return Err(unexpected(&reply));
                };
                found = members.len();
                for member in members {
                    let Value::BulkString(member) = member else { continue };
                    let name = self.wire.name_of_member(&member);
                    cursor.from = [b"(", &member[..]].concat();
                    if self.key_under(&name, prefix).is_some() {
                        names.push(name);
                    }
                }
            }
            cursor.over = found < most;
        }
        Ok(names)
    }

    /// Removes members whose entries have expired or were deleted by other
    /// programs.
    pub async fn prune(&self, names: &[Vec<u8>]) -> Result<u64> {
        self.run(&AGREE, names).await
    }

    /// Deletes the entries under a prefix that are in the index.
    pub async fn clear_indexed(&self, prefix: &Prefix) -> Result<u64> {
        let mut cursor = Cursor::new(self, prefix);
        let mut count = 0;
        while !cursor.is_over() {
            let names = self.next_names(prefix, &mut cursor, SLICE).await?;
            count += self.run(&CLEAR, &names).await?;
        }
        Ok(count)
    }

    /// Makes the index agree with the stored entries, while other clients may
    /// write. Returns the number of entries; `progress` counts them meanwhile.
    pub async fn reindex(&self, progress: &AtomicU64) -> Result<u64> {
        progress.store(0, Ordering::Relaxed);
        for names in self.scan(&Prefix::ALL, Kind::Entries).await?.chunks(SLICE) {
            let count = self.run(&AGREE, names).await?;
            progress.fetch_add(count, Ordering::Relaxed);
        }
        // Entries that other programs deleted earlier are still in the index.
        let mut cursor = Cursor::new(self, &Prefix::ALL);
        while !cursor.is_over() {
            let names = self.next_names(&Prefix::ALL, &mut cursor, SLICE).await?;
            self.run(&AGREE, &names).await?;
        }
        Ok(progress.load(Ordering::Relaxed))
    }

    /// Sends a request to the server that has the index now.
    async fn ask_index(&self, request: &Pipeline, repeatable: bool) -> Result<Vec<Value>> {
        let patience = Instant::now() + self.settings.command_timeout;
        loop {
            let server = self.only().await?;
            let replies = server.request(request, repeatable).await?;
            let elsewhere = |reply: &Value| match reply {
                Value::ServerError(error) => !matches!(
                    verdict(error, None),
                    Verdict::Final(_) | Verdict::NoScript | Verdict::Demoted(_)
                ),
                _ => false,
            };
            // A request that was refused like this has not been carried out.
            if !replies.iter().any(elsewhere) || Instant::now() >= patience {
                return Ok(replies);
            }
            sleep(PAUSE).await;
            self.topology.refresh().await?;
        }
    }

    /// Runs a script on the index and some entries.
    async fn run(&self, script: &Script, names: &[Vec<u8>]) -> Result<u64> {
        if names.is_empty() {
            return Ok(0);
        }
        let mut reply = Value::Nil;
        for whole in [false, true] {
            let mut call = script.call(whole, names.len() + 1);
            call.arg(self.wire.index());
            call.arg(names);
            for name in names {
                call.arg(self.wire.member(name));
            }
            let mut request = pipe();
            request.add_command(call);
            reply = self.ask_index(&request, false).await?.pop().unwrap_or_default();
            match &reply {
                Value::ServerError(error) if error.code() == "NOSCRIPT" => {}
                _ => break,
            }
        }
        match reply {
            Value::Int(count) => Ok(u64::try_from(count).unwrap_or(0)),
            other => Err(unexpected(&other)),
        }
    }
}

fn range(index: &[u8], from: &[u8], to: &[u8], most: usize) -> Cmd {
    let mut range = redis::cmd("ZRANGEBYLEX");
    range.arg(index).arg(from).arg(to).arg("LIMIT").arg(0).arg(most);
    range
}
