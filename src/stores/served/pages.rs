//! Lists: keyset pages, one request ahead of the consumer. A request is a
//! statement of its own, so a slow consumer holds nothing open on the server.

use super::Message;
use super::attempt::{Attempts, Limits, Next};
use super::engine::{Cursor, Engine, Lost, Row, Rows};
use crate::kv::{Error, Page, PageLimits, Pages, Prefix, Result};
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// The first request asks for few entries, to learn how large values are.
const FIRST: u32 = 64;

/// Later requests ask for several pages at once, as long as values are small, and
/// each for twice as many entries as the one before it at most.
const PAGES: u32 = 8;

/// A request that takes longer than one part in so many of the time is followed by
/// one of the same size. If it is cancelled, or fails because there is too much, it is
/// repeated with fewer entries.
const LONG: u32 = 8;
const TOO_LONG: u32 = 4;
const FEWER: u32 = 8;

pub struct ServedPages<E: Engine> {
    worker: UnboundedSender<Message>,
    limits: PageLimits,
    /// Taken by the first request.
    reader: Option<Reader<E>>,
    reading: Option<Reading<E>>,
    /// Read, but not in a page yet.
    ready: VecDeque<Row>,
}

/// A request that is under way. Dropping it ends it.
struct Reading<E: Engine>(JoinHandle<Result<Read<E>>>);

/// Rows, and the reader for more.
type Read<E> = (Vec<Row>, Option<Reader<E>>);

impl<E: Engine> Drop for Reading<E> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<E: Engine> ServedPages<E> {
    pub fn new(engine: Arc<E>, worker: UnboundedSender<Message>, prefix: Prefix, limits: PageLimits) -> Self {
        Self {
            worker,
            limits,
            reader: Some(Reader {
                engine,
                prefix,
                limits,
                walk: E::Walk::default(),
                after: None,
                next: FIRST.min(limits.entries),
            }),
            reading: None,
            ready: VecDeque::new(),
        }
    }

    async fn page(&mut self) -> Result<Page> {
        if let Some(reader) = self.reader.take() {
            self.writes_before_this(reader.prefix.clone()).await?;
            self.reading = Some(reader.start());
        }
        let mut page = Page::default();
        loop {
            while let Some(row) = self.ready.pop_front() {
                page.push_unchecked(row.key.as_deref(), row.value.as_deref());
                if page.is_full(self.limits) {
                    return Ok(page);
                }
            }
            let Some(Reading(task)) = &mut self.reading else {
                return Ok(page.end());
            };
            // A short page now is better than a full one later.
            if page.entries() > 0 {
                return Ok(page);
            }
            let result = task
                .await
                .unwrap_or_else(|_| Err(Error::Backend("internal error in a list".into())));
            let (rows, reader) = result?;
            self.ready.extend(rows);
            self.reading = reader.map(Reader::start);
        }
    }

    /// Waits for the writes that were called before this list.
    async fn writes_before_this(&self, prefix: Prefix) -> Result<()> {
        let (sender, done) = oneshot::channel();
        let _ = self.worker.send(Message::List(prefix, sender));
        done.await.map_err(|_| Error::Closed)
    }
}

impl<E: Engine> Pages for ServedPages<E> {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.page())
    }
}

/// Reads the next rows.
struct Reader<E: Engine> {
    engine: Arc<E>,
    prefix: Prefix,
    limits: PageLimits,
    walk: E::Walk,
    after: Option<Cursor>,
    /// The number of entries that the next request looks at.
    next: u32,
}

impl<E: Engine> Reader<E> {
    fn start(self) -> Reading<E> {
        Reading(tokio::spawn(self.read()))
    }

    /// The next entries, and the reader for more.
    async fn read(mut self) -> Result<Read<E>> {
        let limit = self.engine.query_timeout();
        let deadline = Instant::now() + limit;
        let mut attempts = Attempts::default();
        loop {
            let begin = Instant::now();
            let limits = match self.next {
                1 => Limits::until(deadline),
                _ => Limits::share(deadline, TOO_LONG),
            };
            let read = self
                .engine
                .read(&self.walk, &self.prefix, self.after.as_ref(), self.next, limits);
            let lost = match read.await {
                Ok(rows) => return Ok(self.after(rows, begin.elapsed() * LONG > limit)),
                Err(lost) => lost,
            };
            if matches!(lost, Lost::Undone(_)) {
                self.next = (self.next / FEWER).max(1);
            }
            match attempts.fail(lost, true) {
                Next::Repeat(_) if Instant::now() < deadline => sleep(attempts.pause()).await,
                Next::Repeat(error) | Next::Reject(error) => return Err(error),
            }
        }
    }

    /// The rows of a request, and the reader for the next one.
    fn after(mut self, Rows { rows, next }: Rows, long: bool) -> Read<E> {
        let Some(next) = next else {
            return (rows, None);
        };
        self.after = Some(next);
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let bytes: usize = rows.iter().map(|row| length(&row.key) + length(&row.value)).sum();
        let average = bytes / rows.len().max(1) + 1;
        let pages = PAGES as usize * self.limits.bytes / average;
        let most = (PAGES * self.limits.entries).min(if long { self.next } else { self.next * 2 });
        self.next = u32::try_from(pages).unwrap_or(most).clamp(1, most);
        (rows, Some(self))
    }
}
