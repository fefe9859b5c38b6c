//! The scripts: several commands that take effect in one step.

use redis::{Cmd, cmd};
use std::sync::LazyLock;

/// A script, and its hash, by which the server knows it.
pub struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let hash = redis::Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }

    /// A call by hash, or with the text for a server that doesn't have it.
    pub fn call(&self, whole: bool, keys: usize) -> Cmd {
        let mut call = if whole { cmd("EVAL") } else { cmd("EVALSHA") };
        call.arg(if whole { self.text } else { &self.hash }).arg(keys);
        call
    }
}

/// Writes an entry if its condition holds, and its member of the index if there
/// is one. Returns 1 if it has written; 0 if there is an entry and none was
/// expected, or the other way round; otherwise the stored bytes, which are not
/// the expected ones.
///
/// Keys: the entry, and the index if there is one. Arguments: the member;
/// "any", "none" or "this"; the bytes that "this" expects; then, to store an
/// entry, the value and an optional ttl in milliseconds.
pub static WRITE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"
if ARGV[2] ~= "any" then
  local stored = redis.call("GET", KEYS[1])
  if ARGV[2] == "none" then
    if stored then return 0 end
  elseif not stored then
    return 0
  elseif stored ~= ARGV[3] then
    return stored
  end
end
if not ARGV[4] then
  redis.call("DEL", KEYS[1])
  if KEYS[2] then redis.call("ZREM", KEYS[2], ARGV[1]) end
  return 1
end
if ARGV[5] then
  redis.call("SET", KEYS[1], ARGV[4], "PX", ARGV[5])
else
  redis.call("SET", KEYS[1], ARGV[4])
end
if KEYS[2] then redis.call("ZADD", KEYS[2], 0, ARGV[1]) end
return 1
"#,
    )
});

/// Deletes entries and their members of the index, and returns how many entries
/// existed.
///
/// Keys: the index, then the entries. Arguments: their members.
pub static CLEAR: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"
local count = 0
for i, member in ipairs(ARGV) do
  count = count + redis.call("UNLINK", KEYS[i + 1])
  redis.call("ZREM", KEYS[1], member)
end
return count
"#,
    )
});

/// Makes the index agree with which of these entries exist, and returns how
/// many do. Keys and arguments are those of [`CLEAR`].
pub static AGREE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"
local count = 0
for i, member in ipairs(ARGV) do
  if redis.call("EXISTS", KEYS[i + 1]) == 1 then
    redis.call("ZADD", KEYS[1], 0, member)
    count = count + 1
  else
    redis.call("ZREM", KEYS[1], member)
  end
end
return count
"#,
    )
});

/// Takes or keeps a turn at what one process at a time is to do. Returns 1 if this one
/// has it.
///
/// Key: whose turn it is. Arguments: who asks, and how long the turn lasts in
/// milliseconds.
pub static TURN: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r#"
local holder = redis.call("GET", KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1
"#,
    )
});
