//! The index: a sorted set of all members in key order. The script that writes
//! an entry updates it in the same step.

use super::Kv;
use super::failure::unexpected;
use super::scan::{Kind, Scan};
use super::script::{AGREE, CLEAR, Script, TURN};
use super::servers::Call;
use super::slots::slot;
use crate::kv::{Prefix, Result};
use crate::stores::served::{Cursor, Progress, Swept};
use redis::{Cmd, Value, cmd};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The number of entries that one script handles, so that other clients get their turn.
const SLICE: usize = 256;

/// How long the turn of the process that sweeps lasts, unless it goes on.
const SWEEP: Duration = Duration::from_secs(10);

/// The position of a walk over the index.
pub struct Position {
    /// Bounds in the syntax of ZRANGEBYLEX.
    from: Vec<u8>,
    to: Vec<u8>,
    /// The prefix's own member, which is not in the range of the keys below it.
    own: Option<Vec<u8>>,
    over: bool,
}

impl Position {
    pub fn new(kv: &Kv, prefix: &Prefix) -> Self {
        let Some(key) = prefix.key() else {
            return Self {
                from: b"-".into(),
                to: b"+".into(),
                own: None,
                over: false,
            };
        };
        let name = kv.names.name(key);
        let own = kv.names.member(&name).to_vec();
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

    /// At most `most` of the next names in the index. The position is changed only if
    /// there is no error.
    pub async fn next(&mut self, kv: &Kv, prefix: &Prefix, most: usize) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        while names.is_empty() && !self.over {
            let mut calls = Vec::with_capacity(2);
            if let Some(own) = &self.own {
                let bound = [b"[", &own[..]].concat();
                calls.push(kv.on_index(range(&kv.names.index(), &bound, &bound, 1)));
            }
            calls.push(kv.on_index(range(&kv.names.index(), &self.from, &self.to, most)));
            let mut found = 0;
            for reply in kv.servers.insist(&calls, true).await? {
                let members = members(reply)?;
                found = members.len();
                if let Some(last) = members.last() {
                    self.from = [b"(", &last[..]].concat();
                }
                let all = members.iter().map(|member| kv.names.name_of_member(member));
                names.extend(all.filter(|name| kv.names.key_under(name, prefix).is_some()));
            }
            if self.own.take().is_some() && found == 0 {
                self.over = true;
            }
            self.over |= found < most;
        }
        Ok(names)
    }
}

fn members(reply: Value) -> Result<Vec<Vec<u8>>> {
    let Value::Array(members) = reply else {
        return Err(unexpected(&reply));
    };
    let texts = members.into_iter().filter_map(|member| match member {
        Value::BulkString(member) => Some(member),
        _ => None,
    });
    Ok(texts.collect())
}

impl Kv {
    /// A command about the index.
    fn on_index(&self, command: Cmd) -> Call {
        Call {
            slot: slot(&self.names.index()),
            command,
        }
    }

    /// Removes members whose entries have expired or were deleted by other programs.
    pub async fn prune(&self, names: &[Vec<u8>]) -> Result<u64> {
        self.run_script(&AGREE, names, true).await
    }

    /// Deletes the next entries under a prefix that are in the index.
    pub async fn clear_indexed(&self, prefix: &Prefix, position: &mut Position) -> Result<u64> {
        let names = position.next(self, prefix, SLICE).await?;
        self.run_script(&CLEAR, &names, false).await
    }

    /// Makes the index agree with the stored entries, while other clients may write.
    /// Returns the number of entries.
    pub async fn fill_index(&self, progress: &Progress) -> Result<u64> {
        self.reindexed.store(0, Ordering::Relaxed);
        let mut scan = Scan::new(&self.names, &Prefix::ALL, Kind::Entries);
        // A name may be found twice.
        let mut names = Vec::new();
        while let Some(some) = scan.next(self).await? {
            names.extend(some);
            progress.make();
        }
        names.sort_unstable();
        names.dedup();
        for some in names.chunks(SLICE) {
            let count = self.run_script(&AGREE, some, true).await?;
            self.reindexed.fetch_add(count, Ordering::Relaxed);
            progress.make();
        }
        // Entries that other programs deleted earlier are still in the index.
        let mut position = Position::new(self, &Prefix::ALL);
        while !position.is_over() {
            let names = position.next(self, &Prefix::ALL, SLICE).await?;
            self.prune(&names).await?;
            progress.make();
        }
        Ok(self.reindexed.load(Ordering::Relaxed))
    }

    /// Removes the next members whose entries have expired, unless another process is
    /// doing so.
    pub async fn sweep_index(&self, after: Option<&Cursor>) -> Result<Swept> {
        let from = after.map_or_else(|| b"-".to_vec(), |after| [b"(", &after[..]].concat());
        let mut turn = TURN.call(true, 1);
        turn.arg(self.names.turn()).arg(&self.token).arg(millis(SWEEP));
        let calls = [
            self.on_index(turn),
            self.on_index(range(&self.names.index(), &from, b"+", SLICE)),
        ];
        let mut replies = self.servers.insist(&calls, true).await?.into_iter();
        match replies.next() {
            Some(Value::Int(1)) => {}
            Some(Value::Int(_)) => return Ok(Swept::default()),
            other => return Err(unexpected(&other.unwrap_or_default())),
        }
        let members = members(replies.next().unwrap_or_default())?;
        let names: Vec<_> = members.iter().map(|member| self.names.name_of_member(member)).collect();
        let live = self.prune(&names).await?;
        Ok(Swept {
            removed: (names.len() as u64).saturating_sub(live),
            next: members.into_iter().last().filter(|_| names.len() >= SLICE),
        })
    }

    /// Runs a script on the index and some entries.
    async fn run_script(&self, script: &Script, names: &[Vec<u8>], repeatable: bool) -> Result<u64> {
        if names.is_empty() {
            return Ok(0);
        }
        let mut reply = Value::Nil;
        for whole in [false, true] {
            let mut call = script.call(whole, names.len() + 1);
            call.arg(self.names.index()).arg(names);
            for name in names {
                call.arg(self.names.member(name));
            }
            let replies = self.servers.insist(&[self.on_index(call)], repeatable).await?;
            reply = replies.into_iter().next().unwrap_or_default();
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
    let mut range = cmd("ZRANGEBYLEX");
    range.arg(index).arg(from).arg(to).arg("LIMIT").arg(0).arg(most);
    range
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
