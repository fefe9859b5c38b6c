//! The protocol: commands are written one after another into one buffer, and
//! replies are read in place.
//!
//! The redis crate can do both, but needs three allocations and three copies
//! for a command, and takes several times as long for a reply. It still makes
//! all but the most frequent commands, logs in, and parses errors.

use bytes::Bytes;
use redis::{Cmd, Pipeline, Value, parse_redis_value};

/// No reply to our commands is as deep.
const DEEPEST: usize = 8;

/// Commands that are sent together.
#[derive(Default)]
pub struct Request {
    bytes: Vec<u8>,
    commands: usize,
}

impl Request {
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            commands: 0,
        }
    }

    /// Begins a command. This many arguments have to follow.
    pub fn command(&mut self, name: &str, arguments: usize) -> &mut Self {
        self.commands += 1;
        self.number(b'*', arguments + 1);
        self.argument(name.as_bytes())
    }

    pub fn argument(&mut self, argument: &[u8]) -> &mut Self {
        self.number(b'$', argument.len());
        self.bytes.extend_from_slice(argument);
        self.bytes.extend_from_slice(b"\r\n");
        self
    }

    fn number(&mut self, kind: u8, number: usize) {
        self.bytes.push(kind);
        self.bytes
            .extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub fn add(&mut self, command: &Cmd) {
        self.commands += 1;
        command.write_packed_command(&mut self.bytes);
    }

    /// The number of its replies.
    pub fn commands(&self) -> usize {
        self.commands
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl From<&Pipeline> for Request {
    fn from(pipeline: &Pipeline) -> Self {
        Self {
            bytes: pipeline.get_packed_pipeline(),
            commands: pipeline.len(),
        }
    }
}

/// The most bytes of a reply. A string has 512 MiB at most, unless the server is told
/// otherwise.
const MOST_BYTES: usize = 1024 * 1024 * 1024;

/// The input is no reply that can be read, and why.
#[derive(Debug)]
pub struct Malformed(pub &'static str);

const OTHER_PROTOCOL: Malformed = Malformed("the server does not speak the Redis protocol");
const TOO_LARGE: Malformed = Malformed("the server's reply has more than 1 GiB");

/// Finds the ends of replies in input that comes in pieces.
#[derive(Default)]
pub struct Scan {
    at: usize,
    /// For each unfinished array, how many values are still to come.
    open: Vec<usize>,
}

impl Scan {
    /// Continues to the end of a reply; whether it has come. The bytes are
    /// those of the last call, and more.
    pub fn reply(&mut self, bytes: &[u8]) -> Result<bool, Malformed> {
        loop {
            let Some((kind, line, next)) = head(bytes, self.at) else {
                return incomplete(bytes.len());
            };
            let mut open = None;
            match kind {
                b'+' | b'-' => self.at = next,
                b':' => {
                    number(line)?;
                    self.at = next;
                }
                b'$' => {
                    let end = match number(line)? {
                        ..0 => next,
                        length => usize::try_from(length).map_err(|_| TOO_LARGE)?.saturating_add(next + 2),
                    };
                    if end > bytes.len() {
                        return incomplete(end);
                    }
                    self.at = end;
                }
                b'*' => {
                    self.at = next;
                    open = usize::try_from(number(line)?).ok().filter(|length| *length > 0);
                }
                _ => return Err(OTHER_PROTOCOL),
            }
            if let Some(length) = open {
                if self.open.len() == DEEPEST {
                    return Err(OTHER_PROTOCOL);
                }
                self.open.push(length);
                continue;
            }
            // The last value of an array ends the array too.
            loop {
                match self.open.last_mut() {
                    None => return Ok(true),
                    Some(1) => drop(self.open.pop()),
                    Some(left) => {
                        *left -= 1;
                        break;
                    }
                }
            }
        }
    }

    /// The length in bytes of the replies found so far.
    pub fn found(&self) -> usize {
        self.at
    }

    /// Starts again behind the replies found so far.
    pub fn restart(&mut self) {
        self.at = 0;
    }
}

/// Complete replies, as [`Scan`] has found them.
#[derive(Debug)]
pub struct Replies {
    bytes: Bytes,
    at: usize,
}

impl Replies {
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Iterator for Replies {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        value(&self.bytes, &mut self.at)
    }
}

fn value(bytes: &[u8], at: &mut usize) -> Option<Value> {
    let start = *at;
    let (kind, line, next) = head(bytes, start)?;
    *at = next;
    match kind {
        b'+' if line == b"OK" => Some(Value::Okay),
        b':' => Some(Value::Int(number(line).ok()?)),
        b'$' => {
            let Ok(length) = usize::try_from(number(line).ok()?) else {
                return Some(Value::Nil);
            };
            *at = next + length + 2;
            Some(Value::BulkString(bytes.get(next..next + length)?.to_vec()))
        }
        b'*' => {
            let Ok(length) = usize::try_from(number(line).ok()?) else {
                return Some(Value::Nil);
            };
            (0..length)
                .map(|_| value(bytes, at))
                .collect::<Option<_>>()
                .map(Value::Array)
        }
        // Errors may quote any bytes.
        _ => parse_redis_value(String::from_utf8_lossy(&bytes[start..next]).as_bytes()).ok(),
    }
}

/// The first byte of a value, the rest of that line, and where the next begins.
fn head(bytes: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let (kind, rest) = bytes.get(at..)?.split_first()?;
    let length = rest.iter().position(|byte| *byte == b'\r')?;
    // The next byte is the line feed.
    (rest.len() > length + 1).then(|| (*kind, &rest[..length], at + length + 3))
}

/// A reply that will have this many bytes at least.
fn incomplete(bytes: usize) -> Result<bool, Malformed> {
    if bytes > MOST_BYTES { Err(TOO_LARGE) } else { Ok(false) }
}

fn number(line: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.parse().ok())
        .ok_or(OTHER_PROTOCOL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::pipe;

    const TEXT: &[u8] = b"+OK\r\n:-7\r\n$-1\r\n$3\r\na\r\n\r\n-ERR no\r\n+PONG\r\n*0\r\n*-1\r\n\
        *3\r\n$1\r\nx\r\n*2\r\n:1\r\n*0\r\n*1\r\n$0\r\n\r\n-WRONGTYPE x y\r\n";

    /// The redis crate's parser is the reference.
    #[test]
    fn replies_are_read_as_the_crate_reads_them() {
        let mut rest = TEXT;
        let mut parser = redis::Parser::new();
        let expected: Vec<Value> = std::iter::from_fn(|| parser.parse_value(&mut rest).ok()).collect();
        assert_eq!(expected.len(), 10);
        assert_eq!(Replies::new(TEXT.into()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn errors_may_quote_anything() {
        let Some(Value::ServerError(error)) = Replies::new(b"-ERR no \xff\r\n"[..].into()).next() else {
            panic!("it is no error");
        };
        assert_eq!(error.code(), "ERR");
    }

    #[test]
    fn ends_are_found_in_pieces_of_any_size() {
        for size in 1..TEXT.len() {
            let mut scan = Scan::default();
            let mut ends = Vec::new();
            let mut have = 0;
            while have < TEXT.len() {
                have = (have + size).min(TEXT.len());
                while scan.reply(&TEXT[..have]).unwrap() {
                    ends.push(scan.found());
                }
            }
            assert_eq!(ends.len(), 10, "{size}");
            assert_eq!(ends.last(), Some(&TEXT.len()));
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for text in [
            &b"HTTP/1.1 400\r\n"[..],
            b":x\r\n",
            b"$x\r\n",
            b"*\r\n",
            b"$99999999999999999999\r\n",
            b"$8000000000\r\n",
            b"*2\r\n$1\r\na\r\n$1073741824\r\n",
        ] {
            assert!(Scan::default().reply(text).is_err(), "{}", text.escape_ascii());
        }
        assert!(Scan::default().reply(&b"*1\r\n".repeat(9)).is_err());
    }

    #[test]
    fn commands_are_written_as_the_crate_writes_them() {
        let mut ours = Request::default();
        ours.command("SET", 2).argument(b"k").argument(&[b'x'; 1000]);
        ours.command("GET", 1).argument(b"");
        let mut theirs = pipe();
        theirs.cmd("SET").arg("k").arg(&[b'x'; 1000]).cmd("GET").arg("");
        assert_eq!(ours.commands(), 2);
        assert_eq!(ours.into_bytes(), theirs.get_packed_pipeline());
    }
}
