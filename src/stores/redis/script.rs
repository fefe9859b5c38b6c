//! The scripts that do in one step what must not come apart.

use redis::{Cmd, cmd};
use std::sync::LazyLock;

/// A script, and the name that the server knows it by.
pub struct Script {
    text: &'static str,
    hash: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let hash = redis::Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }

    /// A call by name, or with the text for a server that has lost it.
    pub fn call(&self, whole: bool, keys: usize) -> Cmd {
        let mut call = if whole { cmd("EVAL") } else { cmd("EVALSHA") };
        call.arg(if whole { self.text } else { &self.hash }).arg(keys);
        call
    }
}

/// Writes an entry if its condition holds, and its member of the index where
/// there is one. 1 when written; 0 when the entry is there against expectation
/// or missing; otherwise the bytes stored, which are not those expected.
///
/// Keys: the entry, maybe the index. Arguments: the member; "any", "none" or
/// "this"; the bytes expected of "this"; and to store anything, the value and
/// maybe its ttl in milliseconds.
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

/// Deletes entries and their members of the index; how many there were.
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

/// Makes the index agree with which of these entries exist, whatever was
/// thought before; how many do. Keys and arguments are those of [`CLEAR`].
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
