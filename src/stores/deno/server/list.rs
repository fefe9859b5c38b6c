//! Lists read range after range. Each continues after the last key of the previous
//! one.

use super::super::key::{after, range};
use super::super::remote::MOST_ENTRIES;
use super::super::row::{Row, add_to_page};
use super::Message;
use crate::kv::{Error, Page, PageLimits, Pages, Prefix, Result};
use crate::stores::database::queue::{Queued, Work};
use crate::stores::pending_writes::PendingWrites;
use futures::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

pub struct ServerPages {
    worker: UnboundedSender<Message>,
    pending: Arc<PendingWrites>,
    limits: PageLimits,
    /// The rest of the list, or why there is none.
    range: Result<(Vec<u8>, Vec<u8>)>,
    begun: bool,
    /// What the server sent and is not in a page yet, and whether it has more.
    ready: VecDeque<(Vec<u8>, Row)>,
    more: bool,
}

impl ServerPages {
    pub fn new(
        worker: UnboundedSender<Message>,
        pending: Arc<PendingWrites>,
        prefix: &Prefix,
        limits: PageLimits,
    ) -> Self {
        Self {
            worker,
            pending,
            limits,
            range: range(prefix),
            begun: false,
            ready: VecDeque::new(),
            more: false,
        }
    }

    async fn page(&mut self) -> Result<Page> {
        let (start, end) = self.range.clone()?;
        if !self.begun {
            self.begun = true;
            self.writes_before_this().await?;
        }
        if self.ready.is_empty() {
            let (sender, rows) = oneshot::channel();
            let limit = self.limits.entries.min(MOST_ENTRIES);
            // If the worker has ended, the receiver below fails.
            drop(self.worker.send(Message::Range(start, end, limit, sender)));
            self.ready = rows.await.unwrap_or(Err(Error::Closed))?.into();
            self.more = self.ready.len() == limit as usize;
        }
        let mut page = Page::default();
        let mut last = None;
        while !page.is_full(self.limits)
            && let Some((key, row)) = self.ready.pop_front()
        {
            add_to_page(&mut page, &key, &row);
            last = Some(key);
        }
        let more = self.more || !self.ready.is_empty();
        match (last.filter(|_| more), &mut self.range) {
            (Some(last), Ok((start, _))) => {
                *start = after(&last);
                Ok(page)
            }
            _ => Ok(page.end()),
        }
    }

    /// Waits until the server is reached and earlier writes are done.
    async fn writes_before_this(&self) -> Result<()> {
        let (sender, ready) = oneshot::channel();
        let queued = Queued::new(Work::Ready(sender), &self.pending);
        // If the worker has ended, the receiver below fails.
        drop(self.worker.send(Message::Work(queued)));
        ready.await.unwrap_or(Err(Error::Closed))
    }
}

impl Pages for ServerPages {
    fn next_page(&mut self) -> BoxFuture<'_, Result<Page>> {
        Box::pin(self.page())
    }
}
